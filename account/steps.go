package account

import "time"

// step is one application of the table.
type step struct {
	Lease
	ev      LeaseEvent
	now     time.Time
	policy  Policy
	effects []Effect
}

// operatorText is the reason of an operator's suspending.
const operatorText = "an operator has suspended access"

func (s *step) ignore() {}

func (s *step) do(e Effect) { s.effects = append(s.effects, e) }

// become changes the state; the reason stays, it is the caller's to change.
func (s *step) become(to State) {
	if s.State != to {
		s.State, s.Since = to, s.now
	}
}

// blame takes the event as the reason for the state.
func (s *step) blame() {
	s.Reason, s.Code, s.Cause = s.ev.Text, s.ev.Code, s.ev.Kind
}

// start begins a daemon's life: no worker runs, nothing is known about the
// key. What was suspended stays so; everything else opens once the key answers.
func (s *step) start() {
	s.Version = FormatVersion
	s.KeyGood, s.Denials, s.Warning = false, 0, ""
	s.Operator = s.Operator || s.LockAsked
	s.Opening, s.RestoreAsked, s.LockAsked = false, false, false
	s.Expires, s.NextCheck = time.Time{}, time.Time{}
	if s.State == StateSuspending || s.State == StateSuspended {
		s.become(StateSuspended)
	} else {
		s.State, s.Since = StateRestoring, s.now
		s.Reason, s.Code, s.Cause = "the daemon has started", "", EventStart
		s.Operator, s.Resume = false, true
	}
	s.do(Effect{Kind: EffectCheck})
}

// tick asks the key when it is time to; the deadline was looked at before.
func (s *step) tick() {
	if !s.now.Before(s.NextCheck) {
		s.ask()
	}
}

// ask asks the key now, unless it is being asked.
func (s *step) ask() {
	if !s.NextCheck.IsZero() {
		s.NextCheck = time.Time{}
		s.do(Effect{Kind: EffectCheck})
	}
}

// replan counts the next check and the deadline anew.
func (s *step) replan() {
	if !s.NextCheck.IsZero() {
		interval := s.policy.CheckInterval
		if !s.KeyGood || s.State == StateSuspended && s.now.Before(s.Reopens(s.policy)) {
			interval = s.policy.CheckIntervalUnhealthy
		}
		s.NextCheck = s.LastCheck.Add(time.Duration(interval))
	}
	if !s.Open() {
		return
	}
	// A shorter grace would be over if the key was not asked for longer than that,
	// without any failure. So it counts from now, where the old deadline is not
	// sooner.
	from := s.now
	if old := s.Expires.Add(-time.Duration(s.policy.OutageGrace)); old.Before(from) {
		from = old
	}
	if s.LastSuccess.After(from) {
		from = s.LastSuccess
	}
	s.grant(from)
}

// noteSuccess remembers a successful check without opening anything.
func (s *step) noteSuccess() {
	if !s.KeyGood {
		s.GoodSince = s.ev.Asked
	}
	s.LastCheck, s.LastSuccess = s.now, s.ev.Asked
	s.KeyGood, s.Denials, s.Warning = true, 0, s.ev.Text
	s.KeyExpires, s.CredentialExpires = s.ev.KeyExpires, s.ev.CredentialExpires
	s.NextCheck = s.now.Add(time.Duration(s.policy.CheckInterval))
}

// noteFailure remembers a failed check. A vault that asks for patience gets
// it, but no longer than an outage may last, and an open lease does not run out
// without the key having been asked once more.
func (s *step) noteFailure() {
	s.LastCheck, s.KeyGood = s.now, false
	if s.ev.Kind == EventDenied {
		s.Denials++
	}
	soonest := s.now.Add(time.Duration(s.policy.CheckIntervalUnhealthy))
	s.NextCheck = s.now.Add(min(s.ev.RetryAfter, time.Duration(s.policy.OutageGrace)))
	if last := s.Expires.Add(-time.Duration(s.policy.CheckInterval)); s.Open() && s.NextCheck.After(last) {
		s.NextCheck = last
	}
	if s.NextCheck.Before(soonest) {
		s.NextCheck = soonest
	}
}

// renew extends an open lease, counted from the moment the key was asked.
func (s *step) renew() {
	s.noteSuccess()
	s.grant(s.ev.Asked)
}

// grant sets the deadline. It may be over already: an answer can take longer
// than the lease it gives.
func (s *step) grant(from time.Time) {
	s.Expires = from.Add(time.Duration(s.policy.OutageGrace))
	if !s.now.Before(s.Expires) {
		s.expire()
		return
	}
	s.do(Effect{Kind: EffectExtend, Deadline: s.Expires})
}

// recover is a success after failures.
func (s *step) recover() {
	s.Reason, s.Code, s.Cause = "", "", ""
	s.become(StateOnline)
	s.renew()
}

// fail remembers a failed check of an open lease, which runs on but not longer.
// A denial suspends once a second one confirms it.
func (s *step) fail() {
	s.noteFailure()
	s.blame()
	if s.Denials >= 2 {
		s.suspend()
	}
}

