// Command keyvault-emulator plays Azure Key Vault for tests and drills of
// customer-managed keys: vaults with TLS and the token endpoint of a managed
// identity, whose keys, permissions, network rules, clock and failures can be
// changed while it runs. It is no place for a key that protects anything.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"cmkfs/hsm/azure/emulator"
)

const description = `Play Azure Key Vault: vaults with TLS, and the token endpoint of a managed identity.

A new directory gets the vault "demo" with the RSA key "cmk" and a system-assigned identity that may get, list, encrypt and decrypt with it.

Example:

  keyvault-emulator --dir /tmp/kv --print-env > /tmp/kv.env &
  set -a; . /tmp/kv.env; set +a
  cmkfsd account update --key-source Microsoft.KeyVault --key-uri "$KEYVAULT_EMULATOR_KEY_URI" --key-vault-private-endpoint "$KEYVAULT_EMULATOR_ENDPOINT" --key-vault-ca "$KEYVAULT_EMULATOR_CA"
  keyvault-emulator ctl --dir /tmp/kv disable demo cmk
  keyvault-emulator ctl --dir /tmp/kv fault throttle --retry-after 30

The daemon must have IDENTITY_ENDPOINT and IDENTITY_HEADER in its environment.`

type commands struct {
	Serve serveCommand `cmd:"" default:"withargs" help:"Serve until interrupted (the default)."`
	Ctl   ctlCommand   `cmd:"" help:"Change a running emulator."`
}

type serveCommand struct {
	Dir      string `required:"" env:"KEYVAULT_EMULATOR_DIR" placeholder:"DIR" help:"Keys, settings, the certificate authority (ca.pem). Made if missing."`
	Listen   string `placeholder:"ADDR" help:"Address of the vaults, for example 127.0.0.1:8443. Default: a free port, the same one at each start."`
	Private  string `placeholder:"ADDR" help:"Address of the vaults by private link, where firewall and public access do not count. Default: likewise."`
	IMDS     string `name:"imds" placeholder:"ADDR" help:"Address of a virtual machine's token endpoint, in a network of its own: 169.254.169.254:80. Default: none."`
	Control  string `placeholder:"ADDR" help:"Loopback address of the token endpoint and of ctl. Default: likewise."`
	PrintEnv bool   `help:"Print what a client needs as KEY=value lines. If an emulator serves the directory already, print and exit."`
	Vault    string `default:"demo" help:"Vault to make in a new directory; \"\" for none."`
	Key      string `default:"cmk" help:"Key to make in it."`
	Verbose  bool   `short:"v" help:"Log every request."`
}

// Run serves until SIGINT or SIGTERM.
func (c *serveCommand) Run() error {
	if c.PrintEnv {
		if env, err := readEnv(c.Dir); err == nil {
			printEnv(env)
			return nil
		}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelDebug
	}
	_, err = os.Stat(filepath.Join(dir, "state.json"))
	fresh := os.IsNotExist(err)
	e, err := emulator.Start(emulator.Config{
		Dir: dir, Listen: c.Listen, Private: c.Private, IMDS: c.IMDS, Control: c.Control,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	defer e.Close()
	if fresh && c.Vault != "" {
		if err := furnish(e, c.Vault, c.Key); err != nil {
			return err
		}
	}
	if c.PrintEnv {
		printEnv(e.Env())
	} else {
		fmt.Fprintf(os.Stderr, "keyvault-emulator serves vaults at %s; --print-env or \"ctl env\" says what a client needs\n", e.Endpoint())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return nil
}

// furnish makes what a first drill needs.
func furnish(e *emulator.Emulator, vault, key string) error {
	for _, c := range []emulator.Command{
		{Action: emulator.VaultCreate, Vault: vault},
		{Action: emulator.KeyCreate, Vault: vault, Key: key},
		{Action: emulator.Grant, Vault: vault, Identity: emulator.SystemIdentity, Permissions: []string{"get", "list", "encrypt", "decrypt"}},
	} {
		if _, err := e.Do(c); err != nil {
			return err
		}
	}
	return nil
}

// printEnv prints to a pipe that a script reads, so it is one write.
func printEnv(env map[string]string) {
	var names []string
	for n := range env {
		names = append(names, n)
	}
	slices.Sort(names)
	var s string
	for _, n := range names {
		s += n + "=" + env[n] + "\n"
	}
	fmt.Print(s)
}

func main() {
	var c commands
	k := kong.Parse(&c, kong.Name("keyvault-emulator"), kong.Description(description), kong.ShortUsageOnError())
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "keyvault-emulator:", err)
		os.Exit(1)
	}
}
