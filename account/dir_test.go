package account_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

func newDir(t *testing.T) *account.Dir {
	t.Helper()
	d, err := account.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newAccount(name string) *account.Account {
	return &account.Account{
		Version: account.FormatVersion, ID: "id-" + name, Name: name, Location: "westeurope",
		Created: time.Now(), Policy: account.DefaultPolicy(),
		AEKs: []account.AEKRecord{{
			ID: "k1", Source: hsm.SourcePlatform, Key: hsm.Config{Source: hsm.SourcePlatform},
			Wrapped: hsm.Wrapped{KeyID: "platform", Ciphertext: []byte{1}}, Commitment: []byte{2},
		}},
	}
}

func TestOpen_RefusesUnsafeDirectory(t *testing.T) {
	base := t.TempDir()
	if _, err := account.Open(filepath.Join(base, "none")); !errors.Is(err, account.ErrNoState) {
		t.Errorf("missing: %v", err)
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o755, 0o770, 0o701} {
		if err := os.Chmod(open, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := account.Open(open); !errors.Is(err, account.ErrUnsafeState) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := account.Open(open); err != nil {
		t.Errorf("mode 700: %v", err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := account.Open(file); !errors.Is(err, account.ErrUnsafeState) {
		t.Errorf("a file: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(open, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := account.Open(open); !errors.Is(err, account.ErrUnsafeState) || !strings.Contains(err.Error(), "user 12345") {
			t.Errorf("another owner: %v", err)
		}
	}
}

func TestCreate_LongPath(t *testing.T) {
	parent := t.TempDir()
	for n := 90 - len(parent); n < 110-len(parent); n++ {
		path := filepath.Join(parent, strings.Repeat("d", n))
		d, err := account.Create(path)
		_, statErr := os.Stat(path)
		switch {
		case err == nil && statErr == nil && len(d.SocketPath()) <= 107:
		case err != nil && errors.Is(statErr, os.ErrNotExist) && len(path)+len("/cmkfsd.sock") > 107:
		default:
			t.Errorf("%d bytes: %v, the directory: %v", len(path), err, statErr)
		}
	}
}

func TestDir_Lock_SecondDaemonIsRefused(t *testing.T) {
	d := newDir(t)
	l, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, account.ErrDaemonRuns) {
		t.Fatalf("second lock: %v", err)
	}
	l.Close()
	l, err = d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestDir_Account_RoundTrip(t *testing.T) {
	d := newDir(t)
	a := newAccount("a")
	if err := d.CreateAccount(a); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateAccount(a); !errors.Is(err, account.ErrExist) {
		t.Errorf("again: %v", err)
	}
	got, err := d.Account("a")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != a.ID || got.Policy != a.Policy || got.Current().ID != "k1" || got.KeySource() != hsm.SourcePlatform {
		t.Errorf("read back %+v", got)
	}
	got.AEKs = append(got.AEKs, account.AEKRecord{
		ID: "k2", Source: hsm.SourcePKCS11, Key: hsm.Config{Source: hsm.SourcePKCS11},
		Wrapped: hsm.Wrapped{Ciphertext: []byte{1}}, Commitment: []byte{2},
	})
	if err := d.SaveAccount(got); err != nil {
		t.Fatal(err)
	}
	if got, _ = d.Account("a"); got.Current().ID != "k2" || got.AEKFor(hsm.SourcePlatform).ID != "k1" {
		t.Errorf("after the update %+v", got)
	}
	got.AEKs[1].ID = "k1"
	if err := d.SaveAccount(got); err == nil {
		t.Error("two keys of one id were stored")
	}
	if _, err := d.Account("b"); !errors.Is(err, account.ErrNotFound) {
		t.Errorf("other account: %v", err)
	}
	if _, err := d.Account("../a"); err == nil {
		t.Error("a name with a slash was looked up")
	}
	st, err := os.Stat(filepath.Join(d.Path(), "accounts", "a", "account.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("account.json: %v %v", st.Mode(), err)
	}
}

func TestDir_Account_CopyHasItsOwnPlatformKey(t *testing.T) {
	d := newDir(t)
	a := newAccount("a")
	a.AEKs[0].Key.Platform = &hsm.PlatformConfig{KeyFile: d.PlatformKeyPath()}
	if err := d.CreateAccount(a); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(d.Path())); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	d2, err := account.Open(copied)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []*account.Dir{d, d2} {
		got, err := dir.Account("a")
		if err != nil || got.AEKs[0].Key.Platform.KeyFile != dir.PlatformKeyPath() {
			t.Errorf("%s: %+v %v", dir.Path(), got.AEKs[0].Key.Platform, err)
		}
	}
	if a.AEKs[0].Key.Platform.KeyFile != d.PlatformKeyPath() {
		t.Error("storing has changed the caller's record")
	}
}

func TestDir_Account_UnknownVersionIsRefused(t *testing.T) {
	d := newDir(t)
	if err := d.CreateAccount(newAccount("a")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.Path(), "accounts", "a", "account.json")
	if err := os.WriteFile(path, []byte(`{"version":2,"name":{"new":"shape"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var v *account.VersionError
	if _, err := d.Account("a"); !errors.As(err, &v) || v.Have != 2 {
		t.Errorf("version 2: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Account("a"); err == nil {
		t.Error("a torn record was accepted")
	}
}

func TestDir_Resolve(t *testing.T) {
	d := newDir(t)
	if _, err := d.Resolve(""); !errors.Is(err, account.ErrNoAccount) {
		t.Errorf("none: %v", err)
	}
	for _, name := range []string{"b", "a"} {
		if name == "a" {
			if got, err := d.Resolve(""); err != nil || got != "b" {
				t.Errorf("one: %q %v", got, err)
			}
		}
		if err := d.CreateAccount(newAccount(name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Resolve(""); !errors.Is(err, account.ErrAmbiguous) {
		t.Errorf("two: %v", err)
	}
	if names, err := d.Accounts(); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("accounts: %v %v", names, err)
	}
}

func TestDir_Volume_Lifecycle(t *testing.T) {
	d := newDir(t)
	if err := d.CreateAccount(newAccount("a")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", ".v", "v w", strings.Repeat("v", 65)} {
		var n *account.NameError
		if _, err := d.NewVolume("a", bad); !errors.As(err, &n) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	p, err := d.NewVolume("a", "v")
	if err != nil {
		t.Fatal(err)
	}
	if vols, err := d.Volumes("a"); err != nil || len(vols) != 0 {
		t.Errorf("half-made volume is listed: %v %v", vols, err)
	}
	if err := d.CleanUp(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half-made volume survived the clean-up: %v", err)
	}
	if p, err = d.NewVolume("a", "v"); err != nil {
		t.Fatal(err)
	}
	rec := &account.VolumeRecord{Version: account.FormatVersion, Name: "v", QuotaBytes: 1 << 30}
	if err := p.Commit(rec); err != nil {
		t.Fatal(err)
	}
	if _, err := d.NewVolume("a", "v"); !errors.Is(err, account.ErrExist) {
		t.Errorf("again: %v", err)
	}
	rec.MountPoint = "/mnt"
	if err := d.SaveVolume("a", rec); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Volume("a", "v"); err != nil || got.MountPoint != "/mnt" || got.QuotaBytes != 1<<30 {
		t.Errorf("read back %+v %v", got, err)
	}
	if err := d.DeleteAccount("a"); !errors.Is(err, account.ErrNotEmpty) {
		t.Errorf("delete the account first: %v", err)
	}
	if err := d.DeleteVolume("a", "v"); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteVolume("a", "v"); !errors.Is(err, account.ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
	if err := d.DeleteAccount("a"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Path(), "accounts", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
