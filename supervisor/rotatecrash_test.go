package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/supervisor/api"
)

// restart starts a daemon after the one that was killed, with every volume in
// the state it had.
func (r *moveRig) restart() {
	r.t.Helper()
	r.daemon = startDaemon(r.t, r.dir)
	r.mountAt("vol")
	r.mountAt("asleep")
	if _, err := r.SuspendVolume(r.ctx, "acct", "asleep"); err != nil {
		r.t.Fatal(err)
	}
}

// consistent fails unless every volume's record and every superblock names a
// key that the account keeps.
func (r *moveRig) consistent() {
	r.t.Helper()
	a := r.stored()
	d, _ := account.Open(r.dir)
	for _, name := range stateNames {
		v, err := d.Volume("acct", name)
		if err != nil {
			r.t.Fatal(err)
		}
		in := superblockKey(r.t, d.VolumeDir("acct", name))
		if a.AEK(in) == nil {
			r.t.Errorf("%s is under %s, which the account does not have", name, in)
		}
		if !v.Needs(in) {
			r.t.Errorf("the record of %s names %s and %s, the superblock %s", name, v.AEKID, v.FormerAEKID, in)
		}
	}
}

// superblockKey reads which account encryption key a superblock names: an UUID
// behind its length, as docs/format.md says.
func superblockKey(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "superblock"))
	if err != nil {
		t.Fatal(err)
	}
	at := 53
	for range b[52] {
		at += 1 + int(b[at])
	}
	at += 32
	return string(b[at+2 : at+2+int(b[at])+int(b[at+1])<<8])
}

// TestMoves_DaemonKilled kills the daemon, and nobody else, again and again
// while it rotates and while it makes a transition. Every time all volumes open
// with their data, and in the end one key is left.
func TestMoves_DaemonKilled(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	// The vault takes its time, so that there is a middle to be killed in.
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 60 * time.Millisecond}})
	unfinished := 0
	for n := range 10 {
		move, wait := r.RotateKey, time.Duration(n)*60*time.Millisecond
		if n < 4 {
			move = r.TransitionToCMK
		}
		done := make(chan error, 1)
		go func() {
			_, err := move(r.ctx, "acct", nil)
			done <- err
		}()
		time.Sleep(wait)
		r.kill()
		err := <-done
		unmountLeft(r.point("vol"))
		unmountLeft(r.point("asleep"))
		r.consistent()
		if r.stored().Move != nil {
			unfinished++
		}
		t.Logf("killed after %s: move %+v, %v", wait, r.stored().Move, err)
		r.restart()
		if err := r.readable("vol"); err != nil {
			t.Error(err)
		}
		if n%3 == 2 {
			r.allReadable()
			if _, err := r.SuspendVolume(r.ctx, "acct", "asleep"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Unmount(r.ctx, "acct", "away", api.Unmount{}); err != nil {
				t.Fatal(err)
			}
		}
		r.consistent()
	}
	if unfinished < 2 {
		t.Errorf("only %d moves were interrupted", unfinished)
	}
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		var e *api.Error // the daemon may be at it itself
		if !errors.As(err, &e) || e.Code != api.CodeBusy {
			t.Fatal(err)
		}
	}
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// onRename calls f as soon as a file of that name is put in place in one of the
// folders; the channel is closed then.
func onRename(t *testing.T, name string, f func(), folders ...string) <-chan struct{} {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_MOVED_TO); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || bytes.Contains(buf[:n], append([]byte(name), 0)) {
				f()
				return
			}
		}
	}()
	return done
}

