package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"cmkfs/hsm/azure/emulator"
)

// ctlCommand has one command per thing that can happen to a vault.
type ctlCommand struct {
	Dir string `required:"" env:"KEYVAULT_EMULATOR_DIR" placeholder:"DIR" help:"Directory of the running emulator."`

	Env      envCommand      `cmd:"" help:"Print what a client needs as KEY=value lines."`
	Show     showCommand     `cmd:"" help:"Print vaults, keys, identities, faults and the clock as JSON."`
	Vault    vaultCommand    `cmd:"" help:"Make or change a vault."`
	Create   createCommand   `cmd:"" help:"Make a key, or another version of one."`
	Enable   enableCommand   `cmd:"" help:"Enable a key."`
	Disable  disableCommand  `cmd:"" help:"Disable a key."`
	Expire   expireCommand   `cmd:"" help:"Let a key expire: now or in a while."`
	Activate activateCommand `cmd:"" help:"Set when a key becomes active, by default in an hour."`
	Undate   undateCommand   `cmd:"" help:"Remove a key's dates of activation and expiry."`
	Ops      opsCommand      `cmd:"" help:"Set a key's permitted operations (key_ops)."`
	Rotate   rotateCommand   `cmd:"" help:"Add a new version of a key."`
	Delete   deleteCommand   `cmd:"" help:"Delete a key; it can be recovered."`
	Recover  recoverCommand  `cmd:"" help:"Recover a deleted key."`
	Purge    purgeCommand    `cmd:"" help:"Purge a deleted key, if the vault's recovery level allows it."`
	Grant    grantCommand    `cmd:"" help:"Give an identity permissions."`
	Revoke   revokeCommand   `cmd:"" help:"Take permissions from an identity, by default all."`
	Firewall firewallCommand `cmd:"" help:"Switch the firewall: on refuses every address."`
	Public   publicCommand   `cmd:"" help:"Switch public access: off refuses what comes by no private link."`
	Identity identityCommand `cmd:"" help:"Add a user-assigned identity, or remove any."`
	Trust    trustCommand    `cmd:"" help:"Let an application get tokens only with this certificate or federated token."`
	Clock    clockCommand    `cmd:"" help:"Advance the vaults' clock (-24h goes back) or reset it."`
	Fault    faultCommand    `cmd:"" help:"Make requests fail: throttle, status, delay, reset, black-hole, refuse; or spoil answers: garbage, wrong-key, truncate, drip, huge."`
	Used     usedCommand     `cmd:"" help:"Show which permissions were asked for since the start, by vault and identity."`
	Clear    clearCommand    `cmd:"" help:"End all faults."`
}

// keyArgs name a key.
type keyArgs struct {
	Vault string `arg:"" help:"Vault, for example demo."`
	Key   string `arg:"" help:"Key, for example cmk."`
}

func (a keyArgs) command(action string) emulator.Command {
	return emulator.Command{Action: action, Vault: a.Vault, Key: a.Key}
}

// versioned names a version of a key.
type versioned struct {
	keyArgs
	Version string `help:"Version; the newest if not given."`
}

func (a versioned) command(action string) emulator.Command {
	c := a.keyArgs.command(action)
	c.Version = a.Version
	return c
}

