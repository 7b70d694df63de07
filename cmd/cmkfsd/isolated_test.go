package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// isolated runs shell scripts in namespaces of their own.
type isolated struct {
	work  string // folder they run in
	flags uintptr
	env   []string
	// user makes a user namespace around them: root of it may set up a network
	// where root of the machine may not.
	user bool
}

// letGo lets go of the volumes that a mount namespace of one's own has copies of:
// others unmount them meanwhile, and a copy keeps them from ending.
const letGo = `awk '/ - fuse/ {print $5}' /proc/self/mountinfo | xargs -r umount --no-canonicalize --lazy
`

// run runs a script until its first command that fails; "refused COMMAND…" wants
// a command to fail. The error has the script's output.
func (i isolated) run(text string) error {
	out, err := os.Create(filepath.Join(i.work, "output")) // a file: a daemon that stays must not keep a pipe open
	if err != nil {
		return err
	}
	defer out.Close()
	if i.flags&syscall.CLONE_NEWNS != 0 {
		text = letGo + text
	}
	cmd := exec.Command("sh", "-exc", "refused() { if \"$@\"; then return 1; fi; }\n"+text)
	if i.flags&syscall.CLONE_NEWNET != 0 {
		cmd.Args = append([]string{os.Args[0], linkLocalCommand}, cmd.Args...)
		cmd.Path = "/proc/self/exe"
	}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = i.env, i.work, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: i.flags}
	if i.user {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  i.flags | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
	}
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%w\n%s", err, b)
	}
	return nil
}

// ownNetwork returns what can run scripts in a network of their own.
func ownNetwork(work string, env []string) (isolated, error) {
	i := isolated{work: work, flags: syscall.CLONE_NEWNET, env: env}
	if err := i.run("true"); err != nil {
		i.user = true
		return i, i.run("true")
	}
	return i, nil
}

// linkLocalCommand is how the test's program gives a network of its own its
// addresses before it becomes another program.
const linkLocalCommand = "with-link-local-addresses"

// linkLocal brings the loopback device up, gives it the address of a virtual
// machine's metadata service too, and executes a command.
func linkLocal(command []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	address, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := address.SetInet4Addr([]byte{169, 254, 169, 254}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, address); err != nil {
		return fmt.Errorf("address of lo: %w", err)
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, command, os.Environ())
}

// startEmulator runs an emulator until the test ends and returns what a client
// needs as KEY=value lines.
func startEmulator(t *testing.T, dir string, env []string) string {
	t.Helper()
	emulator := exec.Command(filepath.Join(bin, "keyvault-emulator"), "--dir", dir)
	if err := emulator.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = emulator.Process.Signal(syscall.SIGTERM)
		_ = emulator.Wait()
	})
	for range 500 {
		ask := exec.Command(filepath.Join(bin, "keyvault-emulator"), "ctl", "--dir", dir, "env")
		ask.Env = env
		if out, err := ask.Output(); err == nil && strings.Contains(string(out), "KEYVAULT_EMULATOR_KEY_URI=") {
			return string(out)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the emulator does not answer")
	return ""
}
