package account

import (
	"fmt"
	"strings"
	"time"

	"cmkfs/hsm"
)

// warnDays are how long before an expiry a warning is due, in days.
var warnDays = []int{30, 7, 1}

// stage returns the smallest number of days of warnDays that is left at most,
// and 0 if the time is over. due is false if no warning is due.
func stage(expires, now time.Time) (days int, due bool) {
	if expires.IsZero() {
		return 0, false
	}
	left := expires.Sub(now)
	if left <= 0 {
		return 0, true
	}
	for _, d := range warnDays {
		if left <= time.Duration(d)*24*time.Hour {
			days, due = d, true
		}
	}
	return days, due
}

// expiryWarning says what will expire or has, "" for nothing. The sentence
// changes with the stage only, so that it can be compared.
func expiryWarning(info hsm.Info, now time.Time) string {
	var all []string
	say := func(what string, expires time.Time, expired, hint string) {
		days, due := stage(expires, now)
		if !due {
			return
		}
		when := "has expired"
		switch {
		case days == 1:
			when = "expires within a day"
		case days > 0:
			when = fmt.Sprintf("expires within %d days", days)
		}
		text := fmt.Sprintf("%s %s, at %s", what, when, expires.UTC().Format(time.RFC3339))
		if days == 0 {
			text += ", " + expired
		}
		all = append(all, text+": "+hint)
	}
	say("the key", info.Expires, "data stays available", "renew it")
	say("the credential that asks for the key", info.CredentialExpires, "and with it the right to ask", "renew it")
	return strings.Join(all, "; ")
}
