// Package keyagent keeps the customer's keys, and the code that talks to them,
// in a process of their own.
//
// The agent (Serve) is the only process that opens a key of package hsm: a
// vendor's C module may hang or crash in it and an SDK may keep what it likes
// in its memory. It holds no key between two calls, has no volume directory,
// cannot be dumped or traced by its own user, and dies with its supervisor.
//
// The supervisor's side is Client. It starts the agent when it is first
// needed, gives every call a deadline, and kills and replaces an agent that
// does not answer, and replaces it a second after it was used so that no key
// stays in the memory of any process. It only ever sees wrapped keys: an account encryption key
// (AEK) wrapped by the customer's key, a volume encryption key (VEK) sealed
// under the AEK. A volume worker receives its VEK straight from the agent over
// a socket whose descriptor Release passes on.
//
// The two talk JSON over a SOCK_SEQPACKET socket pair, one message of at most
// 64 KiB each way; see protocol.go.
//
// What is stored:
//
//	AEK.Wrapped     32 random bytes wrapped by the customer's key (hsm.Key.Wrap)
//	AEK.Commitment  crypto.Commit(AEK, AEK id)
//	VEK.Sealed      crypto.NewBox(AEK).Seal(32 random bytes, AD = volume id ‖ AEK id)
//	VEK.Commitment  crypto.Commit(VEK, volume id)
package keyagent
