package main_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/account"
	kv "cmkfs/hsm/azure/emulator"
	"cmkfs/supervisor/api"
)

// volumeFiles are the files of a volume with their contents' hashes, without
// volume.json, which says where the volume is mounted.
func (h *host) volumeFiles(volume string) map[string][32]byte {
	h.t.Helper()
	dir := filepath.Join(h.state, "accounts", "a", "volumes", volume)
	files := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == "volume.json" {
			return err
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = sha256.Sum256(b)
		return err
	})
	if err != nil || len(files) < 3 {
		h.t.Fatalf("%d files: %v", len(files), err)
	}
	return files
}

// account is the account's status.
func (h *host) account() api.AccountStatus {
	h.t.Helper()
	var st api.Status
	if err := json.Unmarshal([]byte(h.must("status", "-o", "json")), &st); err != nil || len(st.Accounts) != 1 {
		h.t.Fatal(st, err)
	}
	return st.Accounts[0]
}

// becomes waits for a state of the account.
func (h *host) becomes(state string) api.AccountStatus {
	h.t.Helper()
	var st api.AccountStatus
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if st = h.account(); st.State == state {
			return st
		}
	}
	h.t.Fatalf("the account stays %s, want %s", st.State, state)
	return st
}

// wrongAnswers are ways of a vault to answer that must never open a volume, and
// what is said of them.
var wrongAnswers = map[string]string{
	kv.FaultWrongKey: "something else than the account encryption key",
	kv.FaultGarbage:  "what answers there is no Key Vault",
	kv.FaultTruncate: "its answer breaks off",
	kv.FaultHuge:     "its answer is too long for a Key Vault",
	kv.FaultDrip:     "its answer begins and does not end in time",
}

// TestWrongAnswers_Mounted: whatever a vault answers for the account's key, at
// a check, a mount, a restore or after a restart, no volume is opened with it
// and nothing of one is written.
func TestWrongAnswers_Mounted(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop(c.state, syscall.SIGTERM)
		unmountBelow(filepath.Dir(mnt))
	})
	rare := []string{"account", "update", "--check-interval", "1h", "--outage-grace", "2h"}
	often := []string{"account", "update", "--check-interval", "1s", "--check-interval-unhealthy", "200ms", "--outage-grace", "60s"}
	c.must(c.update("https://demo.vault.azure.net/keys/cmk")...)
	c.must("volume", "create", "--name", "v")
	c.must("volume", "mount", "v", mnt)
	file := filepath.Join(mnt, "file")
	for kind, says := range wrongAnswers {
		t.Run(kind, func(t *testing.T) {
			c := c.in(t)
			content := []byte("written before " + kind)
			write(t, file, content)
			fails := func(args ...string) {
				t.Helper()
				if _, errs, exit := c.run(args...); exit != 5 || !strings.Contains(errs, says) {
					t.Errorf("cmkfsd %s: exit code %d, %swant 5 and %q", strings.Join(args, " "), exit, errs, says)
				}
			}

			// The lease is good, so that the volume's own key is what is met.
			c.must(rare...)
			c.must("volume", "unmount", "v")
			before := c.volumeFiles("v")
			c.do(kv.Command{Action: kv.FaultAdd, Fault: &kv.Fault{Kind: kind, Op: "decrypt"}})
			fails("volume", "mount", "v", mnt)
			if kind != kv.FaultDrip { // of which each costs seconds
				fails("volume", "check", "v")
				fails("volume", "create", "--name", "w")
			}
			if _, err := os.Stat(filepath.Join(c.state, "accounts", "a", "volumes", "w")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is left of a volume: %v", err)
			}
			c.unchanged("v", before)
			c.do(kv.Command{Action: kv.FaultClear})
			c.must("volume", "mount", "v", mnt)

			// The checks meet it: the volume is suspended when the lease ends.
			begin := time.Now()
			c.must(often...)
			waitFor(t, func() bool { return c.account().LastSuccess.After(begin) })
			grace := "10s"
			if kind == kv.FaultDrip {
				grace = "15s" // a check takes half of it
			}
			c.must("account", "update", "--outage-grace", grace)
			c.do(kv.Command{Action: kv.FaultAdd, Fault: &kv.Fault{Kind: kind, Op: "decrypt"}})
			if st := c.becomes(string(account.StateSuspended)); !strings.Contains(st.Reason, says) {
				t.Errorf("the reason is %q, want %q", st.Reason, says)
			}
			if b, err := os.ReadFile(file); err == nil {
				t.Errorf("it can be read: %q", b)
			}
			if err := os.WriteFile(file, []byte("must not be written"), 0o600); err == nil {
				t.Error("it can be written")
			}
			before = c.volumeFiles("v")
			fails("volume", "restore-access", "v")
			c.must("volume", "unmount", "v")
			if kind != kv.FaultDrip {
				fails("volume", "mount", "v", mnt)
			}

			// So does a daemon that starts.
			stop(c.state, syscall.SIGTERM)
			if _, errs, exit := c.run("volume", "mount", "v", mnt); exit != 5 && exit != 9 || !strings.Contains(errs, says) {
				t.Errorf("after a restart: exit code %d, %s", exit, errs)
			}
			c.must("volume", "mount", "v", mnt, "--when-locked", "suspended")
			if err := os.WriteFile(file, []byte("must not be written"), 0o600); err == nil {
				t.Error("it can be written")
			}
			c.must("volume", "unmount", "v")
			c.unchanged("v", before)

			c.do(kv.Command{Action: kv.FaultClear})
			c.must("volume", "restore-access", "--all")
			c.must("volume", "mount", "v", mnt)
			if b, err := os.ReadFile(file); err != nil || string(b) != string(content) {
				t.Errorf("afterwards it has %q, %v", b, err)
			}
		})
	}
	c.must("volume", "unmount", "v")
	c.must("volume", "check", "v", "--scrub")
}