func (s *step) degrade() {
	s.become(StateDegraded)
	s.fail()
}

// wait shows that a check hangs. It is no failure yet: the key was good, its
// lease runs on, and the answer decides.
func (s *step) wait() {
	s.blame()
	s.Cause = EventUnreachable
	s.become(StateDegraded)
}

// suspend takes access away for the reason that stands in the lease.
func (s *step) suspend() {
	s.Resume, s.Opening, s.RestoreAsked, s.LockAsked = false, false, false, false
	if !s.Operator {
		s.lost()
	}
	s.become(StateSuspending)
	s.do(Effect{Kind: EffectSuspend, Reason: s.Reason, Errno: errnoFor(s.Lease, s.policy), Operator: s.Operator})
}

// lost counts a suspension by the key.
func (s *step) lost() {
	if s.now.Sub(s.LastLoss) >= quiet {
		s.Losses = 0
	}
	s.Losses, s.LastLoss = s.Losses+1, s.now
}

// expire suspends at the deadline. The reason is that of the failures before;
// if the last answer was a yes, the check after it hangs.
func (s *step) expire() {
	if s.KeyGood {
		s.Reason, s.Code, s.Cause = "the key did not answer before the lease expired", "LeaseExpired", EventUnreachable
	}
	s.suspend()
}

// lock is the operator's suspending.
func (s *step) lock() {
	s.blame()
	s.Operator = true
	s.suspend()
}

// hold makes a suspending the operator's: volumes that suspending by the key
// leaves open are closed when the present drain is done.
func (s *step) hold() {
	s.LockAsked, s.RestoreAsked = !s.Operator, false
}

// lockMore makes a suspension the operator's.
func (s *step) lockMore() {
	if !s.Operator {
		s.lock()
	}
}

// askLater remembers the operator's wish until the workers are gone.
func (s *step) askLater() {
	s.RestoreAsked, s.LockAsked = true, false
}

// drained ends suspending.
func (s *step) drained() {
	s.become(StateSuspended)
	switch {
	case s.LockAsked:
		s.LockAsked = false
		s.ev = LeaseEvent{Kind: EventOperatorSuspend, Text: operatorText}
		s.lock()
	case s.RestoreAsked:
		s.restore()
	}
}

// restore is the operator's: the key is asked, and only its yes opens volumes.
func (s *step) restore() {
	s.Operator, s.RestoreAsked, s.KeyGood, s.Losses = false, false, false, 0
	s.become(StateRestoring)
	s.ask()
}

// comeBack is a success while suspended. A key that was lost more than once is
// watched closely before it is trusted, or one that comes and goes would
// suspend the volumes each time it went.
func (s *step) comeBack() {
	s.noteSuccess()
	if s.Operator || !s.Resume && s.policy.Recovery != RecoveryAutomatic {
		return
	}
	if at := s.Reopens(s.policy); !s.Resume && s.now.Before(at) {
		s.NextCheck = s.now.Add(min(time.Duration(s.policy.CheckIntervalUnhealthy), at.Sub(s.now)))
		return
	}
	s.become(StateRestoring)
	s.open()
}

// open is a success while restoring: the first one starts the workers. An answer
// so late that its lease is over, to a question older than the wish to restore,
// says only that the key can be asked again.
func (s *step) open() {
	first := !s.Opening
	if first && s.ev.Asked.Before(s.Since) && !s.now.Before(s.ev.Asked.Add(time.Duration(s.policy.OutageGrace))) {
		s.noteSuccess()
		s.ask()
		return
	}
	s.Opening = true
	s.renew()
	if first && s.Opening {
		s.do(Effect{Kind: EffectRestore})
	}
}

// failRestoring is a failed check while restoring. Before the first success
// nothing is open, so there is nothing to wait for; but an answer to a question
// older than the wish to restore does not count against it.
func (s *step) failRestoring() {
	switch {
	case s.Opening:
		s.fail()
	case s.ev.Asked.Before(s.Since):
		s.noteFailure()
		s.ask()
	default:
		s.noteFailure()
		s.blame()
		s.become(StateSuspended)
	}
}

// restored ends restoring.
func (s *step) restored() {
	s.Resume, s.Opening = false, false
	if !s.KeyGood {
		s.become(StateDegraded)
		return
	}
	s.Reason, s.Code, s.Cause = "", "", ""
	s.become(StateOnline)
}

// restoreFailed closes what was opened.
func (s *step) restoreFailed() {
	s.KeyGood = false
	s.blame()
	s.suspend()
}

// errnoFor chooses what requests fail with while suspended: what the vault
// said, unless the policy asks for EIO.
func errnoFor(l Lease, p Policy) string {
	switch {
	case p.SuspendErrno == "EIO":
		return "EIO"
	case l.Operator || l.Cause != EventDenied:
		return "ENOKEY"
	}
	switch l.Code {
	case "KeyDisabled", "KeyDeleted", "KeyNotFound":
		return "EKEYREVOKED"
	case "KeyExpired":
		return "EKEYEXPIRED"
	}
	return "ENOKEY"
}
