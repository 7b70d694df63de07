package sandbox_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// A process that waits for a file system whose server has taken its request and
// says nothing cannot be killed, until the connection is aborted.
func TestSandbox_Kill_HungFileSystem(t *testing.T) {
	box, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(box.Dir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dev)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)
	if err := unix.Mount("sandbox-test", dir, "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	hung := exec.Command("ls", dir)
	hung.Env = box.Env()
	if err := hung.Start(); err != nil {
		t.Fatal(err)
	}
	// INIT needs an answer before ls can ask for anything.
	request := make([]byte, 1<<17)
	if _, err := unix.Read(dev, request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 16+64)
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], request[8:16])             // unique
	binary.NativeEndian.PutUint32(reply[16:], 7) // protocol 7.31
	binary.NativeEndian.PutUint32(reply[20:], 31)
	if _, err := unix.Write(dev, reply); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(dev, request); err != nil {
		t.Fatal(err)
	}

	box.Kill(os.Getpid())
	ended := make(chan error, 1)
	go func() { ended <- hung.Wait() }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the process still hangs")
	}
	if leftovers := strings.Join(box.Clean(), "\n"); leftovers != "mount "+dir {
		t.Errorf("leftovers %q", leftovers)
	}
}
