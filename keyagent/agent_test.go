package keyagent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
	"cmkfs/hsm/platform"
	"cmkfs/keyagent"
)

// TestMain lets the test binary be the agent process, as cmkfsd is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "key-agent" {
		if err := keyagent.Serve(keyagent.SocketFD); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func client(t *testing.T, timeout time.Duration) *keyagent.Client {
	t.Helper()
	return clientIn(t, t.TempDir(), timeout)
}

func clientIn(t *testing.T, stateDir string, timeout time.Duration) *keyagent.Client {
	t.Helper()
	c := keyagent.New(keyagent.Config{
		Command: []string{"/proc/self/exe", "key-agent"}, StateDir: stateDir, Timeout: timeout,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	c.SetRetireAfter(time.Hour) // so that a process id stays the same unless the test changes it
	t.Cleanup(func() { c.Close() })
	return c
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func platformKey(t *testing.T) hsm.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := platform.Create(path); err != nil {
		t.Fatal(err)
	}
	return hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: path}}
}

func tokenKey(token *hsmtest.Token) hsm.Config {
	return hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: token.URI("good")}}
}

// sources has a key of each kind.
func sources(t *testing.T) map[string]hsm.Config {
	t.Helper()
	_, vault := vaultKey(t)
	return map[string]hsm.Config{"platform": platformKey(t), "token": tokenKey(hsmtest.NewToken(t)), "vault": vault}
}

func want(t *testing.T, err error, kind hsm.Kind, reason string) {
	t.Helper()
	var e *hsm.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason {
		t.Errorf("got %v, want %s/%s", err, kind, reason)
	}
}

// released calls Release and returns what arrives at the other end.
func released(t *testing.T, c *keyagent.Client, key hsm.Config, id string, a keyagent.AEK, vol [16]byte, v keyagent.VEK) ([]byte, error) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	err = c.Release(t.Context(), key, id, a, vol, v, theirs)
	theirs.Close()
	b, rerr := io.ReadAll(ours) // ends: nobody keeps the other end open
	if rerr != nil {
		t.Fatal(rerr)
	}
	return b, err
}

func TestClient_WholeLife(t *testing.T) {
	for name, key := range sources(t) {
		t.Run(name, func(t *testing.T) {
			c := client(t, 0)
			if c.PID() != 0 {
				t.Error("an agent runs before the first call")
			}
			info, err := c.Examine(t.Context(), key)
			if err != nil || !info.Enabled {
				t.Fatalf("Examine = %+v, %v", info, err)
			}
			a, err := c.NewAEK(t.Context(), key, "aek-1")
			if err != nil {
				t.Fatal(err)
			}
			if info, err := c.Check(t.Context(), key, "aek-1", a); err != nil || info.KeyID == "" {
				t.Fatalf("Check = %+v, %v", info, err)
			}
			vol := [16]byte{1, 2, 3}
			v, err := c.NewVEK(t.Context(), key, "aek-1", a, vol)
			if err != nil {
				t.Fatal(err)
			}
			got, err := released(t, c, key, "aek-1", a, vol, v)
			if err != nil {
				t.Fatal(err)
			}
			vek, err := crypto.KeyFromBytes(got)
			if err != nil || !crypto.CheckCommit(vek, vol[:], v.Commitment) {
				t.Errorf("the worker got %d bytes that are not the volume's key", len(got))
			}
			again, err := released(t, c, key, "aek-1", a, vol, v)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("a second release gave another key: %v", err)
			}
			keys, err := c.ListKeys(t.Context(), key)
			if err != nil || len(keys) != 1 {
				t.Errorf("ListKeys = %v, %v", keys, err)
			}
		})
	}
}

