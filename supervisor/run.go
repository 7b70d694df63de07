package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/keyagent"
)

// Supervisor is a running daemon.
type Supervisor struct {
	cfg     Config
	dir     *account.Dir
	agent   *keyagent.Client
	spawner *spawner
	keeping *keeping
	log     *slog.Logger
	started time.Time

	creating  sync.Mutex // held while an account is made
	makingKey sync.Mutex // held while the platform key is looked for or made

	mu struct {
		sync.Mutex
		accounts map[string]*acct
		mounted  map[volumeKey]*mounted
		busy     map[volumeKey]string        // the command under way
		starting map[volumeKey]chan struct{} // a worker is being started: see exclusive
		stopping bool
	}
}

// Run is the daemon: it serves until ctx ends, then unmounts everything and
// returns. One daemon runs per state directory; a second one is refused with
// account.ErrDaemonRuns.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := harden(); err != nil {
		return err
	}
	dir, err := account.Create(cfg.StateDir)
	if err != nil {
		return err
	}
	lock, err := dir.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := dir.CleanUp(); err != nil {
		return err
	}
	agentDir := filepath.Join(dir.Path(), "key-agent")
	if err := os.Mkdir(agentDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	s := &Supervisor{
		cfg: cfg, dir: dir, log: cfg.Log, started: time.Now(),
		agent: keyagent.New(keyagent.Config{
			Command: cfg.AgentCommand, StateDir: agentDir, Log: cfg.Log, Timeout: cfg.AgentTimeout,
		}),
	}
	s.spawner = &spawner{command: cfg.WorkerCommand, agent: s.agent, log: cfg.Log}
	s.mu.accounts = map[string]*acct{}
	s.mu.mounted = map[volumeKey]*mounted{}
	s.mu.busy = map[volumeKey]string{}
	s.mu.starting = map[volumeKey]chan struct{}{}
	defer s.agent.Close()

	listener, err := listen(dir.SocketPath())
	if err != nil {
		return err
	}
	defer listener.Close()
	if cfg.MetricsListen != "" {
		metrics, err := listenMetrics(cfg.MetricsListen)
		if err != nil {
			return err
		}
		defer metrics.Close()
		go s.serveMetrics(metrics)
	}
	names, err := dir.Accounts()
	if err != nil {
		return err
	}
	s.clearStale(names)
	s.keeping = startKeeping(cfg.KeeperCommand, keeperLock(dir.Path()), cfg.Log)
	defer s.keeping.close()
	for _, name := range names {
		if _, err := s.loadAccount(name); err != nil {
			// The others' volumes must not depend on this one.
			s.log.Error("an account cannot be loaded", "account", name, "err", err)
		}
	}
	return s.serve(ctx, listener)
}

// serve answers the admin socket until ctx ends.
func (s *Supervisor) serve(ctx context.Context, l listener) error {
	server := newServer(s)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	s.log.Info("serving", "stateDir", s.dir.Path(), "pid", os.Getpid())
	if s.cfg.Listening != nil {
		s.cfg.Listening()
	}
	notify(daemon.SdNotifyReady, s.log)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("admin socket: %w", err)
	}
	notify(daemon.SdNotifyStopping, s.log)
	s.shutdown()
	// Commands under way have been answered or are about to be.
	quick, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if serr := server.Shutdown(quick); serr != nil {
		server.Close()
	}
	s.log.Info("stopped")
	return err
}

// notify tells systemd, if it started us.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be notified", "err", err)
	}
}

// shutdown unmounts everything and stops the leases. Volumes with open files
// are suspended first, so that nothing is lost.
func (s *Supervisor) shutdown() {
	s.mu.Lock()
	s.mu.stopping = true // no command begins any more
	s.mu.Unlock()
	for _, a := range s.accounts() {
		a.stopOpening()
		a.endMoves()
	}
	s.waitIdle()
	s.mu.Lock()
	var all []*mounted
	for _, m := range s.mu.mounted {
		all = append(all, m)
	}
	s.mu.Unlock()
	var wait sync.WaitGroup
	for _, m := range all {
		wait.Go(func() {
			if err := m.call(context.Background(), command{kind: cmdUnmount, how: unmountForce}); err != nil {
				s.log.Error("unmount", "account", m.account, "vol", m.name, "err", err)
			}
			<-m.ended
		})
	}
	wait.Wait()
	for _, a := range s.accounts() {
		a.close()
	}
}

// commandWait is how long commands under way may take at the end.
const commandWait = 30 * time.Second

// waitIdle waits for the commands about volumes that are under way.
func (s *Supervisor) waitIdle() {
	for end := time.Now().Add(commandWait); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		n := len(s.mu.busy)
		s.mu.Unlock()
		if n == 0 {
			return
		}
	}
}

// harden keeps the supervisor's memory out of core files and away from other
// processes (it holds no key, but paths and the accounts' configuration), and
// descriptors that whoever started it left open away from its children.
func harden() error {
	const first = 3 // after the standard ones
	if err := unix.CloseRange(first, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("inherited descriptors: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core limit: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return nil
}
