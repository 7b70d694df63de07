package fs_test

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iocb and ioEvent are of <linux/aio_abi.h>.
type iocb struct {
	_           [16]byte // data, key, flags
	opcode      uint16
	_           int16 // priority
	fd          uint32
	buf, nbytes uint64
	offset      int64
	_           [16]byte // reserved, more flags, an eventfd
}

type ioEvent struct {
	_   [16]byte // whose it is
	res int64
	_   int64
}

const ioCmdPwrite = 1

// aioWrite writes with the kernel's AIO interface and waits for the end.
func aioWrite(ctx uintptr, fd int, data []byte, off int64) error {
	cb := &iocb{opcode: ioCmdPwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&data[0]))), nbytes: uint64(len(data)), offset: off}
	list := [1]*iocb{cb}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&list))); errno != 0 {
		return fmt.Errorf("io_submit: %w", errno)
	}
	var ev ioEvent
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, 1, uintptr(unsafe.Pointer(&ev)), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n != 1 || ev.res != int64(len(data)) {
			return fmt.Errorf("io_getevents: %d events, result %d: %w", n, ev.res, errno)
		}
		return nil
	}
}

// testAIO writes past the cache with AIO while others fill the cache by reading:
// what was written is what the next buffered read sees.
func testAIO(t *testing.T, dir string) {
	const size = 640 << 10
	p := dir + "/f"
	must(t, os.WriteFile(p, make([]byte, size), 0o644))
	direct, err := os.OpenFile(p, os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer direct.Close()
	var ctx uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 4, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 {
		t.Fatalf("io_setup: %v", errno)
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0)
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer unix.Munmap(data)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 2 {
		wg.Go(func() {
			f, err := os.Open(p)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for b := make([]byte, size); ; {
				select {
				case <-stop:
					return
				default:
					f.ReadAt(b, 0)
				}
			}
		})
	}
	f, err := os.Open(p)
	must(t, err)
	defer f.Close()
	got := make([]byte, size)
	end := time.Now().Add(3 * time.Second)
	for i := 1; i <= 300 && time.Now().Before(end); i++ {
		for j := range data {
			data[j] = byte(i)
		}
		must(t, aioWrite(ctx, int(direct.Fd()), data, 0))
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("round %d: old pages are read", i)
		}
	}
}
