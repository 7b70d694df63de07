package supervisor

import (
	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/keyagent"
)

// agent returns the key agent for the account's purposes, or one volume's:
// whatever is asked of a key through it is in the account's audit log.
func (a *acct) agent(volume string) *keyagent.Client {
	return a.s.agent.Observed(func(c keyagent.Call) { a.keyCall(c, volume) })
}

// spawner returns the starter of a volume's workers, whose keys are asked for
// through agent.
func (a *acct) spawner(volume string) *spawner {
	s := *a.s.spawner
	s.agent = a.agent(volume)
	return &s
}

// keyCall notes a call of the key agent that has ended.
func (a *acct) keyCall(c keyagent.Call, volume string) {
	k := KeyCall(a.record(), c)
	k.Volume = volume
	a.audit.Operations(k)
}

// KeyCall is a call of the key agent that has ended, for an account's audit log.
func KeyCall(a *account.Account, c keyagent.Call) account.KeyCall {
	k := account.KeyCall{Purpose: c.Op, AEKID: c.AEKID, Params: a.KeyParamsOf(c.Key), Operations: c.Operations}
	failed := false
	for _, o := range c.Operations {
		failed = failed || o.Kind != ""
	}
	if c.Err != nil && !failed {
		// The agent did not answer, or what failed was none of the key's.
		o := hsm.Operation{Op: c.Op, Took: c.Took}
		o.Fail(c.Err)
		k.Operations = append(k.Operations, o)
	}
	return k
}

// event writes to the account's audit log.
func (a *acct) event(e ...account.Event) { a.audit.Record(e...) }

// keyEvent writes what is about the account's key.
func (a *acct) keyEvent(e account.Event) {
	e.KeyParams = a.record().KeyParams()
	a.event(e)
}
