package fs_test

import (
	"reflect"
	"testing"

	"cmkfs/fs"
)

func TestGate_StatesAndRequests(t *testing.T) {
	write := func(flags uint32) []byte { return fs.Request(16, 2, 5, 0, 0, 0, 0, 4096, flags, 0, 0, 0, 0) }
	setattr := func(valid uint32) []byte { return fs.Request(4, 2, 5, valid) }
	for _, c := range []struct {
		what             string
		request          []byte
		draining, closed bool
	}{
		{"LOOKUP", fs.Request(1, 2, 1), false, false},
		{"GETATTR", fs.Request(3, 2, 1), false, false},
		{"READ", fs.Request(15, 2, 5), false, false},
		{"WRITE by write(2)", write(0), false, false},
		{"WRITE of dirty pages", write(1), true, false},
		{"WRITE of dirty pages that clears set-user-ID", write(5), true, false},
		{"SETATTR of kept times", setattr(1<<5 | 1<<10), true, false},
		{"SETATTR of kept times with handle", setattr(1<<5 | 1<<10 | 1<<6), true, false},
		{"SETATTR of the size", setattr(1<<3 | 1<<5), false, false},
		{"SETATTR of the mode", setattr(1), false, false},
		{"FSYNC", fs.Request(20, 2, 5), true, false},
		{"FSYNCDIR", fs.Request(30, 2, 5), true, false},
		{"FLUSH", fs.Request(25, 2, 5), true, false},
		{"RELEASE", fs.Request(18, 2, 5), true, false},
		{"STATFS", fs.Request(17, 2, 1), false, false},
		{"GETXATTR", fs.Request(22, 2, 1), false, false},
		{"READDIRPLUS", fs.Request(44, 2, 1), false, false},
		{"MKNOD", fs.Request(8, 2, 1), false, false},
	} {
		if !fs.LetThrough(0, c.request) {
			t.Errorf("%s: refused by an open gate", c.what)
		}
		if got := fs.LetThrough(1, c.request); got != c.draining {
			t.Errorf("%s: let through while draining: %v", c.what, got)
		}
		if got := fs.LetThrough(2, c.request); got != c.closed {
			t.Errorf("%s: let through by a closed gate: %v", c.what, got)
		}
	}
}

func TestMessage_Forgets(t *testing.T) {
	if got := fs.Forgets(fs.Request(2, 2, 5, 3, 0)); !reflect.DeepEqual(got, [][2]uint64{{5, 3}}) {
		t.Errorf("FORGET: %d", got)
	}
	batch := fs.Request(42, 2, 0, 2, 0, 7, 0, 1, 0, 8, 0, 2, 0)
	if got := fs.Forgets(batch); !reflect.DeepEqual(got, [][2]uint64{{7, 1}, {8, 2}}) {
		t.Errorf("BATCH_FORGET: %d", got)
	}
	if got := fs.Forgets(batch[:len(batch)-4]); !reflect.DeepEqual(got, [][2]uint64{{7, 1}}) {
		t.Errorf("cut BATCH_FORGET: %d", got)
	}
}
