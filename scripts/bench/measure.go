package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cmkfs/scripts/internal/stage"
)

// bench is one run.
type bench struct {
	*stage.Stage
	options  options
	results  *results
	disk     string                   // where all file systems keep what is theirs
	args     []string                 // of every fsbench
	ours     map[string]time.Duration // longest turn of cmkfs by group
	launched int                      // daemons so far, to name their logs
	leftOut  int                      // turns for which there was no time
}

// measure has all turns, in all repetitions.
func (b *bench) measure() error {
	err := b.prepare()
	defer b.unmountDisk()
	if err != nil {
		return err
	}
	o := b.options
	if o.keys {
		return b.measureKeys()
	}
	began := time.Now()
	b.ours = map[string]time.Duration{}
	for rep := range o.reps {
		for _, group := range o.groups {
			if !repeats(group, rep, o.reps, o.sides) {
				continue
			}
			for _, r := range order(o.rivals, rep, o.reps, o.sides) {
				if !takes(r, group) {
					continue
				}
				if err := b.Ctx.Err(); err != nil {
					return errors.New("interrupted")
				}
				if time.Since(began) > o.budget {
					b.leftOut++
					continue
				}
				b.Say("repetition %d of %d: %s on %s", rep+1, o.reps, group, r.name)
				if err := b.turn(r, group); err != nil {
					return fmt.Errorf("%s on %s: %w", group, r.name, err)
				}
			}
		}
	}
	return nil
}

// prepare makes the disk and what the workloads need.
func (b *bench) prepare() error {
	for _, program := range []string{floor, ceiling} {
		if _, err := b.Do("go", "build", "-o", b.Path(program), "./scripts/bench/"+program); err != nil {
			return err
		}
	}
	small := b.Path("smallfiles")
	if _, err := b.Do("go", "build", "-o", small, "./scripts/smallfiles"); err != nil {
		return err
	}
	goroot, err := b.Do("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	goroot = strings.TrimSpace(goroot)
	tarball, tar := b.Path("src.tar"), []string{"-C", goroot, "-cf", b.Path("src.tar"), "src"}
	if b.options.quick || b.options.keys {
		tar = []string{"-C", filepath.Join(goroot, "src"), "-cf", tarball, "net", "go", "crypto"}
		b.args = []string{"-s", "256", "-S", "128", "-t", "2", "-f", "3000", "-R", "400", "-L", "3", "-M", "2", "--alone", "0", "--large", "256"}
	} else {
		b.args = []string{"-t", "5", "-L", "12", "-M", "6"}
	}
	if _, err := b.Do("tar", tar...); err != nil {
		return err
	}
	b.args = append(b.args, "-r", "1", "--lock", b.Path("lock"), "--small", small, "-T", tarball)
	b.AddEnv("CRYFS_FRONTEND=noninteractive", "CRYFS_NO_UPDATE_CHECK=true", "XDG_DATA_HOME="+b.Path("xdg"))
	b.disk = b.Path("disk")
	image := b.Path("image")
	if err := os.Mkdir(b.disk, 0o755); err != nil {
		return err
	}
	// Of a loop device that mount sets up itself nothing is left after umount.
	for _, command := range [][]string{
		{"truncate", "-s", "16G", image},
		{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
		{"mount", "-o", "loop", image, b.disk},
	} {
		if _, err := b.Do(command[0], command[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// unmountDisk lets the disk go; what still holds it is found by Close.
func (b *bench) unmountDisk() {
	for range 10 {
		if b.disk == "" || !mounted(b.disk) || quick("umount", b.disk) == nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// turn is one group of workloads on one file system, made for it.
type turn struct {
	group      string
	dir, mount string
	watch      string // a file that checkpoints write
	lasting    bool   // the file system is used again
	daemon     *stage.Process
}

// turn has one turn. An error is about the bench itself; that a file system
// fails or takes too long is a result, unless it is cmkfs that fails.
func (b *bench) turn(r rival, group string) error {
	t := &turn{group: group, dir: filepath.Join(b.disk, r.name), mount: b.Path("mnt-" + r.name)}
	defer os.RemoveAll(t.dir)
	for _, dir := range []string{t.dir, t.mount} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	began := time.Now()
	failed := b.begin(r, t)
	var samples []sample
	if failed == "" {
		samples, failed = b.workloads(r, t, limit(r, b.ours[group], b.options.limit))
	}
	if r.name == cmkfs {
		b.ours[group] = max(b.ours[group], time.Since(began))
	}
	b.results.add(r.name, group, samples, failed)
	err := b.end(r, t)
	if failed != "" {
		b.Say("%s on %s: %s", group, r.name, failed)
		if r.name == cmkfs {
			b.PrintLogs()
		}
	}
	return errors.Join(err, b.save(samples))
}

// workloads runs fsbench, and returns what it measured and, in words for the
// table, why that is not all.
func (b *bench) workloads(r rival, t *turn, most time.Duration) ([]sample, string) {
	const cold = "sync; echo 3 > /proc/sys/vm/drop_caches"
	out := b.Path("samples.jsonl")
	os.Remove(out)
	args := append([]string{"-d", t.mount, "-l", r.name, "-o", out, "-w", strings.Join(strings.Split(t.group, ""), ",")}, b.args...)
	if !t.lasting {
		args = append(args, "--leave")
	}
	if t.daemon != nil {
		args = append(args, "--daemon", fmt.Sprint(t.daemon.PID()),
			"--warm", cold+"; find "+t.dir+" -type f -exec cat {} + > /dev/null")
	}
	if t.watch != "" {
		args = append(args, "--watch", t.watch)
	}
	if _, err := b.Do("bash", "-c", cold); err != nil {
		return nil, "failed"
	}
	log, err := os.Create(b.Path("fsbench.log"))
	if err != nil {
		return nil, "failed"
	}
	defer log.Close()
	cmd := exec.Command("scripts/fsbench", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := b.Start(cmd)
	if err != nil {
		return nil, "failed"
	}
	failed := b.await(p, most)
	if failed == "" && p.Stop() != 0 {
		failed = "failed"
		said, _ := os.ReadFile(log.Name())
		fmt.Fprintf(os.Stderr, "%s\n", said[max(0, len(said)-2000):])
	}
	samples, err := readSamples(out)
	if err != nil && failed == "" {
		failed = "failed"
	}
	return samples, failed
}

// await waits for a process's end and sees that it comes in time.
func (b *bench) await(p *stage.Process, most time.Duration) string {
	late := fmt.Sprintf(">%.0f s", most.Seconds())
	select {
	case <-p.Done():
		return ""
	case <-time.After(most):
	case <-b.Ctx.Done():
		late = "interrupted"
	}
	// Its children as well: what is measured until now is then written.
	syscall.Kill(-p.PID(), syscall.SIGTERM)
	select {
	case <-p.Done():
		return late
	case <-time.After(10 * time.Second):
	}
	b.KillAll()
	select {
	case <-p.Done():
		return late
	case <-time.After(time.Minute):
		return "failed" // it hangs in the kernel; whatever ends it ends later
	}
}

// save appends samples to the file the user wants.
func (b *bench) save(samples []sample) error {
	if b.options.keep == "" || len(samples) == 0 {
		return nil
	}
	return appendLines(b.options.keep, samples)
}