func TestClient_RefusesWhatDoesNotBelongTogether(t *testing.T) {
	key, c := platformKey(t), client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "one")
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.NewAEK(t.Context(), key, "two")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{7}
	v, err := c.NewVEK(t.Context(), key, "one", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Check(t.Context(), key, "two", a)
	want(t, err, hsm.KindMisconfigured, "WrongKeyMaterial")
	_, err = c.Check(t.Context(), key, "one", keyagent.AEK{Wrapped: other.Wrapped, Commitment: a.Commitment})
	want(t, err, hsm.KindMisconfigured, "WrongKeyMaterial")
	for name, f := range map[string]func() ([]byte, error){
		"other volume":  func() ([]byte, error) { return released(t, c, key, "one", a, [16]byte{8}, v) },
		"other account": func() ([]byte, error) { return released(t, c, key, "two", other, vol, v) },
		"other commitment": func() ([]byte, error) {
			return released(t, c, key, "one", a, vol, keyagent.VEK{Sealed: v.Sealed, Commitment: a.Commitment})
		},
		"damaged": func() ([]byte, error) {
			return released(t, c, key, "one", a, vol, keyagent.VEK{Sealed: v.Sealed[1:], Commitment: v.Commitment})
		},
	} {
		got, err := f()
		if len(got) != 0 {
			t.Errorf("%s: %d bytes were released", name, len(got))
		}
		t.Run(name, func(t *testing.T) { want(t, err, hsm.KindMisconfigured, "BadVEK") })
	}
	_, err = c.Examine(t.Context(), hsm.Config{Source: "nonsense"})
	want(t, err, hsm.KindMisconfigured, "KeySource")
	_, err = c.Examine(t.Context(), hsm.Config{Source: hsm.SourcePKCS11})
	want(t, err, hsm.KindMisconfigured, "KeySource")
}

// halt stops a process and waits until it stands still.
func halt(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(b), ") T ")
	})
}

// eventually waits for a condition.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it never happened")
}

func TestClient_KilledAgent(t *testing.T) {
	for name, key := range sources(t) {
		t.Run(name, func(t *testing.T) { killed(t, key) })
	}
}

func killed(t *testing.T, key hsm.Config) {
	c := client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	first := c.PID()
	// Stopped first, so that the call is under way when the agent dies.
	halt(t, first)
	result := make(chan error)
	go func() {
		_, err := c.Check(context.WithoutCancel(t.Context()), key, "a", a)
		result <- err
	}()
	eventually(t, func() bool { return c.Pending() == 1 })
	syscall.Kill(first, syscall.SIGKILL)
	want(t, <-result, hsm.KindUnreachable, "AgentDied")
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("the call after the agent's death: %v", err)
	}
	if c.PID() == 0 || c.PID() == first {
		t.Errorf("agent %d after %d", c.PID(), first)
	}
}

func TestClient_HungAgent(t *testing.T) {
	for name, key := range sources(t) {
		t.Run(name, func(t *testing.T) { hung(t, key) })
	}
}

func hung(t *testing.T, key hsm.Config) {
	c := client(t, 2*time.Second)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	first := c.PID()
	halt(t, first)
	_, err = c.Check(t.Context(), key, "a", a)
	want(t, err, hsm.KindUnreachable, "AgentHung")
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("the call after the hang: %v", err)
	}
	if err := syscall.Kill(first, 0); err != syscall.ESRCH {
		t.Errorf("the hung agent still exists: %v", err)
	}
}

// An agent that was stopped before it read a request is not waited for.
func TestClient_HungAgentIsReplacedInTime(t *testing.T) {
	key, c := platformKey(t), client(t, 30*time.Second)
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	halt(t, c.PID())
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Errorf("the fresh agent was not asked: %v", err)
	}
}

func TestClient_HungAgentDoesNotFailOthers(t *testing.T) {
	key, c := platformKey(t), client(t, 10*time.Second)
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	halt(t, c.PID())
	patient := make(chan error)
	go func() {
		_, err := c.Examine(context.WithoutCancel(t.Context()), key)
		patient <- err
	}()
	eventually(t, func() bool { return c.Pending() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Examine(ctx, key)
	want(t, err, hsm.KindUnreachable, "AgentHung")
	if err := <-patient; err != nil {
		t.Errorf("a call with time left failed with the other: %v", err)
	}
}

func TestClient_Cancel(t *testing.T) {
	key, c := platformKey(t), client(t, 0)
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	pid := c.PID()
	halt(t, pid) // or its answer may be faster than the cancelling
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.Examine(ctx, key)
		result <- err
	}()
	eventually(t, func() bool { return c.Pending() == 1 })
	cancel()
	want(t, <-result, hsm.KindUnreachable, "Cancelled")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Errorf("after a cancelled call: %v", err)
	}
	if c.PID() != pid {
		t.Error("a cancelled call cost the agent its life")
	}
}

func TestClient_Close(t *testing.T) {
	key, c := platformKey(t), client(t, 0)
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	pid := c.PID()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("the agent survived Close: %v", err)
	}
	_, err := c.Examine(t.Context(), key)
	want(t, err, hsm.KindUnreachable, "AgentStart")
}

