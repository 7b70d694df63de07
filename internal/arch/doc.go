// Package arch holds no code: its test keeps the shape of the module that
// docs/architecture.md describes, with a reason for every rule.
package arch
