package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestServe_Journal_Priorities: with standard error being the journal, urgent
// events have the priority of errors.
func TestServe_Journal_Priorities(t *testing.T) {
	c := newHost(t, nil)
	stop(c.state, syscall.SIGTERM)
	path := filepath.Join(t.TempDir(), "journal")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(log.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(filepath.Join(bin, "cmkfsd"), "serve")
	daemon.Env, daemon.Stderr = append(c.env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino)), log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { _, _, exit := c.run("status"); return exit == 0 })
	c.must("account", "create", "--name", "b")
	c.must("--account", "b", "account", "update", "--check-interval", "1s", "--check-interval-unhealthy", "100ms", "--outage-grace", "30s")
	if err := os.Remove(filepath.Join(c.state, "platform.key")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(b), "msg=blocked")
	})
	stop(c.state, syscall.SIGTERM)
	_ = daemon.Wait()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"msg=serving": "<6>", "msg=account-created": "<6>", "msg=blocked": "<3>", "result=denied": "<3>", "msg=stopped": "<6>"}
	for line := range strings.Lines(string(b)) {
		for text, priority := range want {
			if strings.Contains(line, text) {
				if !strings.HasPrefix(line, priority+"time=") {
					t.Errorf("want %s: %s", priority, line)
				}
				delete(want, text)
			}
		}
		if !strings.HasPrefix(line, "<") {
			t.Errorf("no priority: %s", line)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v in\n%s", want, b)
	}
}
