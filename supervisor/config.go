package supervisor

import (
	"log/slog"
	"time"
)

// Config says how to run the daemon.
type Config struct {
	StateDir string // made if it is missing; its parent must exist
	Version  string // shown by status

	// The argv of the child processes; nil = {"/proc/self/exe", "worker"},
	// "key-agent" and "keeper" likewise.
	WorkerCommand []string
	AgentCommand  []string
	KeeperCommand []string

	// AgentTimeout bounds one question to a key; 0 = the key agent's default.
	AgentTimeout time.Duration
	// DrainTimeout bounds how long a suspension waits for the kernel to write
	// dirty pages back; what is not saved by then is refused, and its writer
	// learns so from fsync or close. 0 = 2 s.
	DrainTimeout time.Duration

	// HangTimeout is how long a worker may not answer before it is replaced;
	// 0 = 1 min. A disk that does not answer is no reason: only a worker that
	// does not run at all is meant.
	HangTimeout time.Duration

	// Patience is how long requests wait in the kernel for a new worker before
	// they are refused; 0 = 30 s. A key agent that hangs is replaced meanwhile.
	Patience time.Duration

	// MetricsListen is a loopback address for Prometheus; "" = none.
	MetricsListen string

	Log *slog.Logger // nil = slog.Default
	// Listening, if set, is called when the admin socket accepts commands.
	Listening func()
}

const (
	defaultDrainTimeout = 2 * time.Second
	defaultHangTimeout  = time.Minute
	defaultPatience     = 30 * time.Second
)

func (c Config) withDefaults() Config {
	if c.WorkerCommand == nil {
		c.WorkerCommand = []string{"/proc/self/exe", "worker"}
	}
	if c.AgentCommand == nil {
		c.AgentCommand = []string{"/proc/self/exe", "key-agent"}
	}
	if c.KeeperCommand == nil {
		c.KeeperCommand = []string{"/proc/self/exe", "keeper"}
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = defaultDrainTimeout
	}
	if c.HangTimeout <= 0 {
		c.HangTimeout = defaultHangTimeout
	}
	if c.Patience <= 0 {
		c.Patience = defaultPatience
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
