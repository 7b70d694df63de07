package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cmkfs/crypto"
)

// Code numbers a kind of finding. Numbers are never reused.
type Code int

// The kinds of findings of Check.
const (
	FindSuperblock  Code = 1  // the superblock is missing or damaged
	FindIndex       Code = 2  // the index cannot be read
	FindJournal     Code = 3  // the journal is damaged: durable operations are missing
	FindPage        Code = 4  // a page of the index is not as it was written
	FindTags        Code = 5  // the tags of the index are missing or damaged
	FindOlder       Code = 6  // an older volume than the account has seen
	FindValue       Code = 10 // a value of the index is damaged
	FindSetHash     Code = 11 // values of the index were removed, added or replaced by older ones
	FindNoInode     Code = 20 // a directory entry of no inode
	FindNoEntry     Code = 21 // an inode no directory entry leads to
	FindLinks       Code = 22 // a wrong link count
	FindEntries     Code = 23 // a wrong number of entries
	FindType        Code = 24 // an entry with another type than its inode
	FindHash        Code = 25 // an entry under a wrong hash
	FindParent      Code = 26 // a directory that names another parent
	FindUnreachable Code = 27 // a directory not below the root
	FindPages       Code = 30 // a wrong number of mapped pages
	FindBeyondEnd   Code = 31 // data mapped behind the end of a file
	FindInline      Code = 32 // a wrong number of small-data pages
	FindXattrs      Code = 33 // a wrong number of extended attributes
	FindSegment     Code = 40 // a block in a missing, damaged or too short segment
	FindReferences  Code = 41 // a wrong reference count of a block
	FindLive        Code = 42 // a wrong number of live pages of a segment
	FindOverlap     Code = 43 // two blocks in one place
	FindBlock       Code = 44 // a damaged data block (scrub)
	FindTotals      Code = 50 // wrong totals of the volume
	FindNumber      Code = 51 // an inode or segment number that is still to be given
)

// Finding is one thing wrong with a volume.
type Finding struct {
	Code  Code   `json:"code"`
	Where string `json:"where"` // never a user's file name
	What  string `json:"what"`
}

func (f Finding) String() string { return fmt.Sprintf("[%d] %s: %s", f.Code, f.Where, f.What) }

// CheckOptions chooses what Check looks at.
type CheckOptions struct {
	Scrub    bool                    // decrypt every block
	Progress func(done, total int64) // told now and then: pages scrubbed; nil = nobody
}

// Check examines a volume that is not open: every value of the index, that they
// agree with each other and with the segments, and with Scrub every block. It
// replays the journal in memory and writes nothing. The error says that it
// could not look, not what it found.
func Check(ctx context.Context, cfg Config, opt CheckOptions) ([]Finding, error) {
	lock, err := cfg.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	v, err := open(cfg)
	if err != nil {
		return openFinding(err)
	}
	c := newChecker(ctx, v, opt)
	var older *OlderError
	if errors.As(v.compare(cfg.Newest), &older) {
		c.found(FindOlder, "volume", "%v", older)
	}
	err = c.run()
	return c.findings, errors.Join(err, v.closeFiles())
}

// openFinding turns damage that keeps a volume from opening into a finding.
func openFinding(err error) ([]Finding, error) {
	var corrupt *CorruptError
	if errors.Is(err, ErrNoVolume) {
		return []Finding{{FindSuperblock, superblockName, err.Error()}}, nil
	}
	var damaged *damagedPages
	if errors.As(err, &damaged) {
		var found []Finding
		for _, page := range damaged.pages {
			found = append(found, Finding{FindPage, fmt.Sprintf("%s page %d", indexName, page), crypto.ErrAuth.Error()})
		}
		return found, nil
	}
	if !errors.As(err, &corrupt) {
		return nil, err
	}
	code := FindIndex
	switch {
	case corrupt.Where == superblockName:
		code = FindSuperblock
	case strings.HasPrefix(corrupt.Where, tagsName):
		code = FindTags
	case strings.HasPrefix(corrupt.Where, journalDir):
		code = FindJournal
	}
	return []Finding{{code, corrupt.Where, corrupt.Err.Error()}}, nil
}

