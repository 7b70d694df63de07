package meta

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// cacheBytes bounds the opened values of the index that are kept, with
	// entryOverhead for each.
	cacheBytes    = 32 << 20
	entryOverhead = 160
	cacheShards   = 16
)

// cache keeps opened values of the index: opening one costs more than finding
// it. A key that an overlay has is never looked up here, so what a checkpoint
// replaces must be dropped after its commit, before its overlay goes.
type cache struct {
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	sync.Mutex
	lru   *simplelru.LRU[key, []byte]
	bytes int
}

func newCache() *cache {
	c := &cache{}
	for i := range c.shards {
		s := &c.shards[i]
		// The number of entries is no limit of its own: their bytes are.
		s.lru, _ = simplelru.NewLRU(cacheBytes/cacheShards/entryOverhead, func(_ key, val []byte) {
			s.bytes -= len(val) + entryOverhead
		})
	}
	return c
}

func (c *cache) shard(k key) *cacheShard {
	return &c.shards[(k.a*31+k.b*7+uint64(k.t))%cacheShards]
}

// get returns a value that must not be modified; nil for a key known to have
// none.
func (c *cache) get(k key) (val []byte, ok bool) {
	s := c.shard(k)
	s.Lock()
	defer s.Unlock()
	return s.lru.Get(k)
}

func (c *cache) put(k key, val []byte) {
	s := c.shard(k)
	s.Lock()
	defer s.Unlock()
	if s.lru.Contains(k) {
		return // another reader was faster, with the same value
	}
	s.bytes += len(val) + entryOverhead
	s.lru.Add(k, val)
	for s.bytes > cacheBytes/cacheShards {
		s.lru.RemoveOldest()
	}
}

// drop forgets the keys of an overlay.
func (c *cache) drop(o *overlay) {
	o.tree.Scan(func(it item) bool {
		c.remove(it.key)
		return true
	})
}

func (c *cache) remove(k key) {
	s := c.shard(k)
	s.Lock()
	defer s.Unlock()
	s.lru.Remove(k)
}
