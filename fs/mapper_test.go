package fs_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapperMain is a process that holds a file open and mapped and answers, line
// by line, what it can still do with it. A page fault on a mount must never
// happen in the process that answers the mount's requests.
func mapperMain() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	st, _ := f.Stat()
	maps := map[string][]byte{}
	for name, flags := range map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE} {
		if maps[name], err = unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("mapped")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		w := strings.Fields(in.Text())
		fmt.Println(mapperDo(f, maps, w))
	}
}

var openedDir *os.File // by "opendir"

// mapperDo does one of: "shared OFF", "private OFF" (read a byte), "dirty OFF
// BYTE" (write one), "dirtyall BYTE" (one in each page), "pread OFF", "pwrite OFF BYTE", "pwriteall BYTE" (the whole file), "resident" (pages in the kernel's cache),
// "fstat", "fsync", "msync", "stat PATH", "readdir PATH", "create PATH", "chdir PATH",
// "getwd", "opendir PATH" and "listdir" (of it), "reopen" (the file).
func mapperDo(f *os.File, maps map[string][]byte, w []string) (answer string) {
	debug.SetPanicOnFault(true)
	defer func() {
		if v := recover(); v != nil {
			answer = "SIGBUS"
		}
	}()
	arg := func(i int) int { n, _ := strconv.Atoi(w[i]); return n }
	var err error
	switch w[0] {
	case "shared", "private":
		return itoa(int(maps[w[0]][arg(1)]))
	case "dirty":
		maps["shared"][arg(1)] = byte(arg(2))
	case "dirtyall":
		for i := 0; i < len(maps["shared"]); i += 4096 {
			maps["shared"][i] = byte(arg(1))
		}
	case "pread":
		b := make([]byte, 1)
		if _, err = f.ReadAt(b, int64(arg(1))); err == nil {
			return itoa(int(b[0]))
		}
	case "pwrite":
		_, err = f.WriteAt([]byte{byte(arg(2))}, int64(arg(1)))
	case "pwritepage":
		_, err = f.WriteAt(make([]byte, 4096), int64(arg(1)))
	case "pwriteall":
		_, err = f.WriteAt(bytes.Repeat([]byte{byte(arg(1))}, len(maps["shared"])), 0)
	case "resident":
		return itoa(resident(maps["shared"]))
	case "fstat":
		_, err = f.Stat()
	case "stat":
		_, err = os.Stat(w[1])
	case "readdir":
		_, err = os.ReadDir(w[1])
	case "chdir":
		err = os.Chdir(w[1])
	case "getwd":
		b := make([]byte, 4096)
		var n int
		if n, err = unix.Getcwd(b); err == nil {
			return string(b[:n-1])
		}
	case "opendir":
		openedDir, err = os.Open(w[1])
	case "listdir":
		openedDir.Seek(0, io.SeekStart)
		var names []string
		if names, err = openedDir.Readdirnames(-1); err == nil {
			slices.Sort(names)
			return "ok " + strings.Join(names, " ")
		}
	case "reopen":
		var fd int
		if fd, err = unix.Open("/proc/self/fd/"+itoa(int(f.Fd())), unix.O_RDONLY, 0); err == nil {
			unix.Close(fd)
		}
	case "create":
		err = os.WriteFile(w[1], nil, 0644)
	case "fsync":
		err = f.Sync()
	case "msync":
		err = unix.Msync(maps["shared"], unix.MS_SYNC)
	}
	if err != nil {
		if e := errnoOf(err); e != 0 {
			return e.Error()
		}
		return err.Error()
	}
	return "ok"
}

// resident returns how many pages of a mapping could be read without asking
// anybody.
func resident(mapping []byte) (n int) {
	pages := make([]byte, len(mapping)/4096)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapping[0])), uintptr(len(mapping)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		panic(errno)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

// startMapper starts a process that maps a file.
func startMapper(t testing.TB, path string) *worker {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), roleEnv+"=mapper")
	w := start(t, cmd)
	w.expect(t, "mapped")
	t.Cleanup(w.end)
	return w
}

// end ends a process that reads its input to the end.
func (w *worker) end() {
	w.in.Close()
	w.cmd.Wait()
}

// say asks a mapper and checks its answer.
func (w *worker) say(t testing.TB, line, want string) {
	t.Helper()
	if got := w.ask(t, line); got != want {
		t.Errorf("%s: %q, want %q", line, got, want)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
