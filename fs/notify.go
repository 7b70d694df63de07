package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errGone reports that the kernel has ended the connection: the file system was
// unmounted or aborted.
var errGone = errors.New("FUSE connection is gone")

// gone reports whether an errno of the device means errGone.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ECONNREFUSED) ||
		errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENOTCONN)
}

// reply writes an answer. One that the kernel no longer waits for is dropped.
func reply(fd int, b []byte) error {
	for {
		_, err := unix.Write(fd, b)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT):
			// Either nobody waits any more, or the kernel has sent the
			// request again meanwhile and knows it by its new number.
			if u := binary.NativeEndian.Uint64(b[8:]); u&uniqueResend == 0 {
				binary.NativeEndian.PutUint64(b[8:], u|uniqueResend)
				continue
			}
			return nil
		case gone(err):
			return errGone
		default:
			return fmt.Errorf("answer the kernel: %w", err)
		}
	}
}

// notify writes a notification. It may wait for requests in flight and for dirty
// pages to be written back, unkillably: never call it from a handler or under a
// lock, but for invalidateAttr.
func notify(fd int, code int32, body []byte) error {
	b := make([]byte, outHeaderSize, outHeaderSize+len(body))
	b = append(b, body...)
	putOutHeader(b, len(b), code, 0)
	_, err := unix.Write(fd, b)
	if err != nil && gone(err) {
		return errGone
	}
	return err
}

// invalidateAttr makes the kernel forget a node's attributes, but not its pages.
// Because it touches no page it waits for nothing, and handlers may call it.
func invalidateAttr(fd int, ino uint64) error {
	body := make([]byte, 24)
	binary.NativeEndian.PutUint64(body, ino)
	binary.NativeEndian.PutUint64(body[8:], ^uint64(0)) // offset -1
	return notify(fd, notifyInvalInode, body)
}

// invalidateSpan makes the kernel give up pages, after it has written them back.
// It may wait, as notify says.
func invalidateSpan(fd int, p span) error {
	body := make([]byte, 24) // length 0: to the end
	binary.NativeEndian.PutUint64(body, p.node)
	binary.NativeEndian.PutUint64(body[8:], uint64(p.offset))
	binary.NativeEndian.PutUint64(body[16:], uint64(p.length))
	return notify(fd, notifyInvalInode, body)
}

// resend asks the kernel for the requests that were read and never answered.
// Whoever calls it must not have read any yet.
func resend(fd int) error {
	if err := notify(fd, notifyResend, nil); err != nil {
		return fmt.Errorf("ask for requests to be sent again: %w", err)
	}
	return nil
}
