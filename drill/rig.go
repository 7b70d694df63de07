package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/supervisor/api"
)

// The account of a rig.
const (
	rigAccount = "drill"
	rigVolume  = "scratch"
)

// The policy of a rig, on a quiet machine: everything happens within seconds.
const (
	rigInterval  = 500 * time.Millisecond
	rigUnhealthy = 200 * time.Millisecond
	rigGrace     = 3 * time.Second
)

// quiet is what making an account and examining its key takes on a quiet
// machine; one that needs longer gets longer times.
const (
	quiet    = 700 * time.Millisecond
	mostPace = 8
)

// newRig makes a place of a drill's own, in a temporary directory.
func newRig(ctx context.Context, cfg Config, d Drill) (s *scene, err error) {
	s = &scene{own: true, program: cfg.Program, account: rigAccount, volume: rigVolume, began: time.Now(), live: cfg.Live, pace: 1, rng: newRand(cfg.Seed, d.Name)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	// A short name: Unix sockets are made below it (108 bytes at most).
	if s.dir, err = os.MkdirTemp("", "drill-"); err != nil {
		return s, err
	}
	s.cleanup(func() { s.removeDir() })
	s.mount = filepath.Join(s.dir, "mnt")
	if err := os.Mkdir(s.mount, 0o755); err != nil {
		return s, err
	}
	s.env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		// No proxy is before this vault, and systemd did not start this daemon.
		return strings.HasSuffix(strings.ToUpper(name), "_PROXY") || name == "NOTIFY_SOCKET"
	})
	key, err := s.makeKey(d)
	if err != nil {
		return s, err
	}
	state := filepath.Join(s.dir, "state")
	if d.SmallDisk {
		if err := s.smallDisk(state); err != nil {
			return s, err
		}
	}
	if s.state, err = account.Create(state); err != nil {
		return s, err
	}
	if err := s.startDaemon(ctx); err != nil {
		return s, err
	}
	s.cleanup(s.stopDaemon)
	s.client = api.NewClient(s.state.SocketPath())
	s.cleanup(s.client.Close)
	return s, s.furnish(ctx, d, key)
}

// makeKey makes the key and what stands before it.
func (s *scene) makeKey(d Drill) (hsm.Config, error) {
	if d.Source == Token {
		var err error
		if s.token, err = newToken(filepath.Join(s.dir, "token")); err != nil {
			return hsm.Config{}, err
		}
		s.env = append(s.env, "SOFTHSM2_CONF="+s.token.conf)
		return hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: s.token.uri()}}, nil
	}
	e, err := emulator.Start(emulator.Config{Dir: filepath.Join(s.dir, "vault")})
	if err != nil {
		return hsm.Config{}, fmt.Errorf("the emulated vault: %w", err)
	}
	s.emulator = e
	s.cleanup(func() { _ = e.Close() })
	for _, c := range []emulator.Command{
		{Action: emulator.VaultCreate},
		{Action: emulator.KeyCreate, Key: keyName},
		{Action: emulator.Grant, Identity: emulator.SystemIdentity, Permissions: []string{"get", "encrypt", "decrypt"}},
	} {
		if err := s.vault(c); err != nil {
			return hsm.Config{}, fmt.Errorf("the emulated vault: %w", err)
		}
	}
	env := e.Env()
	for _, name := range []string{"IDENTITY_ENDPOINT", "IDENTITY_HEADER"} {
		s.env = append(s.env, name+"="+env[name])
	}
	key := &hsm.AzureConfig{VaultURI: env["KEYVAULT_EMULATOR_VAULT_URI"], KeyName: keyName, CAFile: e.CA()}
	listen := "127.0.0.1:0"
	if d.ByName {
		if s.names, err = newNames(s.dir, key.VaultURI); err != nil {
			return hsm.Config{}, err
		}
		s.cleanup(s.names.close)
		listen = net.JoinHostPort(s.names.address, "443")
	}
	if s.proxy, err = newProxy(listen, e.Endpoint()); err != nil {
		return hsm.Config{}, err
	}
	s.cleanup(s.proxy.close)
	if !d.ByName {
		key.PrivateEndpoint = s.proxy.address()
	}
	return hsm.Config{Source: hsm.SourceKeyVault, Azure: key}, nil
}

// furnish makes the account and its volume, and mounts it.
func (s *scene) furnish(ctx context.Context, d Drill, key hsm.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	began := time.Now()
	if _, err := s.client.CreateAccount(ctx, api.CreateAccount{Name: s.account}); err != nil {
		return err
	}
	if _, err := s.client.UpdateAccount(ctx, s.account, api.UpdateAccount{Key: &key}); err != nil {
		return err
	}
	s.pace = int(min(max(1, (time.Since(began)+quiet/2)/quiet), mostPace))
	grace := s.paced(rigGrace) * time.Duration(max(1, d.Grace))
	a, err := s.client.UpdateAccount(ctx, s.account, api.UpdateAccount{Policy: &account.PolicyChange{
		CheckInterval: account.Duration(s.paced(rigInterval)), CheckIntervalUnhealthy: account.Duration(s.paced(rigUnhealthy)),
		OutageGrace: account.Duration(grace), Recovery: d.recovery(),
	}})
	if err != nil {
		return err
	}
	s.policy = a.Policy
	if _, err := s.client.CreateVolume(ctx, s.account, api.CreateVolume{Name: s.volume}); err != nil {
		return err
	}
	if err := s.mountVolume(ctx); err != nil {
		return err
	}
	return os.Mkdir(s.work(), 0o755)
}

func (s *scene) mountVolume(ctx context.Context) error {
	_, err := s.client.Mount(ctx, s.account, s.volume, api.Mount{MountPoint: s.mount, Options: s.options})
	return err
}

// removeDir removes the rig's files, never what is below a mount.
func (s *scene) removeDir() {
	for range 10 {
		_ = unix.Unmount(s.mount, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err := unix.Rmdir(s.mount); err == nil || errors.Is(err, unix.ENOENT) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := unix.Rmdir(s.mount); errors.Is(err, unix.ENOENT) {
		_ = os.RemoveAll(s.dir)
	}
}