func TestClient_CommandThatIsNone(t *testing.T) {
	for _, command := range [][]string{nil, {"/nonexistent"}, {"/bin/true"}, {"/bin/sh", "-c", "echo nonsense >&3; echo something >&2"}} {
		c := keyagent.New(keyagent.Config{Command: command, Log: slog.New(slog.DiscardHandler)})
		_, err := c.Examine(t.Context(), platformKey(t))
		if hsm.KindOf(err) != hsm.KindUnreachable || err == nil {
			t.Errorf("%v: %v", command, err)
		}
		c.Close()
	}
}

func TestAgent_RemovedToken(t *testing.T) {
	token := hsmtest.NewToken(t)
	key, c := tokenKey(token), client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	pid := c.PID()
	token.Remove(t)
	_, err = c.Check(t.Context(), key, "a", a)
	want(t, err, hsm.KindUnreachable, "TokenAbsent")
	token.Return(t)
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("after the token came back: %v", err)
	}
	if c.PID() != pid {
		t.Error("the agent was replaced for it")
	}
}

// A wrong PIN reaches the token once, whatever happens to the agent.
func TestAgent_WrongPINOnceAcrossRestarts(t *testing.T) {
	token, state := hsmtest.NewToken(t), t.TempDir()
	key := tokenKey(token)
	c := clientIn(t, state, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	token.SetPIN(t, "000000\n")
	_, err = c.Check(t.Context(), key, "a", a)
	want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
	killed := c.PID()
	syscall.Kill(killed, syscall.SIGKILL)
	eventually(t, func() bool { return c.PID() != killed })
	// The token now opens with the refused PIN only: had it been tried again,
	// the check would succeed.
	token.ChangePIN(t, "000000")
	for range 2 {
		_, err = c.Check(t.Context(), key, "a", a)
		want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
		c.Close()
		c = clientIn(t, state, 0)
	}
	token.SetPIN(t, "000000") // other content, without the newline
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("after the PIN file changed: %v", err)
	}
}

func TestAgent_IsHardened(t *testing.T) {
	key, c := platformKey(t), client(t, 0)
	if _, err := c.Examine(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("core files are possible: %s", line)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			seen++
			sets, err := strconv.ParseUint(value, 16, 64)
			if allowed := uint64(1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_IPC_LOCK); err != nil || sets&^allowed != 0 {
				t.Errorf("the agent has capabilities it does not need: %s", line)
			}
		case "NoNewPrivs":
			seen++
			if value != "1" {
				t.Error("the agent may gain privileges by exec")
			}
		}
	}
	if seen != 6 {
		t.Errorf("%d lines of status were checked, want 6", seen)
	}
}

// The supervisor's side must not hold what it passes on.
func TestClient_NeverHoldsKeys(t *testing.T) {
	key, c := platformKey(t), client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{9}
	v, err := c.NewVEK(t.Context(), key, "a", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	vek, err := released(t, c, key, "a", a, vol, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{a.Wrapped.Ciphertext, a.Commitment, v.Sealed, v.Commitment} {
		if bytes.Contains(b, vek) {
			t.Error("the key is stored in the clear")
		}
	}
	// Our own memory has the key once, where this test reads it. Without that
	// copy it must be nowhere.
	found := findInMemory(t, vek)
	if found {
		t.Error("the volume's key is in the supervisor's memory beside the worker's copy")
	}
}

// What SDKs and modules leave behind goes with the agent that used them.
func TestClient_ReplacesUsedAgent(t *testing.T) {
	token := hsmtest.NewToken(t)
	key, c := tokenKey(token), client(t, 0)
	c.SetRetireAfter(time.Second)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{9}
	v, err := c.NewVEK(t.Context(), key, "a", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	vek, err := released(t, c, key, "a", a, vol, v)
	if err != nil {
		t.Fatal(err)
	}
	first := c.PID()
	c.SetRetireAfter(time.Hour) // of the next
	eventually(t, func() bool { return c.PID() != first && syscall.Kill(first, 0) != nil })
	second := c.PID()
	if second == 0 {
		t.Fatal("no fresh agent waits")
	}
	// An answer shows that the program runs: before, there is little to search.
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("the fresh agent does not work: %v", err)
	}
	if c.PID() != second {
		t.Error("the agent that waited was not used")
	}
	if searchMemory(t, second, vek, false) {
		t.Error("the fresh agent's memory has the volume's key")
	}
}