type (
	envCommand   struct{}
	showCommand  struct{}
	vaultCommand struct {
		Vault         string `arg:"" help:"Name, 3 to 24 letters, digits and hyphens."`
		ManagedHSM    bool   `name:"managed-hsm" help:"A Managed HSM: NAME.managedhsm.azure.net."`
		Cloud         string `enum:",china,usgov" default:"" placeholder:"china|usgov" help:"Another cloud: NAME.vault.azure.cn, NAME.vault.usgovcloudapi.net."`
		RBAC          *bool  `name:"rbac" negatable:"" help:"Roles instead of access policies."`
		Region        string `placeholder:"westeurope" help:"Region it reports."`
		RecoveryLevel string `placeholder:"Recoverable" help:"Recovery level of its keys, for example Purgeable."`
	}
	createCommand struct {
		keyArgs
		Type string   `help:"RSA, RSA-HSM or EC."`
		Bits int      `help:"Length of an RSA key: 1024 to 4096." default:"2048"`
		Ops  []string `help:"Permitted operations (key_ops)."`
	}
	enableCommand  struct{ versioned }
	disableCommand struct{ versioned }
	expireCommand  struct {
		versioned
		In time.Duration `help:"How long from now, on the vaults' clock." default:"0s"`
	}
	activateCommand struct {
		versioned
		In time.Duration `help:"How long from now, on the vaults' clock." default:"1h"`
	}
	undateCommand struct{ versioned }
	opsCommand    struct {
		keyArgs
		Ops []string `arg:"" help:"encrypt, decrypt, wrapKey, unwrapKey, sign, verify."`
	}
	rotateCommand  struct{ keyArgs }
	deleteCommand  struct{ keyArgs }
	recoverCommand struct{ keyArgs }
	purgeCommand   struct{ keyArgs }
	grantCommand   struct {
		Vault       string   `arg:""`
		Identity    string   `arg:"" help:"Name, for example system, or object id."`
		Permissions []string `arg:"" help:"get, list, encrypt, decrypt, wrapKey, unwrapKey, …"`
	}
	revokeCommand struct {
		Vault       string   `arg:""`
		Identity    string   `arg:"" help:"Name, for example system, or object id."`
		Permissions []string `arg:"" optional:"" help:"All if none is named."`
	}
	firewallCommand struct {
		Vault string `arg:""`
		State string `arg:"" enum:"on,off"`
	}
	publicCommand struct {
		Vault string `arg:""`
		State string `arg:"" enum:"on,off"`
	}
	identityCommand struct {
		Name       string `arg:"" help:"Name; \"system\" is the system-assigned one."`
		Remove     bool   `help:"Remove it: it gets no token any more."`
		ResourceID string `name:"resource-id" help:"Resource id; made up if not given."`
	}
	trustCommand struct {
		Identity string `arg:"" help:"Name of the identity that plays the application."`
		File     string `arg:"" type:"existingfile" help:"PEM file whose first certificate it is, or file with the token."`
	}
	clockCommand struct {
		Advance time.Duration `arg:"" optional:"" help:"For example 720h."`
		Reset   bool          `help:"Back to the real time."`
	}
	faultCommand struct {
		Kind       string        `arg:"" enum:"throttle,status,delay,reset,black-hole,refuse,garbage,wrong-key,truncate,drip,huge"`
		Vault      string        `help:"Only this vault."`
		Op         string        `help:"Only this operation: get, list, encrypt, decrypt, wrapKey, unwrapKey, token."`
		Count      int           `help:"Only so many requests; until cleared if not given."`
		Status     int           `help:"Status of the fault \"status\"." default:"503"`
		RetryAfter int           `help:"Seconds, for throttle and status."`
		Delay      time.Duration `help:"Of the fault \"delay\"." default:"5s"`
	}
	usedCommand  struct{}
	clearCommand struct{}
)

func (envCommand) Run(c *ctlCommand) error {
	env, err := readEnv(c.Dir)
	if err == nil {
		printEnv(env)
	}
	return err
}

func (showCommand) Run(c *ctlCommand) error { return c.do(emulator.Command{Action: emulator.Show}) }

func (v vaultCommand) Run(c *ctlCommand) error {
	cmd := emulator.Command{Action: emulator.VaultCreate, Vault: v.Vault, RBAC: v.RBAC, Region: v.Region, Cloud: v.Cloud, RecoveryLevel: v.RecoveryLevel}
	if v.ManagedHSM {
		cmd.Managed = &v.ManagedHSM
	}
	exists, err := c.hasVault(v.Vault)
	if err != nil {
		return err
	}
	if exists {
		cmd.Action = emulator.VaultSet
	}
	return c.do(cmd)
}

func (k createCommand) Run(c *ctlCommand) error {
	cmd := k.command(emulator.KeyCreate)
	cmd.Type, cmd.Bits, cmd.Ops = k.Type, k.Bits, k.Ops
	return c.do(cmd)
}

func (k enableCommand) Run(c *ctlCommand) error  { return c.enable(k.versioned, true) }
func (k disableCommand) Run(c *ctlCommand) error { return c.enable(k.versioned, false) }

func (c *ctlCommand) enable(k versioned, on bool) error {
	cmd := k.command(emulator.KeySet)
	cmd.Enabled = &on
	return c.do(cmd)
}

func (k expireCommand) Run(c *ctlCommand) error {
	now, err := c.now()
	if err != nil {
		return err
	}
	cmd := k.command(emulator.KeySet)
	cmd.Expires = now.Add(k.In)
	return c.do(cmd)
}

func (k activateCommand) Run(c *ctlCommand) error {
	now, err := c.now()
	if err != nil {
		return err
	}
	cmd := k.command(emulator.KeySet)
	cmd.NotBefore = now.Add(k.In)
	return c.do(cmd)
}

func (k undateCommand) Run(c *ctlCommand) error {
	cmd := k.command(emulator.KeySet)
	cmd.NoDates = true
	return c.do(cmd)
}

func (k opsCommand) Run(c *ctlCommand) error {
	cmd := k.command(emulator.KeySet)
	cmd.Ops = k.Ops
	return c.do(cmd)
}

func (k rotateCommand) Run(c *ctlCommand) error  { return c.do(k.command(emulator.KeyRotate)) }
func (k deleteCommand) Run(c *ctlCommand) error  { return c.do(k.command(emulator.KeyDelete)) }
func (k recoverCommand) Run(c *ctlCommand) error { return c.do(k.command(emulator.KeyRecover)) }
func (k purgeCommand) Run(c *ctlCommand) error   { return c.do(k.command(emulator.KeyPurge)) }

