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

// SQLite works in a new folder of that name below in, and inserts a row per
// transaction, as durably as SQLite can. journal is its journal mode, "delete"
// or "wal".
func SQLite(in, journal string) *App {
	var mu sync.Mutex
	var n int
	acked := map[string]bool{}
	dir := filepath.Join(in, "sqlite")
	db := filepath.Join(dir, "db")
	do := func(ctx context.Context, sql string) (string, error) {
		return command{}.run(ctx, "sqlite3", "-bail", "-batch", "-cmd", ".timeout 5000", "-cmd", "pragma synchronous=extra", db, sql)
	}
	return &App{
		Name: "SQLite", rest: 20 * time.Millisecond,
		prepare: func(ctx context.Context) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			_, err := do(ctx, "pragma journal_mode="+journal+"; create table t (n integer primary key, body text)")
			return err
		},
		work: func(ctx context.Context) error {
			// Some transactions by one process: it empties a log of its own when
			// it ends. What it has printed is committed.
			var sql strings.Builder
			for range 4 {
				n++
				fmt.Fprintf(&sql, "insert into t values (%d, hex(randomblob(400))); select %d;", n, n)
			}
			out, err := do(ctx, sql.String())
			mu.Lock()
			defer mu.Unlock()
			for _, row := range strings.Fields(out) {
				acked[row] = true
			}
			return err
		},
		verify: func(ctx context.Context) (bad []string) {
			out, err := do(ctx, "pragma integrity_check")
			if err != nil || strings.TrimSpace(out) != "ok" {
				bad = append(bad, fmt.Sprintf("integrity check: %s %v", strings.TrimSpace(out), err))
			}
			out, err = do(ctx, "select n from t")
			if err != nil {
				return append(bad, err.Error())
			}
			there := map[string]bool{}
			for _, row := range strings.Fields(out) {
				there[row] = true
			}
			mu.Lock()
			defer mu.Unlock()
			missing := 0
			for row := range acked {
				if !there[row] {
					missing++
				}
			}
			if missing > 0 || len(acked) == 0 {
				bad = append(bad, fmt.Sprintf("%d of %d committed rows are missing", missing, len(acked)))
			}
			return bad
		},
	}
}
