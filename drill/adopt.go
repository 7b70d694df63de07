package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cmkfs/account"
	"cmkfs/drill/child"
	"cmkfs/drill/report"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

// Adopted is a user's own volume and everything that a drill changes about it,
// as it was before. It is what the guard is told.
type Adopted struct {
	StateDir   string         `json:"stateDir"`
	Account    string         `json:"account"`
	Volume     string         `json:"volume"`
	MountPoint string         `json:"mountPoint"`
	Options    []string       `json:"options"`
	Key        hsm.Config     `json:"key"`
	Policy     account.Policy `json:"policy"`
	Others     []string       `json:"others"`  // that are mounted, too
	Work       string         `json:"work"`    // the drill's folder on the volume
	Scratch    string         `json:"scratch"` // and outside
	// The daemon, as it was started.
	Program string   `json:"program"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
}

// Adopt looks at a volume that is mounted and online. Nothing is changed.
func Adopt(ctx context.Context, dir *account.Dir, accountName, volume string) (*Adopted, error) {
	client := api.NewClient(dir.SocketPath())
	defer client.Close()
	a := &Adopted{StateDir: dir.Path(), Account: accountName, Volume: volume}
	st, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var found *api.VolumeStatus
	for _, acct := range st.Accounts {
		for _, v := range acct.Volumes {
			switch {
			case v.MountPoint == "":
			case acct.Name == accountName && v.Name == volume:
				found = &v
				if acct.State != string(account.StateOnline) {
					return nil, api.Errorf(api.CodeSuspended, fmt.Sprintf("account %s is %s: a drill begins when everything works", accountName, acct.State))
				}
			default:
				a.Others = append(a.Others, acct.Name+"/"+v.Name)
				if acct.Name == accountName && v.State != api.VolumeOnline {
					return nil, api.Errorf(api.CodeSuspended, fmt.Sprintf("volume %s of the same account is %s, and a drill would give access to it: it begins when everything works", v.Name, v.State))
				}
			}
		}
	}
	switch {
	case found == nil:
		return nil, api.Errorf(api.CodeNotMounted, fmt.Sprintf("volume %s/%s is not mounted", accountName, volume))
	case found.State != api.VolumeOnline:
		return nil, api.Errorf(api.CodeSuspended, fmt.Sprintf("volume %s is %s: a drill begins when everything works", volume, found.State))
	}
	a.MountPoint = found.MountPoint
	record, err := dir.Volume(accountName, volume)
	if err != nil {
		return nil, err
	}
	a.Options = record.Options
	acct, err := dir.Account(accountName)
	if err != nil {
		return nil, err
	}
	a.Key, a.Policy = acct.Current().Key, acct.Policy
	return a, a.lookAtDaemon(st.PID)
}

// lookAtDaemon notes how the daemon was started.
func (a *Adopted) lookAtDaemon(pid int) error {
	proc := fmt.Sprintf("/proc/%d/", pid)
	program, err := os.Readlink(proc + "exe")
	args, argsErr := os.ReadFile(proc + "cmdline")
	env, envErr := os.ReadFile(proc + "environ")
	if err := errors.Join(err, argsErr, envErr); err != nil {
		return fmt.Errorf("the daemon: %w", err)
	}
	split := func(b []byte) []string { return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00") }
	a.Program, a.Args, a.Env = strings.TrimSuffix(program, " (deleted)"), split(args), split(env)
	return nil
}

// Refuses says why a drill cannot be done to this volume; "" = it can.
func (a *Adopted) Refuses(d Drill) string {
	switch {
	case d.Own != "":
		return d.Own
	case d.Network && a.Key.Azure == nil:
		return "the account's key is in no vault, so there is no network to it"
	case d.Daemon && len(a.Others) > 0:
		return "the daemon would be killed under other volumes, too: " + strings.Join(a.Others, ", ")
	}
	return ""
}

// upstream is the address at which the vault is reached.
func (a *Adopted) upstream() (string, error) {
	const port = "443"
	if to := a.Key.Azure.PrivateEndpoint; to != "" {
		if _, _, err := net.SplitHostPort(to); err == nil {
			return to, nil
		}
		return net.JoinHostPort(strings.Trim(to, "[]"), port), nil
	}
	u, err := url.Parse(a.Key.Azure.VaultURI)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// The policy of an account that is drilled, where the key answers at once.
const (
	adoptedInterval  = time.Second
	adoptedUnhealthy = 300 * time.Millisecond
	adoptedGrace     = 5 * time.Second
	adoptedCheck     = time.Second // what one question may take without longer times
)

// newScene prepares a drill of the volume. Whatever it changes is changed back
// by the guard, also if this process is killed.
func (a *Adopted) newScene(ctx context.Context, cfg Config, d Drill) (s *scene, err error) {
	dir, err := account.Open(a.StateDir)
	if err != nil {
		return nil, err
	}
	s = &scene{
		program: cfg.Program, state: dir, client: api.NewClient(dir.SocketPath()), account: a.Account, volume: a.Volume,
		mount: a.MountPoint, options: a.Options, pace: 1, adopted: a, began: time.Now(), live: cfg.Live, rng: newRand(cfg.Seed, d.Name),
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.cleanup(s.client.Close)
	if s.dir, err = os.MkdirTemp("", "cmkfs-drill-"); err != nil {
		return s, err
	}
	// The last cleanup comes first: the vault must be reached without the proxy
	// before that ends.
	s.cleanup(func() {
		if s.proxy != nil {
			s.proxy.close()
		}
	})
	mine := *a
	mine.Work, mine.Scratch = s.work(), s.dir
	if s.guard, err = startGuard(cfg, mine); err != nil {
		return s, err
	}
	s.cleanup(s.endGuard)
	change := api.UpdateAccount{}
	if d.Network {
		to, err := a.upstream()
		if err != nil {
			return s, err
		}
		if s.proxy, err = newProxy("127.0.0.1:0", to); err != nil {
			return s, err
		}
		azure := *a.Key.Azure
		azure.PrivateEndpoint = s.proxy.address()
		change.Key = &hsm.Config{Source: a.Key.Source, Azure: &azure}
	}
	began := time.Now()
	if change.Key != nil {
		if _, err := s.client.UpdateAccount(ctx, a.Account, change); err != nil {
			return s, fmt.Errorf("through the drill's proxy: %w", err)
		}
		s.pace = int(min(1+time.Since(began)/adoptedCheck, mostPace))
	}
	if err := s.askKey(ctx); err != nil {
		return s, err
	}
	changed, err := s.client.UpdateAccount(ctx, a.Account, api.UpdateAccount{Policy: &account.PolicyChange{
		CheckInterval: account.Duration(s.paced(adoptedInterval)), CheckIntervalUnhealthy: account.Duration(s.paced(adoptedUnhealthy)),
		OutageGrace: account.Duration(s.paced(adoptedGrace) * time.Duration(max(1, d.Grace))), Recovery: d.recovery(),
		OnSuspend: account.OnSuspendError, SuspendErrno: "ENOKEY",
	}})
	if err != nil {
		return s, err
	}
	s.policy = changed.Policy
	return s, os.Mkdir(s.work(), 0o755)
}

// askKey has the key asked soon, by shorter intervals, and waits for the answer. A
// lease counts from the last check: one that is some seconds ago would be too old
// for the drill's grace, and the volume suspended at once.
func (s *scene) askKey(ctx context.Context) error {
	began, p := time.Now(), s.adopted.Policy
	if _, err := s.client.UpdateAccount(ctx, s.account, api.UpdateAccount{Policy: &account.PolicyChange{
		CheckInterval:          min(p.CheckInterval, account.Duration(s.paced(adoptedInterval))),
		CheckIntervalUnhealthy: min(p.CheckIntervalUnhealthy, account.Duration(s.paced(adoptedUnhealthy))),
	}}); err != nil {
		return err
	}
	return await(ctx, s.paced(mostRecover), "the key has been asked", func() (bool, error) {
		a, _, _, err := s.status(ctx)
		return err == nil && a.LastSuccess.After(began), err
	})
}

// RunOn runs one drill on a user's volume. An error says what could not be put
// back.
func RunOn(ctx context.Context, cfg Config, a *Adopted, d Drill) (*report.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, mostPace*drillTime)
	defer cancel()
	if why := a.Refuses(d); why != "" {
		return cfg.incomplete(d, errors.New(why)), nil
	}
	s, err := a.newScene(ctx, cfg, d)
	if err != nil {
		return cfg.incomplete(d, err), s.guardErr()
	}
	r := cfg.on(ctx, s, d)
	s.close()
	return r, s.guardErr()
}

// guard is the process that puts everything back.
type guard struct {
	process *child.Child
	said    string
	err     error
}

// startGuard starts it; it does nothing before its input ends.
func startGuard(cfg Config, a Adopted) (*guard, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	g := &guard{}
	g.process, err = child.Start(cfg.Program, []string{cfg.GuardCommand}, func(line []byte) { g.said = string(line) })
	if err != nil {
		return nil, err
	}
	return g, g.process.Tell(string(b))
}

// endGuard has everything put back and waits for that.
func (s *scene) endGuard() {
	g := s.guard
	if err := g.process.Wait(guardTime + 10*time.Second); err != nil {
		g.err = fmt.Errorf("not everything could be put back: %w %s", err, g.said)
	}
}

// guardErr says what could not be put back.
func (s *scene) guardErr() error {
	if s == nil || s.guard == nil {
		return nil
	}
	return s.guard.err
}

// logOf is where a daemon that is started again writes.
func (a *Adopted) logOf() string { return filepath.Join(a.StateDir, "cmkfsd.log") }
