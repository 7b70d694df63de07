// Package account is the control plane's memory: which accounts and volumes
// there are, which customer-managed key guards them, what happened to them,
// and whether their volumes may be open right now.
//
//   - records.go, settings.go, location.go: what an account is;
//     change.go, view.go: how it changes and how it is shown
//   - dir.go, volumes.go, atomic.go: the state directory on disk
//   - events.go: the audit log
//   - lease.go, table.go, steps.go: the lease state machine, a pure function
//   - runner.go: the loop that performs what the state machine decides
//
// It holds no key and talks to no vault: the key agent does, in its own
// process. It does not know how volumes are served either: the supervisor
// hands the runner its actions.
package account
