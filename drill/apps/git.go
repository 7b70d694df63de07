package apps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// git commits to a repository. A lock that a command has left when it was
// refused is removed first, as its user would.
func git(in string) *App {
	var mu sync.Mutex
	var n, commits int
	var last string // commit
	dir := filepath.Join(in, "git")
	c := command{env: []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/nonexistent", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=drill", "GIT_AUTHOR_EMAIL=drill@localhost", "GIT_COMMITTER_NAME=drill", "GIT_COMMITTER_EMAIL=drill@localhost"}}
	const commit = `cd "$1" && rm -f .git/*.lock .git/refs/heads/*.lock && echo "$2" > "f$3" && git add . && git commit -q -m "$2" && git rev-parse HEAD`
	return &App{
		Name: "git", rest: 50 * time.Millisecond,
		prepare: func(ctx context.Context) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if _, err := c.run(ctx, "git", "init", "-q", "-b", "main", dir); err != nil {
				return err
			}
			_, err := c.run(ctx, "git", "-C", dir, "config", "gc.auto", "0")
			return err
		},
		work: func(ctx context.Context) error {
			n++
			out, err := c.run(ctx, "sh", "-c", commit, "sh", dir, fmt.Sprint("change ", n), fmt.Sprint(n%7))
			if err == nil {
				mu.Lock()
				last, commits = strings.TrimSpace(out), commits+1
				mu.Unlock()
			}
			return err
		},
		verify: func(ctx context.Context) (bad []string) {
			mu.Lock()
			id, count := last, commits
			mu.Unlock()
			if id == "" {
				return []string{"nothing was committed"}
			}
			if out, err := c.run(ctx, "git", "-C", dir, "fsck", "--full"); err != nil {
				bad = append(bad, fmt.Sprintf("fsck: %v %s", err, out))
			}
			if _, err := c.run(ctx, "git", "-C", dir, "merge-base", "--is-ancestor", id, "HEAD"); err != nil {
				bad = append(bad, fmt.Sprintf("the last of %d commits is missing: %v", count, err))
			}
			return bad
		},
	}
}
