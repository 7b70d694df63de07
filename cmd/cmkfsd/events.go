package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cmkfs/account"
)

type accountEventsCmd struct {
	Follow bool `short:"f" help:"Go on with new events as they come."`
	outputFlag
}

// Help has the command's example.
func (*accountEventsCmd) Help() string {
	return "The audit log is a chain: a line that was changed, removed or inserted is reported. Works without a daemon. With -o json every event is one line.\n\nExample:\n  cmkfsd account events -o json"
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
	printNew := func() error {
		return d.Events(a.Name, last, func(e account.Event) error {
			last = e.Seq
			if c.Output == "json" {
				return json.NewEncoder(s.out).Encode(e)
			}
			_, err := fmt.Fprintln(s.out, eventLine(e))
			return err
		})
	}
	for {
		if err := printNew(); err != nil || !c.Follow {
			return err
		}
		select {
		case <-time.After(followInterval):
		case <-s.ctx.Done():
			return nil
		}
	}
}

func eventLine(e account.Event) string {
	words := []string{e.Time.Local().Format(time.DateTime), e.Kind}
	if e.Volume != "" {
		words = append(words, e.Volume)
	}
	if e.From != "" || e.To != "" {
		words = append(words, e.From+" -> "+e.To)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		words = append(words, k+"="+e.Detail[k])
	}
	if e.Reason != "" {
		words = append(words, "("+e.Reason+")")
	}
	return strings.Join(words, "  ")
}
