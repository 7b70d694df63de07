package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cmkfs/account"
)

type accountEventsCmd struct {
	Follow bool      `short:"f" help:"Go on with new events as they come, also while the daemon is restarted."`
	Since  sinceTime `placeholder:"WHEN" help:"Only events since then: 24h, 2026-01-31 or 2026-01-31T12:00:00Z."`
	outputFlag
}

// Help has the command's example.
func (*accountEventsCmd) Help() string {
	return "The audit log is a chain: a line that was changed, removed, inserted or cut off at the end is reported. Works without a daemon. With -o json every event is one line.\n\nExample:\n  cmkfsd account events --since 24h -o json"
}

// sinceTime is a moment on the command line: a time, or how long ago it was.
type sinceTime struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *sinceTime) UnmarshalText(b []byte) error {
	if ago, err := time.ParseDuration(string(b)); err == nil && ago >= 0 {
		s.Time = time.Now().Add(-ago)
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, string(b), time.Local); err == nil {
			s.Time = t
			return nil
		}
	}
	return &usageError{message: "\"" + string(b) + "\" is no time: write 24h, 2026-01-31 or 2026-01-31T12:00:00Z"}
}

// followInterval is how often a followed log is looked at.
const followInterval = 300 * time.Millisecond

// Run prints the audit log.
func (c *accountEventsCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	var last uint64
	show := func(e account.Event) error {
		if e.Seq <= last || e.Time.Before(c.Since.Time) {
			return nil
		}
		last = e.Seq
		if c.Output == "json" {
			return json.NewEncoder(s.out).Encode(e)
		}
		_, err := fmt.Fprintln(s.out, eventLine(e))
		return err
	}
	if !c.Follow {
		return d.Events(a.Name, 0, show)
	}
	return c.follow(s, d, a.Name, show)
}

// follow shows events until the command is ended or the account is deleted. A
// log that is broken is followed all the same, and reported once.
func (c *accountEventsCmd) follow(s *session, d *account.Dir, name string, show func(account.Event) error) error {
	r, err := d.ReadEvents(name)
	if err != nil {
		return err
	}
	defer func() { r.Close() }()
	var broken, again *account.ChainError
	for {
		err := r.Read(show)
		switch {
		case errors.As(err, &again) && broken == nil:
			// A line that could not be stored may have been seen before it was
			// taken back: only what is still wrong from the beginning counts.
			r.Close()
			if r, err = d.ReadEvents(name); err != nil {
				return err
			}
			if err := r.Read(show); errors.As(err, &broken) {
				fmt.Fprintf(s.err, "cmkfsd: %v\n", broken)
			} else if err != nil {
				return err
			}
		case err != nil && !errors.As(err, &again):
			return err
		}
		select {
		case <-time.After(followInterval):
		case <-s.ctx.Done():
			if broken != nil {
				return broken
			}
			return nil
		}
		if _, err := d.Account(name); err != nil {
			return err
		}
	}
}

func eventLine(e account.Event) string {
	words := []string{e.Time.Local().Format(time.DateTime), fmt.Sprintf("%-13s", e.Severity), e.Kind}
	if e.Volume != "" {
		words = append(words, e.Volume)
	}
	if e.From != "" || e.To != "" {
		words = append(words, e.From+" -> "+e.To)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		words = append(words, k+"="+e.Detail[k])
	}
	if e.KeyID != "" {
		words = append(words, "keyId="+e.KeyID)
	}
	if e.Reason != "" {
		words = append(words, "("+e.Reason+")")
	}
	return strings.Join(words, "  ")
}