// TestMoves_KilledAtSuperblock kills the daemon at the moment a superblock is
// replaced, before it knows: the volume's record names both keys then, so that
// neither is given up.
func TestMoves_KilledAtSuperblock(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	d, _ := account.Open(r.dir)
	both := 0
	for range 4 {
		name := stateNames[both%len(stateNames)]
		killed := onRename(t, "superblock", func() { _ = r.cmd.Process.Kill() }, d.VolumeDir("acct", name))
		_, _ = r.RotateKey(r.ctx, "acct", nil)
		_, _ = r.TransitionToCMK(r.ctx, "acct", nil)
		select {
		case <-killed:
		case <-time.After(20 * time.Second):
			t.Fatal("no superblock was replaced")
		}
		<-r.ended
		unmountLeft(r.point("vol"))
		unmountLeft(r.point("asleep"))
		r.consistent()
		v, err := d.Volume("acct", name)
		if err != nil {
			t.Fatal(err)
		}
		if v.FormerAEKID != "" && superblockKey(t, d.VolumeDir("acct", name)) == v.AEKID {
			both++
			// Whoever takes the customer's key away now must be refused.
			a := r.stored()
			used := func(id string) (bool, error) { return v.Needs(id), nil }
			if _, err := a.Changed(r.ctx, account.Change{Key: &hsm.Config{Source: hsm.SourcePlatform}}, used, nil); a.KeySource() == hsm.SourceKeyVault && !errors.Is(err, account.ErrOneWay) {
				t.Errorf("the key could be given up: %v", err)
			}
		}
		r.restart()
		r.waitMoved(r.stored().KeySource())
	}
	if both == 0 {
		t.Error("the daemon was never killed in time")
	}
	r.allReadable()
}

// TestMoves_KeyAgentKilled kills key agents while volumes move: the command says
// so, and the daemon finishes by itself.
func TestMoves_KeyAgentKilled(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 300 * time.Millisecond}})
	done := make(chan error, 1)
	go func() {
		_, err := r.TransitionToCMK(r.ctx, "acct", nil)
		done <- err
	}()
	eventually(t, "the transition begins", func() bool { return r.stored().Move != nil })
	var err error
	for killed := false; !killed; {
		for _, pid := range children(t, r.cmd.Process.Pid, "key-agent") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case err = <-done:
			killed = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeUnreachable || !strings.Contains(err.Error(), "is not finished") {
		t.Fatalf("%v", err)
	}
	r.consistent()
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// TestMoves_KeyDeniedHalfWay takes the permission away after one volume. The
// command says where it stands, volumes stay under old and new keys, each under
// its own lease, and with the permission back the daemon finishes.
func TestMoves_KeyDeniedHalfWay(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	// Time to take it away before the second volume's answer.
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 700 * time.Millisecond}})
	decrypt := emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"decrypt"}}
	_, err := r.TransitionToCMK(r.ctx, "acct", func(v api.MovedVolume) {
		if v.Done == 1 && v.Result == api.MoveDone {
			r.do(t, decrypt)
		}
	})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeDenied && e.Code != api.CodeSuspended || !strings.Contains(err.Error(), "1 of 3 volumes are done") {
		t.Fatalf("%v", err)
	}
	r.consistent()
	if u := r.account().Unfinished; u == nil || u.Kind != account.MoveTransition {
		t.Errorf("status says of what is unfinished: %+v", u)
	}
	if stopped := r.events(account.AuditKeyMoveStopped); len(stopped) == 0 || stopped[0].Detail["done"] != "1" {
		t.Errorf("events: %+v", stopped)
	}
	eventually(t, "the account is suspended", func() bool { return r.account().State == "suspended" })
	if v := r.status("asleep"); v.KeySource != hsm.SourceKeyVault {
		t.Errorf("the volume that has moved: %+v", v)
	}
	if v := r.status("vol"); v.KeySource != hsm.SourcePlatform || v.State != api.VolumeOnline {
		t.Errorf("a volume that has not: %+v", v)
	}
	if err := r.readable("vol"); err != nil {
		t.Error(err)
	}
	if _, err := r.RestoreVolume(r.ctx, "acct", "asleep"); err == nil {
		t.Error("the volume that has moved opens without the customer's key")
	}
	decrypt.Action = emulator.Grant
	r.do(t, decrypt)
	r.undelay(t)
	if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
		t.Fatal(err)
	}
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// TestMoves_WorkerKilled: a worker that dies while it replaces its superblock is
// followed by another, and the move goes on.
func TestMoves_WorkerKilled(t *testing.T) {
	r := newMoveRig(t)
	stop := make(chan struct{})
	killed := make(chan int)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
			for _, pid := range children(t, r.cmd.Process.Pid, "worker") {
				if unix.Kill(pid, unix.SIGKILL) == nil {
					n++
				}
			}
		}
	}()
	for range 4 {
		// One that is killed for ten seconds without an end is reported.
		if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil && !strings.Contains(err.Error(), "is not finished") {
			t.Error(err)
		}
		r.consistent()
	}
	close(stop)
	if n := <-killed; n == 0 {
		t.Error("no worker was killed")
	}
	if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil {
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeBusy {
			t.Error(err)
		}
	}
	r.waitMoved(hsm.SourcePlatform)
	eventually(t, "the volume is online", func() bool { return r.status("vol").State == api.VolumeOnline })
	r.allReadable()
}

