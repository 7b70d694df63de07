package meta

import (
	"sync"

	"go.etcd.io/bbolt"
)

// readers keeps bbolt read transactions open between lookups: beginning one
// costs as much as the lookup. An open one pins the pages of its state and
// keeps the file from being mapped anew, so none is kept over a commit.
type readers struct {
	db *bbolt.DB
	mu struct {
		sync.Mutex
		idle   []*reader
		state  uint64 // counts the commits
		closed bool   // a commit is under way, or the index is being closed
	}
}

// reader is a read transaction, for one goroutine at a time.
type reader struct {
	tx      *bbolt.Tx
	state   uint64
	buckets [tableMax + 1]*bbolt.Bucket
}

func (r *reader) bucket(t table) *bbolt.Bucket {
	if r.buckets[t] == nil {
		r.buckets[t] = r.tx.Bucket(bucketNames[t])
	}
	return r.buckets[t]
}

// view runs fn in a read transaction.
func (p *readers) view(fn func(*reader) error) (err error) {
	r, err := p.take()
	if err != nil {
		return err
	}
	whole := false
	defer func() { p.give(r, whole) }() // not kept after a panic on damaged pages
	err = fn(r)
	whole = true
	return err
}

func (p *readers) take() (*reader, error) {
	p.mu.Lock()
	if n := len(p.mu.idle); n > 0 {
		r := p.mu.idle[n-1]
		p.mu.idle = p.mu.idle[:n-1]
		p.mu.Unlock()
		return r, nil
	}
	r := &reader{state: p.mu.state}
	p.mu.Unlock()
	var err error
	r.tx, err = p.db.Begin(false)
	return r, err
}

func (p *readers) give(r *reader, whole bool) {
	p.mu.Lock()
	keep := whole && !p.mu.closed && r.state == p.mu.state
	if keep {
		p.mu.idle = append(p.mu.idle, r)
	}
	p.mu.Unlock()
	if !keep {
		_ = r.tx.Rollback() // of a transaction that only read
	}
}

// stop ends the idle transactions and keeps none until start.
func (p *readers) stop() {
	p.mu.Lock()
	idle := p.mu.idle
	p.mu.idle, p.mu.closed = nil, true
	p.mu.Unlock()
	for _, r := range idle {
		_ = r.tx.Rollback()
	}
}

// start keeps transactions again: those that begin from now on, which see what
// was committed.
func (p *readers) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.state++
	p.mu.closed = false
}
