// Stopping measures how long it takes until nothing of a volume can be reached
// any more once the denial of its key is confirmed, and until it can again after
// a restore: with nothing else going on, and with many cached inodes, open files
// and dirty pages.
//
// Usage: go run ./scripts/stopping [-inodes N] [-open N] [-v]   as root, after `make build`
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"cmkfs/scripts/internal/stage"
)

// bench is one run.
type bench struct {
	*stage.Stage
	mount        string
	inodes, open int
	rows         []row
}

// row is one suspension and restore.
type row struct {
	load              string
	detect            time.Duration // from the key's end to its confirmed denial
	stop, closed      time.Duration // from there to the last request that succeeded; to "suspended"
	restore           time.Duration // from asking to the first read that succeeded
	nodes, writes     string        // as the event says
	bytes, refusedWRs string
}

func main() {
	b := &bench{}
	flag.IntVar(&b.inodes, "inodes", 1_000_000, "how many cached inodes")
	flag.IntVar(&b.open, "open", 5000, "how many open files")
	verbose := flag.Bool("v", false, "print every command")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if b.Stage, err = stage.New(ctx, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "stopping:", err)
		os.Exit(1)
	}
	b.mount = b.Path("mnt")
	err = b.run()
	if err != nil {
		b.PrintLogs()
	}
	leftovers := b.Close()
	if err != nil || len(leftovers) > 0 {
		fmt.Fprintf(os.Stderr, "\nstopping FAILED: %v\nleft behind: %q\n", err, leftovers)
		os.Exit(1)
	}
	b.report()
}

func (b *bench) run() error {
	limit := syscall.Rlimit{Cur: uint64(b.open + 1000), Max: uint64(b.open + 1000)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	if err := os.Mkdir(b.mount, 0o755); err != nil {
		return err
	}
	key, err := b.MakeToken()
	if err != nil {
		return err
	}
	if _, err := b.Serve(); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"account", "create", "--name", "a"},
		{"account", "update", "--pkcs11-uri", key, "--check-interval", "500ms", "--check-interval-unhealthy", "200ms"},
		{"volume", "create", "--name", "v"},
		{"volume", "mount", "v", b.mount, "-o", "writeback"},
	} {
		if _, err := b.Cmkfs(args...); err != nil {
			return err
		}
	}
	for i := range 3 {
		if err := b.measure(fmt.Sprintf("nothing else (%d)", i+1), nil); err != nil {
			return err
		}
	}
	b.Say("making %d files", b.inodes)
	if err := b.makeFiles(); err != nil {
		return err
	}
	if err := b.measure("cached inodes", nil); err != nil {
		return err
	}
	files, err := b.openFiles()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := b.touch(); err != nil {
		return err
	}
	if err := b.measure("the same, and open files", nil); err != nil {
		return err
	}
	if err := b.touch(); err != nil {
		return err
	}
	if err := b.measure("the same, and dirty pages", b.dirty); err != nil {
		return err
	}
	for _, f := range files {
		f.Close()
	}
	files = nil
	_, err = b.Cmkfs("volume", "unmount", "v")
	return err
}

const perDir = 1000

func (b *bench) file(i int) string {
	return filepath.Join(b.mount, fmt.Sprintf("d%d", i/perDir), fmt.Sprintf("f%d", i%perDir))
}

// spread does something for every file, by several at a time.
func (b *bench) spread(n int, f func(i int) error) error {
	const hands = 4
	errs := make(chan error, hands)
	for h := range hands {
		go func() {
			var err error
			for i := h; i < n && err == nil && b.Ctx.Err() == nil; i += hands {
				err = f(i)
			}
			errs <- errors.Join(err, b.Ctx.Err())
		}()
	}
	var all error
	for range hands {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (b *bench) makeFiles() error {
	for d := 0; d <= (b.inodes-1)/perDir; d++ {
		if err := os.Mkdir(filepath.Join(b.mount, fmt.Sprintf("d%d", d)), 0o755); err != nil {
			return err
		}
	}
	return b.spread(b.inodes, func(i int) error { return os.WriteFile(b.file(i), nil, 0o600) })
}

// touch has the kernel know every inode and its attributes again.
func (b *bench) touch() error {
	return b.spread(b.inodes, func(i int) error {
		var st syscall.Stat_t
		return syscall.Stat(b.file(i), &st)
	})
}

func (b *bench) openFiles() (files []*os.File, err error) {
	for i := range min(b.open, b.inodes) {
		f, err := os.OpenFile(b.file(i), os.O_RDWR, 0)
		if err != nil {
			return files, err
		}
		files = append(files, f)
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return files, err
		}
	}
	return files, nil
}

// dirty writes as fast as the kernel takes it, over and over, until it is
// refused: the kernel has as many dirty pages as it allows all the time.
func (b *bench) dirty(stop <-chan struct{}) {
	f, err := os.Create(filepath.Join(b.mount, "dirty"))
	if err != nil {
		return
	}
	defer f.Close() // reports what was refused
	buf := make([]byte, 1<<20)
	for off := int64(0); ; off = (off + 1<<20) % (2 << 30) {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return
		}
	}
}

// event is what is read of a line of the audit log.
type event struct {
	Time   time.Time         `json:"time"`
	Kind   string            `json:"kind"`
	Detail map[string]string `json:"detail"`
}

// last returns the last event of a kind.
func (b *bench) last(kind string) (last event, err error) {
	out, err := b.Cmkfs("account", "events", "-o", "json", "--since", "10m")
	if err != nil {
		return last, err
	}
	for line := range strings.Lines(out) {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil && e.Kind == kind {
			last = e
		}
	}
	if last.Kind == "" {
		return last, fmt.Errorf("there is no event %s", kind)
	}
	return last, nil
}

// measure takes the key away and gives it back.
func (b *bench) measure(load string, work func(stop <-chan struct{})) error {
	p, err := startProbes(b.mount)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	if work != nil {
		wg.Go(func() { work(stop) })
		time.Sleep(3 * time.Second)
	}
	taken := time.Now()
	if err := b.SetToken("disable"); err != nil {
		return err
	}
	if err := b.AwaitAll(time.Minute, "suspended"); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	lastOK := p.lastSuccess()
	close(stop)
	wg.Wait()
	if err := b.SetToken("restore"); err != nil {
		return err
	}
	p.await()
	asked := time.Now()
	if _, err := b.Cmkfs("volume", "restore-access", "v"); err != nil {
		return err
	}
	first, err := p.firstRead()
	p.stop()
	if err != nil {
		return err
	}
	blocked, err := b.last("blocked")
	if err != nil {
		return err
	}
	offline, err := b.last("volOffline")
	if err != nil {
		return err
	}
	r := row{
		load: load, detect: blocked.Time.Sub(taken), stop: max(0, lastOK.Sub(blocked.Time)),
		closed: offline.Time.Sub(blocked.Time), restore: first.Sub(asked),
		nodes: offline.Detail["nodes"], writes: offline.Detail["writes"], bytes: offline.Detail["bytes"], refusedWRs: offline.Detail["refused"],
	}
	b.rows = append(b.rows, r)
	b.Say("%s: %s", load, r)
	return nil
}

func (r row) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("denied after %s; last success %s and suspended %s later; first read %s after the restore was asked for; nodes %s, writes %s, bytes %s, refused %s",
		ms(r.detect), ms(r.stop), ms(r.closed), ms(r.restore), r.nodes, r.writes, r.bytes, r.refusedWRs)
}

func (b *bench) report() {
	fmt.Println()
	for _, r := range b.rows {
		fmt.Printf("%-28s %s\n", r.load, r)
	}
}