// TestMoves_DamagedVolume: a volume whose superblock cannot be read keeps the
// old key, not the others from moving; what it may still be needed for is kept
// until the volume is deleted.
func TestMoves_DamagedVolume(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	d, _ := account.Open(r.dir)
	super := filepath.Join(d.VolumeDir("acct", "away"), "superblock")
	b, err := os.ReadFile(super)
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), b...)
	damaged[100] ^= 1
	if err := os.WriteFile(super, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []api.MovedVolume
	_, err = r.TransitionToCMK(r.ctx, "acct", func(v api.MovedVolume) { got = append(got, v) })
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeCorrupt || !strings.Contains(err.Error(), "2 of 3 volumes are done: volume away: ") {
		t.Fatalf("%v", err)
	}
	if len(got) != 3 || got[1].Result != api.MoveFailed || got[1].Error == "" || got[2].Result != api.MoveDone {
		t.Errorf("%+v", got)
	}
	if a := r.stored(); a.Move == nil || a.AEKFor(hsm.SourcePlatform) == nil {
		t.Errorf("%+v", a)
	}
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &hsm.Config{Source: hsm.SourcePlatform}}); err == nil {
		t.Error("back to the platform's key in the middle")
	}
	// The superblock comes back from a backup, and so does the volume.
	if err := os.WriteFile(super, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil && !(errors.As(err, &e) && e.Code == api.CodeBusy) {
		t.Fatal(err)
	}
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// TestMoves_BesideCommands: mounts, creations and deletions while volumes move
// succeed or wait, and the daemon ends in the middle.
func TestMoves_BesideCommands(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 100 * time.Millisecond}})
	done := make(chan error, 1)
	go func() {
		for range 2 {
			if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil {
				done <- err
				return
			}
			if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var err error
	for n, busy := 0, true; busy; n++ {
		name := fmt.Sprint("extra", n)
		if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: name}); err != nil {
			t.Errorf("create: %v", err)
		}
		r.mountAt("away")
		if err := r.readable("away"); err != nil {
			t.Error(err)
		}
		if _, err := r.Unmount(r.ctx, "acct", "away", api.Unmount{}); err != nil {
			t.Errorf("unmount: %v", err)
		}
		if err := r.DeleteVolume(r.ctx, "acct", name); err != nil {
			t.Errorf("delete: %v", err)
		}
		select {
		case err = <-done:
			busy = false
		default:
		}
	}
	if err != nil {
		t.Error(err)
	}
	r.settled(hsm.SourceKeyVault)
	// The daemon's end does not wait for a move.
	go func() { _, _ = r.RotateKey(r.ctx, "acct", nil) }()
	time.Sleep(200 * time.Millisecond)
	r.stop()
	r.consistent()
	r.daemon = startDaemon(t, r.dir)
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}
