package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// followTimeout bounds the taking over of a new version of a key.
const followTimeout = 30 * time.Second

// followPause is how many check intervals pass between two attempts to take
// over a version that could not be taken over.
const followPause = 10

// follower takes over new versions of the account's key. It works beside the
// checks, one version at a time, and what it fails at changes nothing.
type follower struct {
	mu struct {
		sync.Mutex
		working chan struct{} // closed at the end of the attempt under way; nil = there was none
		refused string        // the version that could not be taken over last
		warning string        // about it
		again   time.Time     // when to try it again
	}
}

// wait waits for the end of an attempt under way.
func (f *follower) wait() {
	f.mu.Lock()
	working := f.mu.working
	f.mu.Unlock()
	if working != nil {
		<-working
	}
}

// warn joins what there is to say about a new version to another warning.
func (f *follower) warn(other string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other != "" && f.mu.warning != "" {
		return other + "; " + f.mu.warning
	}
	return other + f.mu.warning
}

// begin says whether to try a version now. If so, the caller calls end.
func (f *follower) begin(version string) (end func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.working != nil {
		select {
		case <-f.mu.working:
		default:
			return nil, false
		}
	}
	if f.mu.refused == version && time.Now().Before(f.mu.again) {
		return nil, false
	}
	working := make(chan struct{})
	f.mu.working = working
	return func() { close(working) }, true
}

// note remembers why a version cannot be taken over, nil if there is none to be
// taken over. It reports whether that is news.
func (f *follower) note(version string, err error, again time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.mu.refused, f.mu.warning, f.mu.again = "", "", time.Time{}
		return false
	}
	news := f.mu.refused != version
	f.mu.refused, f.mu.again = version, again
	f.mu.warning = "the key's new version " + version + " cannot be used, the one before it stays in force: " + sentence(err)
	return news
}

// follow takes over a new version of the account's key, if a successful check
// has seen one. It returns at once.
func (a *acct) follow(info hsm.Info) {
	newest := info
	if info.Newer != nil {
		newest = *info.Newer
	}
	if newest.KeyID == "" {
		return // it could not be read
	}
	version := a.record().Outdated(newest, time.Now())
	if version == "" {
		a.follower.note("", nil, time.Time{})
		return
	}
	if err := newest.Usable(time.Now()); err != nil {
		a.refuse(version, err, time.Time{}) // the next check looks again, and that is all it costs
		return
	}
	end, ok := a.follower.begin(version)
	if !ok {
		return
	}
	go func() {
		defer end()
		a.takeOver(version)
	}()
}

// takeOver wraps the account's keys with the newest version of the customer's,
// which was version when it was seen.
func (a *acct) takeOver(version string) {
	// A command that changes the account goes before; a later check tries again.
	given, end, ok := a.beginResume()
	if !ok {
		return
	}
	defer end()
	if !a.changes.TryLock() {
		return
	}
	defer a.changes.Unlock()
	ctx, cancel := context.WithTimeout(given, followTimeout)
	defer cancel()
	old := a.record()
	record, err := old.Followed(ctx, keys{a.agent("")})
	if err == nil {
		// A crash before this leaves the old version in force, one after it the
		// new one.
		err = a.save(record)
	}
	switch {
	case err == nil:
		a.follower.note("", nil, time.Time{})
	case given.Err() == nil: // not given up
		pause := followPause * time.Duration(old.Policy.CheckInterval)
		var keyErr *hsm.Error
		if errors.As(err, &keyErr) {
			pause = max(pause, keyErr.RetryAfter)
		}
		a.refuse(version, err, time.Now().Add(pause))
	}
}

// refuse notes that a version cannot be taken over.
func (a *acct) refuse(version string, err error, again time.Time) {
	if a.follower.note(version, err, again) {
		a.keyEvent(account.Event{Kind: account.AuditKeyVersionRefused, Reason: sentence(err), Detail: map[string]string{"refusedKeyId": version}})
	}
}

// sentence is an error without the details that are for the log.
func sentence(err error) string {
	var e *hsm.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
