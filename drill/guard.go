package drill

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// guardTime is how long the guard tries to put everything back.
const guardTime = 2 * time.Minute

// GuardMain is the guard's life: it reads what a drill changes about a user's
// account, waits until the drill has ended, in whatever way, and changes it
// back. It returns what could not be.
func GuardMain() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var a Adopted
	if err := json.Unmarshal(line, &a); err != nil {
		return err
	}
	for err == nil { // until the drill has gone
		_, err = in.ReadByte()
	}
	ctx, cancel := context.WithTimeout(context.Background(), guardTime)
	defer cancel()
	return a.putBack(ctx)
}

// putBack makes everything as it was: the daemon runs, the account has its key's
// address and policy, the volume is mounted and online, and the drill's folders
// are gone.
func (a *Adopted) putBack(ctx context.Context) error {
	dir, err := account.Open(a.StateDir)
	if err != nil {
		return err
	}
	client := api.NewClient(dir.SocketPath())
	defer client.Close()
	var last error
	for ctx.Err() == nil {
		last = a.tryBack(ctx, client)
		if last == nil {
			last = errors.Join(os.RemoveAll(a.Work), os.RemoveAll(a.Scratch)) // a killed drill's processes may still write there
		}
		if last == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return last
}

func (a *Adopted) tryBack(ctx context.Context, client *api.Client) error {
	if err := a.bring(ctx, client); err != nil {
		return fmt.Errorf("the daemon: %w", err)
	}
	p := a.Policy
	if _, err := client.UpdateAccount(ctx, a.Account, api.UpdateAccount{Key: &a.Key, Policy: &account.PolicyChange{
		CheckInterval: p.CheckInterval, CheckIntervalUnhealthy: p.CheckIntervalUnhealthy, OutageGrace: p.OutageGrace,
		Recovery: p.Recovery, OnSuspend: p.OnSuspend, SuspendErrno: p.SuspendErrno,
	}}); err != nil {
		return fmt.Errorf("the account's settings: %w", err)
	}
	if _, err := client.RestoreAccount(ctx, a.Account); err != nil {
		return fmt.Errorf("access: %w", err)
	}
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	for _, acct := range st.Accounts {
		for _, v := range acct.Volumes {
			if acct.Name == a.Account && v.Name == a.Volume && v.MountPoint == "" {
				_, err = client.Mount(ctx, a.Account, a.Volume, api.Mount{MountPoint: a.MountPoint, Options: a.Options})
			}
		}
	}
	return err
}

// ownRestart is how long a daemon may take that somebody else starts again, such
// as systemd.
const ownRestart = 3 * time.Second

// bring starts the daemon as it was started, unless one answers or comes by
// itself.
func (a *Adopted) bring(ctx context.Context, client *api.Client) error {
	answers := func() (bool, error) {
		_, err := client.Status(ctx)
		return err == nil, err
	}
	if ok, _ := answers(); ok {
		return nil
	}
	if await(ctx, ownRestart, "a daemon answers", answers) == nil {
		return nil
	}
	log, err := os.OpenFile(a.logOf(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(a.Program, a.arguments()...)
	cmd.Args[0] = a.Args[0]
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", a.Env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it stays when we have gone
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return await(ctx, 30*time.Second, "the daemon answers", func() (bool, error) {
		select {
		case err := <-ended:
			ended <- err
			return false, errors.Join(errors.New("it ended at once"), err)
		default:
			return answers()
		}
	})
}

// arguments are the daemon's, without the descriptor by which it told the
// command that started it that it is ready.
func (a *Adopted) arguments() []string {
	var args []string
	for _, arg := range a.Args[1:] {
		if len(arg) < len(readyFlag) || arg[:len(readyFlag)] != readyFlag {
			args = append(args, arg)
		}
	}
	return args
}

// readyFlag is the hidden flag of "cmkfsd serve".
const readyFlag = "--ready-fd="