func (g grantCommand) Run(c *ctlCommand) error {
	return c.do(emulator.Command{Action: emulator.Grant, Vault: g.Vault, Identity: g.Identity, Permissions: g.Permissions})
}

func (g revokeCommand) Run(c *ctlCommand) error {
	return c.do(emulator.Command{Action: emulator.Revoke, Vault: g.Vault, Identity: g.Identity, Permissions: g.Permissions})
}

func (f firewallCommand) Run(c *ctlCommand) error {
	return c.do(emulator.Command{Action: emulator.Firewall, Vault: f.Vault, On: f.State == "on"})
}

func (p publicCommand) Run(c *ctlCommand) error {
	return c.do(emulator.Command{Action: emulator.PublicAccess, Vault: p.Vault, On: p.State == "on"})
}

func (i identityCommand) Run(c *ctlCommand) error {
	cmd := emulator.Command{Action: emulator.IdentityAdd, Identity: i.Name, ResourceID: i.ResourceID}
	if i.Remove {
		cmd.Action = emulator.IdentityClear
	}
	return c.do(cmd)
}

func (t trustCommand) Run(c *ctlCommand) error {
	b, err := os.ReadFile(t.File)
	if err != nil {
		return err
	}
	cmd := emulator.Command{Action: emulator.IdentityTrust, Identity: t.Identity}
	if bytes.Contains(b, []byte("-----BEGIN ")) {
		cmd.Certificate = string(b)
	} else {
		cmd.Assertion = string(b)
	}
	return c.do(cmd)
}

func (k clockCommand) Run(c *ctlCommand) error {
	if k.Reset {
		return c.do(emulator.Command{Action: emulator.ClockReset})
	}
	return c.do(emulator.Command{Action: emulator.ClockAdvance, Advance: k.Advance})
}

func (f faultCommand) Run(c *ctlCommand) error {
	fault := &emulator.Fault{Kind: f.Kind, Vault: f.Vault, Op: f.Op, Count: f.Count, RetryAfter: f.RetryAfter}
	switch f.Kind {
	case emulator.FaultStatus:
		fault.Status = f.Status
	case emulator.FaultDelay:
		fault.Delay = f.Delay
	}
	return c.do(emulator.Command{Action: emulator.FaultAdd, Fault: fault})
}

func (usedCommand) Run(c *ctlCommand) error { return c.do(emulator.Command{Action: emulator.Used}) }

func (clearCommand) Run(c *ctlCommand) error {
	return c.do(emulator.Command{Action: emulator.FaultClear})
}

// do sends a command and prints the result.
func (c *ctlCommand) do(cmd emulator.Command) error {
	result, err := c.send(cmd)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, result, "", "  "); err != nil {
		return err
	}
	fmt.Println(out.String())
	return nil
}

func (c *ctlCommand) send(cmd emulator.Command) (json.RawMessage, error) {
	base, err := controlURL(c.Dir)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	resp, err := client.Post(base+"/control", "application/json", bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("no emulator answers for %s: %w", c.Dir, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  string          `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the emulator's answer: %w", err)
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	return answer.Result, nil
}

// shown is the part of Show that commands need.
type shown struct {
	Now    time.Time `json:"now"`
	Vaults []struct {
		Name string `json:"name"`
	} `json:"vaults"`
}

func (c *ctlCommand) show() (shown, error) {
	var s shown
	b, err := c.send(emulator.Command{Action: emulator.Show})
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

func (c *ctlCommand) now() (time.Time, error) {
	s, err := c.show()
	return s.Now, err
}

func (c *ctlCommand) hasVault(name string) (bool, error) {
	s, err := c.show()
	for _, v := range s.Vaults {
		if v.Name == name {
			return true, err
		}
	}
	return false, err
}

var client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}} // no proxy: it is a loopback address

// controlURL is where the emulator of a directory listens, or last did.
func controlURL(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return "", fmt.Errorf("%s is no emulator's directory: %w", dir, err)
	}
	var s struct {
		ControlAddr string `json:"controlAddr"`
	}
	if err := json.Unmarshal(b, &s); err != nil || s.ControlAddr == "" {
		return "", fmt.Errorf("%s is no emulator's directory", dir)
	}
	return "http://" + s.ControlAddr, nil
}

// readEnv asks the running emulator, so that an answer means that it runs.
func readEnv(dir string) (map[string]string, error) {
	base, err := controlURL(dir)
	if err != nil {
		return nil, err
	}
	resp, err := client.Get(base + "/env")
	if err != nil {
		return nil, fmt.Errorf("no emulator answers for %s: %w", dir, err)
	}
	defer resp.Body.Close()
	var env map[string]string
	return env, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&env)
}
