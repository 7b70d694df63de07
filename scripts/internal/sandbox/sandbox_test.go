package sandbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkfs/scripts/internal/sandbox"
)

func TestSandbox_Clean(t *testing.T) {
	box, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "600")
	left.Env = box.Env()
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	if err := os.WriteFile(filepath.Join(box.Dir(), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	leftovers := strings.Join(box.Clean(), "\n")
	if want := fmt.Sprintf("process %d (sleep 600)", left.Process.Pid); leftovers != want {
		t.Errorf("leftovers %q, want %q", leftovers, want)
	}
	if err := <-ended; err == nil {
		t.Error("the process ended by itself")
	}
	if _, err := os.Stat(box.Dir()); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	if again := box.Clean(); len(again) != 0 {
		t.Errorf("a clean sandbox has leftovers: %q", again)
	}
}
