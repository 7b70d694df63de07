package main

import (
	"fmt"
	"strconv"
)

type statusCmd struct{ outputFlag }

// Help has the command's example.
func (*statusCmd) Help() string {
	return "Exit code 7 says that no daemon runs, and so nothing is mounted.\n\nExample:\n  cmkfsd status -o json"
}

// Run shows what the daemon knows.
func (c *statusCmd) Run(s *session) error {
	client, _, err := s.client()
	if err != nil {
		return err
	}
	status, err := client.Status(s.ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return s.printJSON(status)
	}
	if !status.Resend {
		fmt.Fprintln(s.out, "restart protection is off: this kernel cannot repeat the requests of a worker that died")
	}
	if len(status.Accounts) == 0 {
		fmt.Fprintln(s.out, "no accounts yet: cmkfsd account create --name A")
	}
	for _, a := range status.Accounts {
		s.printFields("account", a.Name, "state", a.State, "reason", a.Reason, "cause", a.Cause, "since", showTime(a.Since), "key source", a.KeySource, "key", a.KeyID,
			"last check", showTime(a.LastCheck), "last success", showTime(a.LastSuccess), "lease expires", showTime(a.LeaseExpires), "next", a.NextAction, "key expires", showTime(a.KeyExpires), "credential expires", showTime(a.CredentialExpires), "warning", a.Warning, "unfinished", showUnfinished(a.Unfinished))
		if len(a.Volumes) > 0 {
			fmt.Fprintln(s.out)
			var rows [][]string
			for _, v := range a.Volumes {
				rows = append(rows, volumeRow(v))
			}
			s.printTable(volumeHeader, rows)
		}
		fmt.Fprintln(s.out)
	}
	return nil
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }
