package drill

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"cmkfs/account"
	"cmkfs/drill/report"
	"cmkfs/drill/workload"
)

// sampleTime is how long a sample is.
const sampleTime = 100 * time.Millisecond

// noDaemon is a sample's state while nobody answers.
const noDaemon = "no daemon"

// watch is what is seen of daemon and programs while a drill runs.
type watch struct {
	scene  *scene
	events *account.EventReader
	ended  chan struct{}
	cancel context.CancelFunc
	mu     struct {
		sync.Mutex
		crew        *workload.Crew // nil before the work begins
		seen        workload.Tally // at the last sample
		samples     []report.Sample
		checks      []report.Check
		lastSuccess time.Time
		causes      []string // of not being online: also a check that does not end is one
		// decided is when access was ended last, by the key or an operator; of
		// the audit log, so it is the daemon's own time.
		decided     time.Time
		degraded    time.Time // when the first failure was noticed
		suspensions int
	}
}

// startWatch begins.
func startWatch(ctx context.Context, s *scene) (*watch, error) {
	events, err := s.state.ReadEvents(s.account)
	if err != nil {
		return nil, err
	}
	// What came before is not this drill's.
	if err := events.Read(func(account.Event) error { return nil }); err != nil {
		events.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{scene: s, events: events, ended: make(chan struct{}), cancel: cancel}
	w.mu.seen.Errors = map[string]int64{}
	go w.run(ctx)
	return w, nil
}

// stop ends it and takes in the last events.
func (w *watch) stop() {
	w.cancel()
	<-w.ended
	w.readEvents()
	w.events.Close()
}

func (w *watch) run(ctx context.Context) {
	defer close(w.ended)
	tick := time.NewTicker(sampleTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.sample(ctx)
		w.readEvents()
	}
}

// sample looks once.
func (w *watch) sample(ctx context.Context) {
	s := w.scene
	a, v, _, err := s.status(ctx)
	sample := report.Sample{State: a.State, Mount: v.State}
	if err != nil {
		sample.State, sample.Mount = noDaemon, "unmounted"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.crew != nil {
		now := w.mu.crew.Total()
		sample.Reads, sample.Writes, sample.Metadata = now.Reads-w.mu.seen.Reads, now.Writes-w.mu.seen.Writes, now.Metadata-w.mu.seen.Metadata
		sample.Errors = sum(now.Errors) - sum(w.mu.seen.Errors)
		w.mu.seen = now
	}
	sample.At = s.since(time.Now())
	if a.Cause != "" {
		w.mu.causes = appendNew(w.mu.causes, a.Cause)
	}
	w.mu.samples = append(w.mu.samples, sample)
	s.live.Sample(sample)
	if err == nil && a.LastSuccess.After(w.mu.lastSuccess) {
		w.mu.lastSuccess = a.LastSuccess
		w.checkLocked(report.Check{At: s.since(a.LastCheck), Class: "ok"})
	}
}

func (w *watch) checkLocked(c report.Check) {
	w.mu.checks = append(w.mu.checks, c)
	w.scene.live.Check(c)
}

func sum(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// readEvents takes in what is new in the audit log. A chain that is broken is
// the final check's to report.
func (w *watch) readEvents() {
	_ = w.events.Read(func(e account.Event) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.takeLocked(e)
		return nil
	})
}

func (w *watch) takeLocked(e account.Event) {
	s := w.scene
	switch e.Kind {
	case account.AuditKeyOperation:
		if e.Detail["result"] != "ok" && e.Detail["count"] == "" {
			w.checkLocked(report.Check{At: s.since(e.Time), Class: e.Detail["result"], Detail: e.Reason})
		}
		return
	case account.AuditStateChanged:
		switch account.State(e.To) {
		case account.StateSuspending:
			w.mu.decided = e.Time
			w.mu.suspensions++
			fallthrough
		case account.StateDegraded:
			if w.mu.degraded.IsZero() {
				w.mu.degraded = e.Time
			}
		}
	}
	text := e.Kind
	if e.To != "" {
		text = fmt.Sprintf("%s to %s", cmp.Or(e.From, "nothing"), e.To)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	s.mark(report.Event{At: s.since(e.Time), Source: "daemon", Text: text})
}

// work tells of the crew, whose operations are counted from now on.
func (w *watch) work(c *workload.Crew) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.crew = c
}

// outage begins to look for what an outage does.
func (w *watch) outage() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.degraded, w.mu.decided, w.mu.suspensions, w.mu.causes = time.Time{}, time.Time{}, 0, nil
}

// noticed returns when a failure was noticed first, when access was ended last
// and how often, since outage.
func (w *watch) noticed() (degraded, decided time.Time, suspensions int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.degraded, w.mu.decided, w.mu.suspensions
}
