package account_test

import (
	"testing"
	"time"

	"cmkfs/account"
)

// A vault that throttles is asked again when it said, but not so late that an
// open lease runs out unasked, and not for ever.
func TestNext_RetryAfter(t *testing.T) {
	p := account.DefaultPolicy() // 60s, 10s after a failure, open for 10m
	now := t0.Add(time.Minute)   // of the success that leaseIn has, so 9m are left
	for name, c := range map[string]struct {
		state account.State
		after time.Duration
		want  time.Duration // from now to the next question
	}{
		"not said":                     {account.StateOnline, 0, 10 * time.Second},
		"less than we wait anyway":     {account.StateOnline, 2 * time.Second, 10 * time.Second},
		"a while":                      {account.StateOnline, 45 * time.Second, 45 * time.Second},
		"longer than between checks":   {account.StateOnline, 5 * time.Minute, 5 * time.Minute},
		"degraded already":             {account.StateDegraded, 5 * time.Minute, 5 * time.Minute},
		"workers start":                {account.StateRestoring, 5 * time.Minute, 5 * time.Minute},
		"longer than the lease":        {account.StateOnline, 20 * time.Minute, 8 * time.Minute},
		"just the end of the lease":    {account.StateOnline, 9 * time.Minute, 8 * time.Minute},
		"suspended":                    {account.StateSuspended, 5 * time.Minute, 5 * time.Minute},
		"suspended, longer than sense": {account.StateSuspended, 8760 * time.Hour, 10 * time.Minute},
	} {
		l, _ := account.Next(leaseIn(c.state), account.LeaseEvent{Kind: account.EventThrottled, Asked: now, RetryAfter: c.after}, now, p)
		if got := l.NextCheck.Sub(now); got != c.want {
			t.Errorf("%s: asked again after %v, want %v", name, got, c.want)
		}
	}
	// The last moments of a lease are asked as after any failure.
	late := t0.Add(9*time.Minute + 30*time.Second)
	l, _ := account.Next(leaseIn(account.StateDegraded), account.LeaseEvent{Kind: account.EventThrottled, Asked: late, RetryAfter: time.Hour}, late, p)
	if got := l.NextCheck.Sub(late); got != 10*time.Second {
		t.Errorf("at the end of the lease: asked again after %v", got)
	}
}
