package fs_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

// Suspending ends access through whatever was open or mapped, and loses
// nothing; afterwards the same descriptors and mappings work again.
func TestServer_Suspend_EndsAccessAndKeepsData(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, realVolume(t), mode.cfg)
			const size = 3 << 20
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i >> 12)
			}
			must(t, os.WriteFile(r.path("f"), data, 0644))
			must(t, os.Mkdir(r.path("d"), 0755))
			must(t, os.WriteFile(r.path("d/g"), []byte("g"), 0644))
			m := startMapper(t, r.path("f"))
			for round := 1; round <= 3; round++ {
				for off := 0; off < size; off += 200_000 {
					m.say(t, "dirty "+itoa(off)+" "+itoa(100+round), "ok")
				}
				m.say(t, "pwrite 4097 "+itoa(round), "ok")
				m.say(t, "private 0", itoa(100+round))
				d := r.suspend(5*time.Second, syscall.ENOKEY)
				if d.Writes == 0 || d.Refused != 0 || d.Overdue != 0 || d.Nodes < 4 {
					t.Errorf("drained %+v", d)
				}
				for _, line := range []string{
					"pread 0", "pread 1000000", "pwrite 0 1", "pwritepage 4096", "fstat", "stat " + r.path("d"), "stat " + r.path("d/g"),
					"stat " + r.path("missing"), "readdir " + r.dir, "readdir " + r.path("d"), "create " + r.path("new"), "create " + r.path("f"),
				} {
					m.say(t, line, syscall.ENOKEY.Error())
				}
				for _, line := range []string{"shared 0", "private 0", "shared 1000000", "private 1000000", "dirty 0 1"} {
					m.say(t, line, "SIGBUS")
				}
				r.startWorker()
				for off := 0; off < size; off += 200_000 {
					m.say(t, "shared "+itoa(off), itoa(100+round))
				}
				m.say(t, "private 0", itoa(100+round))
				m.say(t, "pread 4097", itoa(round))
				m.say(t, "stat "+r.path("d/g"), "ok")
				m.say(t, "readdir "+r.path("d"), "ok")
				m.say(t, "fsync", "ok")
			}
		})
	}
}

// Suspending under load: everything that is asked for fails or works, nothing
// hangs, and the volume is whole afterwards.
func TestServer_Suspend_UnderLoad(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, realVolume(t), mode.cfg)
			for range 3 {
				cmd := load{startLoad(t, "hammer", r.dir).worker}
				time.Sleep(150 * time.Millisecond)
				d := r.suspend(5*time.Second, syscall.ENOKEY)
				// What was in flight on a slow disk may be overdue.
				if d.Refused != 0 {
					t.Errorf("drained %+v", d)
				}
				t.Log(cmd.stop(t), d)
				r.startWorker()
			}
		})
	}
}

// Workers die under all kinds of load, and nothing notices.
func TestServer_TakeOver_UnderLoad(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, realVolume(t), mode.cfg)
			l := startLoad(t, "write,names,append", r.dir)
			for range 10 {
				time.Sleep(60 * time.Millisecond)
				r.kill()
				r.startWorker()
			}
			t.Log(l.stop(t))
		})
	}
}

// A request that hangs in the volume is answered with the errno after a while,
// or the invalidation would wait for it for ever.
func TestServer_Suspend_AnswersWhatHangs(t *testing.T) {
	r := newRig(t, "mem:block", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	m.send(t, "pread 0")
	time.Sleep(50 * time.Millisecond)
	d := r.suspend(5*time.Second, syscall.EKEYEXPIRED)
	if d.Overdue == 0 {
		t.Errorf("drained %+v", d)
	}
	if got := m.ask(t, ""); got != syscall.EKEYEXPIRED.Error() {
		t.Errorf("the read that hung: %q", got)
	}
}

// Dirty pages that cannot be saved in time are refused and counted, and their
// writer learns of it.
func TestServer_Suspend_RefusesAfterTheDeadline(t *testing.T) {
	r := newRig(t, "mem:slow", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	for off := 0; off < staticSize; off += 4096 {
		m.say(t, "dirty "+itoa(off)+" 7", "ok")
	}
	begin := time.Now()
	d := r.suspend(200*time.Millisecond, syscall.ENOKEY)
	if d.Writes == 0 || d.Refused == 0 {
		t.Errorf("drained %+v", d)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if got := m.ask(t, "fsync"); got == "ok" {
		t.Error("fsync after the loss of data says ok")
	}
	m.say(t, "shared 0", "SIGBUS")
}

// Whatever is mounted below the volume is still there after it was suspended,
// and so are working directories.
func TestServer_Suspend_KeepsMountsAndDirectories(t *testing.T) {
	r := newRig(t, realVolume(t), fs.MountConfig{AllowOther: true})
	must(t, os.MkdirAll(r.path("d/sub"), 0755))
	must(t, os.Mkdir(r.path("d/mnt"), 0755))
	must(t, os.WriteFile(r.path("d/f"), []byte("ff"), 0644))
	must(t, unix.Mount("none", r.path("d/mnt"), "tmpfs", 0, ""))
	defer unix.Unmount(r.path("d/mnt"), unix.MNT_DETACH)
	must(t, os.WriteFile(r.path("d/mnt/inner"), []byte("inner"), 0644))
	m := startMapper(t, r.path("d/f"))
	m.say(t, "chdir "+r.path("d/sub"), "ok")
	m.say(t, "opendir "+r.path("d"), "ok")
	m.say(t, "listdir", "ok f mnt sub")
	for range 2 {
		r.suspend(5*time.Second, syscall.ENOKEY)
		for _, line := range []string{
			"stat " + r.path("d/mnt/inner"), "stat " + r.path("d/sub"), "stat ../f", "listdir", "readdir .", "chdir " + r.path("d"), "reopen",
		} {
			m.say(t, line, syscall.ENOKEY.Error())
		}
		r.startWorker()
		m.say(t, "getwd", r.path("d/sub"))
		m.say(t, "stat ../f", "ok")
		m.say(t, "listdir", "ok f mnt sub")
		m.say(t, "stat "+r.path("d/mnt/inner"), "ok")
		m.say(t, "reopen", "ok")
	}
	m.end()
}

// Programs that try again when they are refused find, after any number of
// suspensions and dead workers, everything done exactly once.
func TestServer_Suspend_Cycles(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, realVolume(t), mode.cfg)
			l := startLoad(t, "write,names,append", r.dir)
			overdue := 0
			for i := range 5 {
				time.Sleep(80 * time.Millisecond)
				d := r.suspend(10*time.Second, syscall.ENOKEY)
				if d.Refused != 0 {
					t.Errorf("drained %+v", d)
				}
				overdue += d.Overdue
				time.Sleep(10 * time.Millisecond)
				r.startWorker()
				if i%2 == 0 {
					time.Sleep(40 * time.Millisecond)
					r.kill()
					r.startWorker()
				}
			}
			if overdue != 0 {
				t.Log("the disk is so slow that requests in flight were answered before they were done")
				l.end()
				return
			}
			t.Log(l.stop(t))
		})
	}
}
