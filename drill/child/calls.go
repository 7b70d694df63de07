package child

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrBus is a page of a mapping that cannot be had.
var ErrBus = errors.New("SIGBUS")

// Paged runs f, in which a page of a mapping that cannot be had is ErrBus. The
// goroutine must have called debug.SetPanicOnFault(true).
func Paged(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(interface{ Addr() uintptr }); !ok {
				panic(p)
			}
			err = ErrBus
		}
	}()
	return f()
}

// Errno is the name of an error's errno, or else its text.
func Errno(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
	}
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	return err.Error()
}
