package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const holdArg = "hold-a-file"

// hold is the application of the story: it opens a file once and keeps it open
// and mapped. For every line on standard input it tries to read through both
// and prints what it got: a checksum, or the error.
func hold(path string) {
	f, err := os.Open(path)
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	buf := make([]byte, 4096)
	m, err := syscall.Mmap(int(f.Fd()), 0, len(buf), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		fmt.Println("mmap:", err)
		os.Exit(1)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := f.ReadAt(buf, 0)
		fmt.Printf("read: %s; mapping: %s\n", outcome(buf[:n], err), mapped(m))
	}
}

// mapped reads a mapping and survives the SIGBUS of a page that is gone.
func mapped(m []byte) (seen string) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			seen = "SIGBUS"
		}
	}()
	return outcome(append([]byte(nil), m...), nil)
}

func outcome(b []byte, err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return fmt.Sprintf("sha256 %x", sha256.Sum256(b))
}

// holder is the story's side of such a process.
type holder struct {
	ask   func() error
	lines chan string
	close func() // ends the process and waits for it
}

// holdOpen starts a process that keeps a file open and mapped.
func (d *demo) holdOpen(path string) (*holder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, holdArg, path)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A pipe of our own: waiting for the process must not close it under the
	// reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	p, err := d.Start(cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	h := &holder{lines: make(chan string, 1), close: func() { p.Stop() }}
	h.ask = func() error { _, err := fmt.Fprintln(in); return err }
	go func() {
		defer close(h.lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			h.lines <- sc.Text()
		}
	}()
	return h, nil
}

// sees says what the process reads now. It must answer at once.
func (h *holder) sees() (string, error) {
	if err := h.ask(); err != nil {
		return "", err
	}
	select {
	case line, ok := <-h.lines:
		if !ok || !strings.HasPrefix(line, "read: ") {
			return "", fmt.Errorf("the process holding a file ended: %s", line)
		}
		return line, nil
	case <-time.After(5 * time.Second):
		return "", errors.New("the process holding a file hangs")
	}
}
