package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/internal/race"
	"cmkfs/meta"
	"cmkfs/store"
)

// TestCampaign_Corruption damages volumes in every way a disk, an operator or
// an attacker without the key could, one way each time: whatever is read
// afterwards is what was written, or an error that names the file. No case may
// crash, or hang. CMKFS_CORRUPTION_CASES says how many to try, a tenth if the race
// detector is built in, CMKFS_CORRUPTION_SEED where to begin.
func TestCampaign_Corruption(t *testing.T) {
	cases := 2000
	if race.Detector {
		cases /= 10
	}
	if s := os.Getenv("CMKFS_CORRUPTION_CASES"); s != "" {
		cases = must[int](t)(strconv.Atoi(s))
	}
	seed, _ := strconv.ParseUint(os.Getenv("CMKFS_CORRUPTION_SEED"), 10, 64)
	c := &campaign{volumes: []*victim{newVictim(t, 1, true), newVictim(t, 2, false)}}
	numbers := make(chan uint64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	tally := map[string]int{}
	for range runtime.GOMAXPROCS(0) {
		dir := filepath.Join(shm(t), "volume")
		wg.Go(func() {
			for n := range numbers {
				what, outcome, err := c.try(dir, n)
				mu.Lock()
				tally[outcome]++
				mu.Unlock()
				if err != nil {
					t.Errorf("case %d: %s: %v", n, what, err)
				}
			}
		})
	}
	numbers <- 2301 // the number of a missing segment was given again
	for n := range uint64(cases) {
		if t.Failed() {
			break
		}
		numbers <- seed + n
	}
	close(numbers)
	wg.Wait()
	t.Logf("%d cases: %v", cases, tally)
	for _, outcome := range []string{"refused", "reported", "harmless"} {
		if tally[outcome] == 0 && cases >= 1000 {
			t.Errorf("no case was %s", outcome)
		}
	}
}

// campaign holds the volumes that cases are made of.
type campaign struct{ volumes []*victim }

// try makes case n in dir and says what it was and how it ended.
func (c *campaign) try(dir string, n uint64) (what, outcome string, err error) {
	rnd := rand.New(rand.NewPCG(n, 9))
	v := c.volumes[rnd.IntN(len(c.volumes))]
	other := c.volumes[0]
	if other == v {
		other = c.volumes[1]
	}
	files := v.copy()
	what = v.damage(rnd, files, other)
	watchdog := time.AfterFunc(2*time.Minute, func() {
		panic(fmt.Sprintf("case %d: %s: it hangs", n, what))
	})
	defer watchdog.Stop()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it crashes: %v", r)
		}
	}()
	if err := files.write(dir); err != nil {
		return what, "", err
	}
	outcome, err = v.examine(dir)
	return what, outcome, err
}

// examine reads everything of a damaged volume, checks it, writes to it, and
// reads again.
func (d *victim) examine(dir string) (outcome string, err error) {
	st, err := store.OpenDir(dir)
	if err != nil {
		return "", err
	}
	defer st.Close()
	cfg := d.cfg
	cfg.Store = st
	findings, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})
	if err != nil && !isReport(err) {
		return "", fmt.Errorf("check: %w", err)
	}
	found := err != nil || len(findings) > 0
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		if !isReport(err) {
			return "", fmt.Errorf("open: %w", err)
		}
		if !found {
			return "", fmt.Errorf("it does not open, and the check finds nothing: %w", err)
		}
		return "refused", nil
	}
	reported, err := compareTree(v, d.tree)
	if err == nil {
		err = useDamaged(v)
	}
	if err != nil {
		v.Abandon()
		return "", err
	}
	if reported > 0 && !found {
		v.Abandon()
		return "", fmt.Errorf("%d reads fail, and the check finds nothing", reported)
	}
	if err := v.Close(context.Background()); err != nil && !errors.Is(err, meta.ErrFailed) {
		return "", fmt.Errorf("close: %w", err)
	}
	cfg.Newest = nil // it is further now
	if v, err = meta.Open(context.Background(), cfg); err != nil {
		return "", fmt.Errorf("open again: %w", err)
	}
	again, err := compareTree(v, d.tree)
	if err == nil && again != reported {
		err = fmt.Errorf("%d reads fail instead of %d", again, reported)
	}
	if err := errors.Join(err, v.Abandon()); err != nil {
		return "", fmt.Errorf("opened again: %w", err)
	}
	if reported > 0 {
		return "reported", nil
	}
	return "harmless", nil
}