// checker collects what the tables say of each inode and block.
type checker struct {
	ctx      context.Context
	v        *Volume
	opt      CheckOptions
	findings []Finding

	inodes map[uint64]*checkedInode
	blocks map[block]*checkedBlock
	shared map[block]uint64 // extra references according to tableShared
}

func newChecker(ctx context.Context, v *Volume, opt CheckOptions) *checker {
	return &checker{ctx: ctx, v: v, opt: opt, inodes: make(map[uint64]*checkedInode), blocks: make(map[block]*checkedBlock), shared: make(map[block]uint64)}
}

// checkedInode is an inode and what was counted of it.
type checkedInode struct {
	mode, nlink           uint32
	size, pages, entries  uint64
	parent                uint64
	inline, xattrs        uint32
	orphan                bool
	names, subdirs        uint32 // entries that lead here; directories among a directory's entries
	gotEntries, gotPages  uint64
	gotInline, gotXattrs  uint32
	inlinePages           map[uint64]struct{}
	namedBy               uint64 // a directory: where its entry is
	end                   uint64 // of data that lies behind its size, 0 = none
	reachable, reachKnown bool
}

type checkedBlock struct {
	ptr  pointer // one of those that refer to it
	refs uint64
}

func (c *checker) found(code Code, where, format string, args ...any) {
	c.findings = append(c.findings, Finding{code, where, fmt.Sprintf(format, args...)})
}

func (c *checker) run() error {
	steps := []func() error{c.setHash, c.readInodes, c.readDirents, c.readXattrs, c.readPages, c.readRegions, c.readShared, c.readOrphans}
	for _, step := range steps {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		var corrupt *CorruptError
		if err := step(); errors.As(err, &corrupt) {
			c.found(FindIndex, corrupt.Where, "%v", corrupt.Err)
		} else if err != nil {
			return err
		}
	}
	c.compareInodes()
	c.compareReach()
	c.compareBlocks()
	c.compareTotals()
	if c.opt.Scrub {
		return c.scrub()
	}
	return nil
}

// setHash recomputes the hash over the stored values of the index and opens
// each of them.
func (c *checker) setHash() error {
	var sum crypto.SetHash
	for t := tableInode; t <= tableMax; t++ {
		err := c.v.index.forEach(t, func(k key, sealed []byte) error {
			sum = sum.Add(c.v.index.element(k, sealed))
			if _, err := c.v.index.unseal(k, sealed); err != nil {
				c.found(FindValue, k.String(), "%v", crypto.ErrAuth)
			}
			return c.ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	if sum != c.v.committed.setHash {
		c.found(FindSetHash, indexName, "values were removed, added or replaced by older ones since checkpoint %d", c.v.committed.commits)
	}
	return nil
}

// table calls fn for every effective value of a table; a value that cannot be
// opened ends the walk of that table as a finding by its caller.
func (c *checker) table(t table, fn func(k key, val []byte) error) error {
	var failed error
	err := c.v.scanSpan(span{from: key{t: t}, table: true}, func(k key, val []byte) bool {
		if err := fn(k, val); err != nil {
			c.found(FindValue, k.String(), "%v", err)
		}
		failed = c.ctx.Err()
		return failed == nil
	})
	return errors.Join(failed, err)
}

func (c *checker) readInodes() error {
	return c.table(tableInode, func(k key, val []byte) error {
		n, err := unmarshalInode(k.a, val)
		if err != nil {
			return err
		}
		if n.ino >= c.v.nextIno {
			c.found(FindNumber, k.String(), "the number is still to be given")
		}
		c.inodes[n.ino] = &checkedInode{
			mode: n.mode, nlink: n.nlink, size: n.size, pages: n.pages, entries: n.entries, parent: n.parent, inline: n.inline, xattrs: n.xattrs,
		}
		return nil
	})
}

// progress reports at most ten times a second.
type progress struct {
	fn          func(done, total int64)
	done, total int64
	last        time.Time
}

func (p *progress) add(n int64) {
	p.done += n
	if p.fn != nil && (time.Since(p.last) > 100*time.Millisecond || p.done == p.total) {
		p.last = time.Now()
		p.fn(p.done, p.total)
	}
}
