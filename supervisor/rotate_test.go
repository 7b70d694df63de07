package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/internal/loadtest"
	"cmkfs/supervisor/api"
)

// moveRig is a rig with a vault that the account does not use yet, and with
// volumes in each state a move of keys can meet: "vol" is mounted, "asleep" is
// mounted and suspended by an operator, "away" is not mounted. Each has a file.
type moveRig struct{ *vaultRig }

// stateNames are the volumes of a moveRig.
var stateNames = []string{"asleep", "away", "vol"}

func newMoveRig(t *testing.T) *moveRig {
	t.Helper()
	r := &moveRig{startVault(t)}
	r.addVolume()
	for _, name := range []string{"asleep", "away"} {
		if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: name}); err != nil {
			t.Fatal(err)
		}
		r.mountAt(name)
	}
	for _, name := range stateNames {
		if err := os.WriteFile(filepath.Join(r.point(name), "file"), r.content(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.SuspendVolume(r.ctx, "acct", "asleep"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Unmount(r.ctx, "acct", "away", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// enable enables or disables the customer's key.
func (r *moveRig) enable(on bool) {
	r.t.Helper()
	r.do(r.t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &on})
}

// point is where a volume is mounted.
func (r *moveRig) point(name string) string {
	if name == "vol" {
		return r.mount
	}
	return filepath.Join(filepath.Dir(r.mount), name)
}

func (r *moveRig) mountAt(name string) {
	r.t.Helper()
	point := r.point(name)
	if err := os.MkdirAll(point, 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unmountLeft(point) })
	if _, err := r.Mount(r.ctx, "acct", name, api.Mount{MountPoint: point}); err != nil {
		r.t.Fatalf("mount %s: %v", name, err)
	}
}

func (r *moveRig) content(name string) []byte {
	return bytes.Repeat([]byte("what is in "+name+"\n"), 3000)
}

// readable reads a volume's file.
func (r *moveRig) readable(name string) error {
	b, err := os.ReadFile(filepath.Join(r.point(name), "file"))
	if err == nil && !bytes.Equal(b, r.content(name)) {
		err = errors.New("other contents")
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	return nil
}

// allReadable brings every volume online, if it is not, and reads its file.
func (r *moveRig) allReadable() {
	r.t.Helper()
	for _, name := range stateNames {
		switch v := r.status(name); {
		case v.State == api.VolumeUnmounted:
			r.mountAt(name)
		case v.State != api.VolumeOnline:
			if _, err := r.RestoreVolume(r.ctx, "acct", name); err != nil {
				r.t.Fatalf("restore %s: %v", name, err)
			}
		}
		if err := r.readable(name); err != nil {
			r.t.Error(err)
		}
	}
}

func (r *moveRig) status(name string) api.VolumeStatus {
	r.t.Helper()
	for _, v := range r.account().Volumes {
		if v.Name == name {
			return v
		}
	}
	r.t.Fatalf("there is no volume %s", name)
	return api.VolumeStatus{}
}

// settled fails unless no move is under way, one key is kept and every volume's
// record names it alone.
func (r *moveRig) settled(source string) {
	r.t.Helper()
	a := r.stored()
	if a.Move != nil || len(a.AEKs) != 1 || a.AEKs[0].Source != source {
		r.t.Fatalf("the account: move %+v, %d keys, %s", a.Move, len(a.AEKs), a.KeySource())
	}
	d, _ := account.Open(r.dir)
	for _, name := range stateNames {
		v, err := d.Volume("acct", name)
		if err != nil || v.AEKID != a.AEKs[0].ID || v.FormerAEKID != "" || v.KeySource != source {
			r.t.Errorf("volume %s: %+v %v", name, v, err)
		}
		if st := r.status(name); st.KeySource != source {
			r.t.Errorf("status of %s: %+v", name, st)
		}
	}
}

// results are the outcomes of a move by volume.
func results(done api.KeyMoved) map[string]string {
	all := map[string]string{}
	for _, v := range done.Volumes {
		all[v.Name] = v.Result
	}
	return all
}

// TestTransition_AllStates: volumes in every state move under the customer's
// key, programs on the mounted one notice nothing, nothing opens them without
// that key afterwards, and there is no way back.
func TestTransition_AllStates(t *testing.T) {
	r := newMoveRig(t)
	var e *api.Error
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); !errors.As(err, &e) || !errors.Is(err, hsm.NotConfigured) || e.Code != api.CodeInvalid {
		t.Fatalf("without a customer's key: %v", err)
	}
	r.useKey()
	var seen []api.MovedVolume
	report := loadtest.Measure(t, r.mount, func() {
		done, err := r.TransitionToCMK(r.ctx, "acct", func(v api.MovedVolume) { seen = append(seen, v) })
		if err != nil {
			t.Error(err)
		}
		if done.Done != 3 || done.Total != 3 || done.KeySource != hsm.SourceKeyVault || done.Operation != account.MoveTransition || !slices.Equal(done.Volumes, seen) {
			t.Errorf("%+v", done)
		}
	})
	if err := report.Err(); err != nil && !errors.Is(err, loadtest.ErrSlow) { // how slow is TestRotateKey_UnderLoad's affair
		t.Error(err)
	}
	for i, v := range seen {
		if v.Name != stateNames[i] || v.Result != api.MoveDone || v.KeySource != hsm.SourceKeyVault || v.Done != i+1 || v.Total != 3 {
			t.Errorf("progress: %+v", v)
		}
	}
	r.settled(hsm.SourceKeyVault)
	if v := r.status("asleep"); v.State != api.VolumeSuspended {
		t.Errorf("the suspended volume: %+v", v)
	}
	if v := r.status("vol"); v.State != api.VolumeOnline || v.Restarts != 0 {
		t.Errorf("the mounted volume: %+v", v)
	}

	// Nothing needs the platform's key any more.
	if err := os.Remove(filepath.Join(r.dir, "platform.key")); err != nil {
		t.Fatal(err)
	}
	r.allReadable()

	// A second time there is nothing to do.
	done, err := r.TransitionToCMK(r.ctx, "acct", nil)
	if err != nil || done.Done != 3 || results(done)["vol"] != api.MoveThere {
		t.Errorf("again: %+v %v", done, err)
	}
	r.settled(hsm.SourceKeyVault)
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &hsm.Config{Source: hsm.SourcePlatform}}); !errors.As(err, &e) || e.Code != api.CodeBusy {
		t.Errorf("back to the platform's key: %v", err)
	}
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "more", KeySource: hsm.SourcePlatform}); !errors.As(err, &e) || e.Code != api.CodeInvalid {
		t.Errorf("a new platform-managed volume: %v", err)
	}
	r.settled(hsm.SourceKeyVault)

	// All of them are under the lease of the customer's key.
	quickChecks(r.rig, account.RecoveryAutomatic)
	r.enable(false)
	for _, name := range stateNames {
		eventually(t, name+" is suspended", func() bool { return r.status(name).State == api.VolumeSuspended })
	}
	if _, err := os.ReadFile(r.path("file")); !errnoIs(err, unix.EKEYREVOKED) {
		t.Errorf("read without the key: %v", err)
	}
	for _, move := range []func() error{
		func() error { _, err := r.RotateKey(r.ctx, "acct", nil); return err },
		func() error { _, err := r.TransitionToCMK(r.ctx, "acct", nil); return err },
	} {
		if err := move(); !errors.As(err, &e) || e.Code != api.CodeSuspended && e.Code != api.CodeDenied {
			t.Errorf("a move while suspended: %v", err)
		}
	}
	r.settled(hsm.SourceKeyVault)
	r.enable(true)
	eventually(t, "the account is online", func() bool { return r.account().State == "online" })
	r.allReadable()
}

