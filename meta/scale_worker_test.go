package meta_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// With these set the test binary is the process whose memory TestScale measures.
const (
	scaleDirEnv   = "CMKFS_SCALE_DIR"   // an empty folder for the volume
	scaleStepsEnv = "CMKFS_SCALE_STEPS" // numbers of files to stop at, separated by commas
	scaleOneEnv   = "CMKFS_SCALE_ONE"   // set: all files in one directory
)

// scaleHeader names the columns that a scale worker prints. The cost of operations
// is the processor time of the whole process, in microseconds for each: what the
// background does for them is in it, what others do on the machine is not. wall and
// p999 are how long a create took, the mean and of one in a thousand. Memory is in
// MiB, peak the highest resident so far.
const scaleHeader = "files,create,lookup,rewrite,rename,unlink,readdir,wall,p999,open_ms,index_mib,anon,file,peak"

// scaleSample is how many files the operations other than create are tried on.
const scaleSample = 5000

// scaleDirFiles is how many files a directory has unless all are in one.
const scaleDirFiles = 1000

// scaled is a volume that files are added to.
type scaled struct {
	cfg   meta.Config
	v     *meta.Volume
	rng   *rand.Rand
	one   bool
	dirs  []uint64
	files int
	peak  int // MiB, of resident memory, the highest seen
}

// scaleWorker fills a volume to each number of files, and measures there.
func scaleWorker(dir, steps string, one bool) error {
	debug.SetMemoryLimit(meta.HeapLimit)
	debug.SetGCPercent(meta.GCPercent)
	st, err := store.OpenDir(dir)
	if err != nil {
		return err
	}
	s := &scaled{cfg: meta.Config{Store: st, Key: crypto.NewKey()}, rng: rand.New(rand.NewPCG(1, 2)), one: one}
	if err := meta.Create(context.Background(), s.cfg, meta.Params{Commitment: crypto.Commit(s.cfg.Key, s.cfg.VolumeID[:])}); err != nil {
		return err
	}
	if s.v, err = meta.Open(context.Background(), s.cfg); err != nil {
		return err
	}
	for text := range strings.SplitSeq(steps, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		line, err := s.step(n)
		if err != nil {
			return err
		}
		fmt.Println(line)
	}
	return s.v.Close(context.Background())
}

// step adds files until there are n, measures, and returns a line of figures.
func (s *scaled) step(n int) (string, error) {
	times := make([]time.Duration, 0, 1<<18)
	var sum, cpu time.Duration
	first := s.files + (n-s.files)/2 // the second half counts
	count := 0
	for s.files < n {
		if s.files == first {
			cpu = processorTime()
		}
		t := time.Now()
		if err := s.create(); err != nil {
			return "", err
		}
		if s.files > first {
			took := time.Since(t)
			sum, count = sum+took, count+1
			if len(times) < cap(times) {
				times = append(times, took)
			}
		}
	}
	if err := s.v.Checkpoint(); err != nil {
		return "", err
	}
	cpu = processorTime() - cpu
	slices.Sort(times)
	micros := func(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(max(1, n)) }
	out := []string{strconv.Itoa(n), fmt.Sprintf("%.1f", micros(cpu, count))}
	for _, do := range []func(i int) error{s.lookup, s.rewrite, s.rename, s.unlink} {
		sample := s.rng.Perm(min(n, 50*scaleSample))[:min(n, scaleSample)]
		t := processorTime()
		for _, i := range sample {
			if n > 50*scaleSample {
				i = s.rng.IntN(n)
			}
			if err := do(i); err != nil {
				return "", err
			}
		}
		if err := s.v.Checkpoint(); err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf("%.1f", micros(processorTime()-t, len(sample))))
	}
	began := processorTime()
	seen := 0
	for _, dir := range s.dirs[max(0, len(s.dirs)-1000):] {
		if err := s.v.ReadDir(dir, 0, func(meta.DirEntry) bool { seen++; return true }); err != nil {
			return "", err
		}
	}
	out = append(out, fmt.Sprintf("%.2f", micros(processorTime()-began, seen)),
		fmt.Sprintf("%.1f", micros(sum, count)), fmt.Sprintf("%.0f", micros(times[len(times)*999/1000], 1)))
	memory := residentMiB()
	s.peak = max(s.peak, memory["VmHWM"])
	if err := s.v.Close(context.Background()); err != nil {
		return "", err
	}
	var err error
	t := time.Now()
	if s.v, err = meta.Open(context.Background(), s.cfg); err != nil {
		return "", err
	}
	out = append(out, fmt.Sprint(time.Since(t).Milliseconds()))
	info, err := os.Stat(s.cfg.Store.Path("index.db"))
	if err != nil {
		return "", err
	}
	out = append(out, fmt.Sprint(info.Size()>>20), fmt.Sprint(memory["RssAnon"]), fmt.Sprint(memory["RssFile"]), fmt.Sprint(s.peak))
	return strings.Join(out, ","), nil
}

func (s *scaled) dir(i int) uint64 {
	if s.one {
		return s.dirs[0]
	}
	return s.dirs[i/scaleDirFiles]
}

func scaleName(i int) string { return fmt.Sprintf("file-%08d", i) }

// create makes a file, one in ten with some content.
func (s *scaled) create() error {
	if i := s.files; len(s.dirs) == 0 || !s.one && i%scaleDirFiles == 0 {
		a, err := s.v.Mkdir(meta.Caller{}, meta.RootIno, fmt.Sprintf("dir-%06d", len(s.dirs)), 0o755)
		if err != nil {
			return err
		}
		s.dirs = append(s.dirs, a.Ino)
	}
	a, err := s.v.Mknod(meta.Caller{}, s.dir(s.files), scaleName(s.files), unix.S_IFREG|0o644, 0)
	if err != nil {
		return err
	}
	if s.files++; s.files%10 != 0 {
		return nil
	}
	_, err = s.v.Write(meta.Caller{}, a.Ino, []byte("some content of a small file"), 0)
	return err
}

func (s *scaled) lookup(i int) error {
	_, err := s.v.Lookup(s.dir(i), scaleName(i))
	return err
}

func (s *scaled) rewrite(i int) error {
	a, err := s.v.Lookup(s.dir(i), scaleName(i))
	if err == nil {
		_, err = s.v.Write(meta.Caller{}, a.Ino, []byte("other content"), 0)
	}
	return err
}

// rename moves a name away and back.
func (s *scaled) rename(i int) error {
	err := s.v.Rename(meta.Caller{}, s.dir(i), scaleName(i), meta.RootIno, "elsewhere", 0)
	if err == nil {
		err = s.v.Rename(meta.Caller{}, meta.RootIno, "elsewhere", s.dir(i), scaleName(i), 0)
	}
	return err
}

// unlink removes a file and makes it anew.
func (s *scaled) unlink(i int) error {
	a, err := s.v.Lookup(s.dir(i), scaleName(i))
	if err == nil {
		err = s.v.Unlink(meta.Caller{}, s.dir(i), scaleName(i))
	}
	if err == nil {
		_, err = s.v.TryForget(a.Ino)
	}
	if err == nil {
		_, err = s.v.Mknod(meta.Caller{}, s.dir(i), scaleName(i), unix.S_IFREG|0o644, 0)
	}
	return err
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMiB reads what the kernel says of this process's memory.
func residentMiB() map[string]int {
	found := map[string]int{}
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return found
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		var kib int
		if n, _ := fmt.Sscanf(rest, "%d kB", &kib); n == 1 {
			found[name] = kib >> 10
		}
	}
	return found
}
