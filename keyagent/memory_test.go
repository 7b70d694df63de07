package keyagent_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// findInMemory overwrites key with its complement and searches this process's
// writable memory for the original, which is only ever held a byte at a time.
func findInMemory(t *testing.T, key []byte) bool {
	t.Helper()
	for i := range key {
		key[i] = ^key[i]
	}
	runtime.GC()
	return searchMemory(t, os.Getpid(), key, true)
}

// searchMemory searches a process's writable memory for key or its complement.
func searchMemory(t *testing.T, pid int, key []byte, inverted bool) bool {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	own := uintptr(unsafe.Pointer(&buf[0]))
	lines := bufio.NewScanner(maps)
	var total int
	for lines.Scan() {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for at := from; at < to; {
			n := min(uintptr(len(buf)), to-at)
			if pid == os.Getpid() && at < own+uintptr(len(buf)) && at+n > own { // the buffer itself
				if at >= own {
					at = own + uintptr(len(buf))
					continue
				}
				n = own - at
			}
			got, _ := mem.ReadAt(buf[:n], int64(at))
			total += got
			if inverted && containsComplement(buf[:got], key) || !inverted && bytes.Contains(buf[:got], key) {
				return true
			}
			at += max(n-min(n-1, uintptr(len(key)-1)), 1) // what lies across two reads is found, too
		}
	}
	if total < 1<<20 {
		t.Fatalf("only %d bytes of memory were searched", total)
	}
	return false
}

// containsComplement searches for the complement of inverted.
func containsComplement(b, inverted []byte) bool {
	for {
		i := bytes.IndexByte(b, ^inverted[0])
		if i < 0 || i+len(inverted) > len(b) {
			return false
		}
		same := true
		for j := range inverted {
			if b[i+j] != ^inverted[j] {
				same = false
				break
			}
		}
		if same {
			return true
		}
		b = b[i+1:]
	}
}

func TestFindInMemory_Finds(t *testing.T) {
	key := []byte("a key that is held in two places")
	other := bytes.Clone(key)
	if !findInMemory(t, key) {
		t.Error("a copy was not found, so the search proves nothing")
	}
	runtime.KeepAlive(other)
}