// useDamaged writes to a volume, which may report damage but nothing else.
func useDamaged(v *meta.Volume) error {
	a, err := v.Mknod(meta.Caller{}, meta.RootIno, "new", unix.S_IFREG|0o600, 0)
	if err == nil {
		_, err = v.Write(meta.Caller{}, a.Ino, content(99, 70_000), 0)
	}
	if err == nil {
		if err = v.Sync(context.Background()); err == nil {
			err = v.Unlink(meta.Caller{}, meta.RootIno, "new")
		}
	}
	if err != nil && !isReport(err) {
		return fmt.Errorf("use: %w", err)
	}
	return nil
}

// isReport says that an error tells of damage, and where it is.
func isReport(err error) bool {
	var corrupt *meta.CorruptError
	var older *meta.OlderError
	var version *meta.VersionError
	switch {
	case errors.As(err, &corrupt):
		return corrupt.Where != "" && corrupt.Err != nil
	case errors.As(err, &older), errors.As(err, &version):
		return true
	}
	return errors.Is(err, meta.ErrNoVolume) || errors.Is(err, meta.ErrWrongKey) || errors.Is(err, os.ErrNotExist) || errors.Is(err, store.ErrNotExist)
}

// compareTree reads everything that should be there, and what should not. It
// returns how many reads ended in a report; a wrong result is an error.
func compareTree(v *meta.Volume, tree map[string]*treeNode) (reported int, err error) {
	inos := map[string]uint64{"": meta.RootIno}
	answer := func(what string, same bool, err error) error {
		switch {
		case err != nil && isReport(err):
			reported++
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case !same:
			return fmt.Errorf("%s: silently another", what)
		}
		return nil
	}
	for path, n := range tree {
		inos[path] = n.ino
	}
	for path, n := range tree {
		parent, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			parent, name = path[:i], path[i+1:]
		}
		a, err := v.Lookup(inos[parent], name)
		if err := answer("entry "+path, a == n.attr, err); err != nil {
			return 0, err
		}
		if a, err = v.GetAttr(n.ino); err != nil || a != n.attr {
			if err := answer("inode "+path, false, err); err != nil {
				return 0, err
			}
		}
		got, err := readNode(v, n.ino, n.attr)
		if err := answer("content of "+path, got == n.content, err); err != nil {
			return 0, err
		}
		names, err := v.ListXattr(n.ino)
		if err := answer("attributes of "+path, fmt.Sprint(names) == n.xattrs, err); err != nil {
			return 0, err
		}
	}
	for _, path := range []string{"nothing", "d1/nothing"} {
		dir, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, name = path[:i], path[i+1:]
		}
		_, err := v.Lookup(inos[dir], name)
		if errors.Is(err, meta.ErrNotFound) {
			continue
		}
		if err := answer("entry "+path, false, err); err != nil {
			return 0, err
		}
	}
	return reported, nil
}

// readNode returns what a node of any kind holds, as text.
func readNode(v *meta.Volume, ino uint64, a meta.Attr) (string, error) {
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		names, err := readDir(v, ino)
		return fmt.Sprint(names), err
	case unix.S_IFLNK:
		return v.Readlink(ino)
	}
	var out bytes.Buffer
	buf := make([]byte, 64<<10)
	for off := int64(0); off < int64(a.Size); {
		n, err := v.Read(ino, buf, off)
		if err != nil {
			return "", err
		}
		out.Write(buf[:n])
		off += int64(n)
	}
	return out.String(), nil
}
