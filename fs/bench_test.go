package fs_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/fs"
)

// cpu is the processor time a process has used, in microseconds.
func cpu(b *testing.B, pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return float64(user+system) * 10_000 // in ticks of 10 ms
}

// BenchmarkServer measures single operations of one client through a mount of a
// real volume, and the worker's processor time for each, which other load on
// the machine does not change.
func BenchmarkServer(b *testing.B) {
	small := make([]byte, 4096)
	big := make([]byte, 1<<20)
	name := func(r *rig, i int) string { return r.path(fmt.Sprintf("d%d/f%d", i%16, i)) }
	create := func(b *testing.B, r *rig, i int) {
		must(b, os.WriteFile(name(r, i), small, 0644))
	}
	forgetAll := func(r *rig) { os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) }
	for _, c := range []struct {
		name    string
		prepare func(b *testing.B, r *rig) // with the clock stopped
		op      func(b *testing.B, r *rig, i int)
		bytes   int64
	}{
		{"create4k", nil, create, 4096},
		{"mknod", nil, func(b *testing.B, r *rig, i int) {
			f, err := os.Create(name(r, i))
			must(b, err)
			f.Close()
		}, 0},
		{"statcold", func(b *testing.B, r *rig) {
			for i := range b.N {
				create(b, r, i)
			}
			forgetAll(r)
		}, func(b *testing.B, r *rig, i int) {
			_, err := os.Lstat(name(r, i))
			must(b, err)
		}, 0},
		{"readsmallcold", func(b *testing.B, r *rig) {
			for i := range b.N {
				create(b, r, i)
			}
			forgetAll(r)
		}, func(b *testing.B, r *rig, i int) {
			_, err := os.ReadFile(name(r, i))
			must(b, err)
		}, 4096},
		{"unlink", func(b *testing.B, r *rig) {
			for i := range b.N {
				create(b, r, i)
			}
		}, func(b *testing.B, r *rig, i int) { must(b, os.Remove(name(r, i))) }, 0},
		{"write1m", nil, func(b *testing.B, r *rig, i int) {
			f, err := os.OpenFile(r.path("big"), os.O_WRONLY|os.O_CREATE, 0644)
			must(b, err)
			_, err = f.WriteAt(big, int64(i%256)<<20)
			must(b, err)
			f.Close()
		}, 1 << 20},
		{"read1mcold", func(b *testing.B, r *rig) {
			for i := range min(b.N, 256) {
				f, err := os.OpenFile(r.path("big"), os.O_WRONLY|os.O_CREATE, 0644)
				must(b, err)
				_, err = f.WriteAt(big, int64(i)<<20)
				must(b, err)
				f.Close()
			}
			forgetAll(r)
		}, func(b *testing.B, r *rig, i int) {
			if i%256 == 0 {
				forgetAll(r)
			}
			f, err := os.Open(r.path("big"))
			must(b, err)
			_, err = f.ReadAt(big, int64(i%256)<<20)
			must(b, err)
			f.Close()
		}, 1 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, realVolume(b), fs.MountConfig{AllowOther: true})
			for i := range 16 {
				must(b, os.Mkdir(r.path(fmt.Sprintf("d%d", i)), 0755))
			}
			if c.prepare != nil {
				c.prepare(b, r)
			}
			b.SetBytes(c.bytes)
			before := cpu(b, r.worker.cmd.Process.Pid)
			b.ResetTimer()
			for i := range b.N {
				c.op(b, r, i)
			}
			b.StopTimer()
			b.ReportMetric((cpu(b, r.worker.cmd.Process.Pid)-before)/float64(b.N), "worker-µs/op")
		})
	}
}

// BenchmarkSuspend measures how long it takes to suspend a volume with 64 MiB
// of dirty mapped pages, the slowest kind to get rid of.
func BenchmarkSuspend(b *testing.B) {
	for _, mode := range modes {
		b.Run(mode.name, func(b *testing.B) {
			r := newRig(b, realVolume(b), mode.cfg)
			const size = 64 << 20
			must(b, os.WriteFile(r.path("f"), make([]byte, size), 0644))
			b.SetBytes(size)
			m := startMapper(b, r.path("f"))
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				m.say(b, "dirtyall "+itoa(i%100+1), "ok")
				b.StartTimer()
				d := r.suspend(time.Minute, syscall.ENOKEY)
				b.StopTimer()
				if d.Refused != 0 {
					b.Errorf("drained %+v", d)
				}
				b.ReportMetric(float64(d.Writes), "writes")
				r.startWorker()
				m.say(b, "shared 4096", itoa(i%100+1))
			}
		})
	}
}
