package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLog returns the daemon's log. If standard error is the journal, each
// record begins with its priority as the journal wants it (sd-daemon(3)), so that
// journalctl -p finds what is urgent.
func newLog(w io.Writer) *slog.Logger {
	if is, err := journal.StderrIsJournalStream(); err != nil || !is {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	h := &journalHandler{out: &journalOutput{w: w}}
	h.text = slog.NewTextHandler(&h.out.record, nil)
	return slog.New(h)
}

// journalOutput is where one record after the other is put together.
type journalOutput struct {
	mu     sync.Mutex // guards record, and keeps the order of lines
	record bytes.Buffer
	w      io.Writer
}

// journalHandler is a text handler whose records begin with a priority.
type journalHandler struct {
	out  *journalOutput
	text slog.Handler // writes to out.record
}

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.text.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.record.Reset()
	fmt.Fprintf(&h.out.record, "<%d>", priority(r.Level))
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.out.w.Write(h.out.record.Bytes())
	return err
}

// priority is a level in the words of syslog.
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.out, h.text.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.out, h.text.WithGroup(name)}
}