func (h *host) unchanged(volume string, before map[string][32]byte) {
	h.t.Helper()
	after := h.volumeFiles(volume)
	for name, sum := range before {
		if after[name] != sum {
			h.t.Errorf("%s has changed", name)
		}
		delete(after, name)
	}
	for name := range after {
		h.t.Errorf("%s is new", name)
	}
}

// write writes a file through to the disk.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestWrongAnswers_Configure: a vault that answers wrongly when a key is
// examined does not get into the account.
func TestWrongAnswers_Configure(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	for kind := range wrongAnswers {
		for _, op := range []string{"get", "encrypt", "decrypt"} {
			if kind == kv.FaultWrongKey && op == "get" || kind == kv.FaultDrip && op != "get" {
				continue // it has no wrong bytes; once is slow enough
			}
			t.Run(kind+"/"+op, func(t *testing.T) {
				c := c.in(t)
				before := string(c.record())
				c.do(kv.Command{Action: kv.FaultAdd, Fault: &kv.Fault{Kind: kind, Op: op}})
				defer c.do(kv.Command{Action: kv.FaultClear})
				_, errs, exit := c.run(c.update("https://demo.vault.azure.net/keys/cmk")...)
				if exit != 5 || strings.Count(errs, "\n") != 3 {
					t.Errorf("exit code %d\n%s", exit, errs)
				}
				if string(c.record()) != before {
					t.Error("account.json has changed")
				}
			})
		}
	}
}

// TestWrongAnswers_Rekey: nor does one that answers wrongly when keys are
// replaced get in between.
func TestWrongAnswers_Rekey(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.do(kv.Command{Action: kv.KeyCreate, Vault: "demo", Key: "next"})
	c.must(c.update("https://demo.vault.azure.net/keys/cmk", "--check-interval", "1h", "--outage-grace", "2h")...)
	c.must("volume", "create", "--name", "v")
	for _, kind := range []string{kv.FaultWrongKey, kv.FaultGarbage, kv.FaultTruncate} {
		for _, op := range []string{"encrypt", "decrypt"} {
			for _, command := range [][]string{{"account", "rekey", "--key-name", "next"}, {"account", "rotate-key"}} {
				t.Run(kind+"/"+op+"/"+command[1], func(t *testing.T) {
					c := c.in(t)
					record, files := string(c.record()), c.volumeFiles("v")
					c.do(kv.Command{Action: kv.FaultAdd, Fault: &kv.Fault{Kind: kind, Op: op}})
					defer c.do(kv.Command{Action: kv.FaultClear})
					if _, errs, exit := c.run(command...); exit != 5 {
						t.Errorf("exit code %d\n%s", exit, errs)
					}
					if string(c.record()) != record {
						t.Error("account.json has changed")
					}
					c.unchanged("v", files)
				})
			}
		}
	}
	c.must("account", "rekey", "--key-name", "next")
	c.must("account", "rotate-key")
	c.must("volume", "check", "v")
}

// TestThrottled_IsNotAsked: a vault that asks for patience gets it, although
// the account would ask five times a second.
func TestThrottled_IsNotAsked(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.must(c.update("https://demo.vault.azure.net/keys/cmk", "--check-interval", "1s", "--check-interval-unhealthy", "200ms", "--outage-grace", "60s")...)
	c.becomes(string(account.StateOnline))
	const patience = 5
	c.do(kv.Command{Action: kv.FaultAdd, Fault: &kv.Fault{Kind: kv.FaultThrottle, RetryAfter: patience}})
	st := c.becomes(string(account.StateDegraded))
	if !strings.Contains(st.Reason, "too many requests") {
		t.Errorf("the reason is %q", st.Reason)
	}
	// What counts is the time between two questions: all that are asked from
	// here on are at least so far apart.
	begin, before := time.Now(), c.Requests("decrypt")
	time.Sleep(2 * patience * time.Second)
	most := int(time.Since(begin)/(patience*time.Second)) + 1
	if n := c.Requests("decrypt") - before; n > most || n == 0 {
		t.Errorf("it was asked %d times in %v, at most %d are patient", n, time.Since(begin), most)
	}
	c.do(kv.Command{Action: kv.FaultClear})
	c.becomes(string(account.StateOnline))
}
