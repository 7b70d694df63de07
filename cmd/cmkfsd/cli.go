package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"cmkfs/account"
	"cmkfs/keyagent"
	"cmkfs/supervisor"
	"cmkfs/supervisor/api"

	"github.com/alecthomas/kong"
)

// cli is the grammar: every command and flag.
type cli struct {
	StateDir string           `name:"state-dir" env:"CMKFS_STATE_DIR" default:"/var/lib/cmkfs" type:"path" placeholder:"DIR" help:"Where accounts, volumes and their data are kept (${default})."`
	Account  string           `placeholder:"NAME" help:"The account; may be left out when there is one."`
	Version  kong.VersionFlag `help:"Print the version."`

	Serve  serveCmd  `cmd:"" help:"Run the daemon in the foreground."`
	Status statusCmd `cmd:"" help:"Show accounts, their leases and volumes."`

	AccountCmd accountCmds `cmd:"" name:"account" help:"Accounts: who owns the key, which key it is, and its audit log."`
	VolumeCmd  volumeCmds  `cmd:"" name:"volume" help:"Volumes: create, mount, lock, give back, check."`
	Drill      drillCmds   `cmd:"" help:"Drills: rehearse outages of a key."`
}

type accountCmds struct {
	Create   accountCreateCmd   `cmd:"" help:"Create an account with a platform-managed key."`
	Update   accountUpdateCmd   `cmd:"" help:"Change an account: its key, identity, location, policy."`
	Show     accountShowCmd     `cmd:"" help:"Show an account."`
	Renew    accountRenewCmd    `cmd:"" name:"renew-credentials" help:"Get and use the account's credentials anew."`
	Delete   accountDeleteCmd   `cmd:"" help:"Delete an account that has no volumes."`
	Rekey    accountRekeyCmd    `cmd:"" help:"Replace the key by another one of the same vault or token."`
	ListKeys accountListKeysCmd `cmd:"" help:"List the keys of a vault or token and whether they can be used."`
	Check    accountCheckCmd    `cmd:"" help:"Ask the key, step by step."`
	Events   accountEventsCmd   `cmd:"" help:"Show the audit log."`

	RotateKey       accountRotateKeyCmd  `cmd:"" help:"Put every volume under a new account encryption key."`
	TransitionToCMK accountTransitionCmd `cmd:"" name:"transition-to-cmk" help:"Put all platform-managed volumes under the customer-managed key."`
}

type volumeCmds struct {
	Create        volumeCreateCmd  `cmd:"" help:"Create an empty volume."`
	List          volumeListCmd    `cmd:"" help:"List the volumes of an account."`
	Show          volumeShowCmd    `cmd:"" help:"Show a volume."`
	Update        volumeUpdateCmd  `cmd:"" help:"Ask for a key source; the one a volume has cannot be changed."`
	Delete        volumeDeleteCmd  `cmd:"" help:"Delete an unmounted volume and all data in it."`
	Mount         volumeMountCmd   `cmd:"" help:"Mount a volume."`
	Unmount       volumeUnmountCmd `cmd:"" help:"Unmount a volume."`
	Suspend       volumeSuspendCmd `cmd:"" help:"Lock a volume now: nothing of it stays readable."`
	RestoreAccess volumeRestoreCmd `cmd:"" help:"Give access to a suspended volume back."`
	Check         volumeCheckCmd   `cmd:"" help:"Look for damage in an unmounted volume."`
}

// session is one run of the program.
type session struct {
	ctx   context.Context
	cli   *cli
	out   io.Writer
	err   io.Writer
	api   *api.Client
	agent *keyagent.Client
}

func (s *session) close() {
	if s.api != nil {
		s.api.Close()
	}
	if s.agent != nil {
		s.agent.Close()
	}
}

// dir opens the state directory for reading.
func (s *session) dir() (*account.Dir, error) { return account.Open(s.cli.StateDir) }

// account opens the state directory and reads the account that is meant.
func (s *session) account() (*account.Dir, *account.Account, error) {
	d, err := s.dir()
	if err != nil {
		return nil, nil, err
	}
	name, err := d.Resolve(s.cli.Account)
	if err != nil {
		return nil, nil, err
	}
	a, err := d.Account(name)
	return d, a, err
}

// keyAgent returns this process's own key agent; it needs no daemon. What the
// command asks of keys through it is in the account's audit log, as of a volume
// if it is about one.
func (s *session) keyAgent(d *account.Dir, a *account.Account, command, volume string) (*keyagent.Client, error) {
	if s.agent == nil {
		dir, err := d.AgentDir()
		if err != nil {
			return nil, err
		}
		s.agent = keyagent.New(keyagent.Config{Command: []string{"/proc/self/exe", agentCommand}, StateDir: dir})
	}
	return s.agent.Observed(func(c keyagent.Call) {
		k := supervisor.KeyCall(a, c)
		k.Purpose, k.Volume = command, volume
		if err := s.noteKeyOperations(d, a.Name, k); err != nil {
			fmt.Fprintf(s.err, "cmkfsd: the audit log lacks what this command has asked of the key: %v\n", err)
		}
	}), nil
}

// logWait is how long a command tries to write to an audit log that somebody
// else has open who does not answer: a daemon that starts or ends.
const logWait = 3 * time.Second

// noteKeyOperations has the daemon write to the audit log or, if there is none,
// does it.
func (s *session) noteKeyOperations(d *account.Dir, name string, k account.KeyCall) error {
	// It has happened, also if the command is being given up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), logWait)
	defer cancel()
	for ; ; time.Sleep(50 * time.Millisecond) {
		client, _, err := s.client()
		if err != nil {
			return err
		}
		if err := client.NoteKeyOperations(ctx, name, k); !isNoDaemon(err) {
			return err
		}
		log, err := d.OpenEvents(name, 0)
		if err == nil {
			return errors.Join(log.Append(k.Events()...), log.Close())
		}
		if !errors.Is(err, account.ErrLogTaken) || ctx.Err() != nil {
			return err
		}
	}
}

// outputFlag is embedded by commands that print data.
type outputFlag struct {
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table or json."`
}
