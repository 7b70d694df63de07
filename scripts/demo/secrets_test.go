package main

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// The search of the demo must find what is there, or finding nothing would mean
// nothing.
func TestSearchProcess_FindsText(t *testing.T) {
	text := strings.Join([]string{"in", "this", "process's", "memory"}, "-")
	held := []byte(strings.Repeat("x", 3<<20) + text)
	if err := searchProcess(os.Getpid(), []secret{{"a text", text}}); err == nil {
		t.Error("a text in memory was not found")
	}
	runtime.KeepAlive(held)
}

func TestSearch_FindsTextAcrossChunks(t *testing.T) {
	const chunk = 1 << 20
	for _, at := range []int{0, 1, chunk - 3, chunk, 2*chunk - 1} {
		content := strings.Repeat("x", at) + "secret" + strings.Repeat("x", 100)
		if search(strings.NewReader(content), int64(len(content)), []secret{{"it", "secret"}}, "here") == nil {
			t.Errorf("not found at %d", at)
		}
		if err := search(strings.NewReader(content), int64(len(content)), []secret{{"it", "Secret"}}, "here"); err != nil {
			t.Error(err)
		}
	}
}