// TestTransition_LeaseAtOnce: a volume that moved while it was mounted stops
// when the customer's key is denied, although it was mounted under another key.
func TestTransition_LeaseAtOnce(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	quickChecks(r.rig, account.RecoveryManual)
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	pid := r.status("vol").WorkerPID
	if err := r.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer r.cmd.Process.Signal(unix.SIGCONT)
	// Its supervisor says nothing more: the worker goes by the deadline it got
	// with its new key, 2 seconds, and not by the old key's 10 minutes.
	eventually(t, "the worker stops by itself", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

// TestRotateKey_AllStates rotates the platform's and the customer's account key.
func TestRotateKey_AllStates(t *testing.T) {
	r := newMoveRig(t)
	first := r.stored().Current().ID
	done, err := r.RotateKey(r.ctx, "acct", nil)
	if err != nil || done.Done != 3 || done.Operation != account.MoveRotate || done.KeySource != hsm.SourcePlatform {
		t.Fatalf("%+v %v", done, err)
	}
	r.settled(hsm.SourcePlatform)
	if r.stored().Current().ID == first {
		t.Error("the key is the old one")
	}
	r.allReadable()

	// With a customer's key, volumes of the other source are left alone.
	r.useKey()
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	done, err = r.RotateKey(r.ctx, "acct", nil)
	if got := results(done); err != nil || got["mine"] != api.MoveDone || got["vol"] != api.MoveApart || done.Total != 4 {
		t.Fatalf("%+v %v", done, err)
	}
	if a := r.stored(); len(a.AEKs) != 2 || a.Move != nil {
		t.Errorf("%+v", a)
	}
	// New volumes are under the newest key.
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "newer"}); err != nil {
		t.Fatal(err)
	}
	d, _ := account.Open(r.dir)
	if v, err := d.Volume("acct", "newer"); err != nil || v.AEKID != r.stored().Current().ID {
		t.Errorf("%+v %v", v, err)
	}
	// A transition takes the rest.
	done, err = r.TransitionToCMK(r.ctx, "acct", nil)
	if got := results(done); err != nil || got["mine"] != api.MoveThere || got["vol"] != api.MoveDone || done.Done != 5 {
		t.Fatalf("%+v %v", done, err)
	}
	r.settled(hsm.SourceKeyVault)
	r.allReadable()
}

// TestRotateKey_UnderLoad: programs do not notice a rotation, nor a transition.
func TestRotateKey_UnderLoad(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	loadtest.Prove(t, func(int) loadtest.Report {
		return loadtest.Measure(t, r.mount, func() {
			for range 3 {
				if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil {
					t.Error(err)
				}
			}
		})
	})
	r.settled(hsm.SourceKeyVault)
}

// TestTransition_UnderLoad is the same for a transition, which happens once to
// an account: every attempt has one of its own.
func TestTransition_UnderLoad(t *testing.T) {
	loadtest.Prove(t, func(n int) (report loadtest.Report) {
		t.Run(fmt.Sprint("attempt", n), func(t *testing.T) {
			r := newMoveRig(t)
			r.useKey()
			report = loadtest.Measure(t, r.mount, func() {
				if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
					t.Error(err)
				}
			})
			r.settled(hsm.SourceKeyVault)
		})
		return report
	})
}

// waitMoved waits until the daemon has finished a move by itself.
func (r *moveRig) waitMoved(source string) {
	r.t.Helper()
	for end := time.Now().Add(60 * time.Second); r.stored().Move != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("the move is never finished: %+v", r.stored().Move)
		}
	}
	r.settled(source)
}
