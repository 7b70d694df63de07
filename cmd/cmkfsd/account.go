package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

type accountCreateCmd struct {
	Name     string            `required:"" placeholder:"A" help:"Name of the account."`
	Location string            `default:"westeurope" placeholder:"REGION" help:"Region of the account; a key vault must be in the same one."`
	Tags     map[string]string `placeholder:"K=V" help:"Tags, separated by semicolons."`
	outputFlag
}

// Help has the command's example.
func (*accountCreateCmd) Help() string {
	return "Volumes of a new account are encrypted under a platform-managed key, which lies beside the data. Give the account a key of yours with account update.\n\nExample:\n  cmkfsd account create --name acme --location westeurope"
}

// Run makes the account.
func (c *accountCreateCmd) Run(s *session) error {
	// Refused before a daemon is started for it.
	if err := account.CheckName("account", c.Name); err != nil {
		return err
	}
	if _, err := account.NormalizeLocation(c.Location); err != nil {
		return err
	}
	client, _, err := s.daemon()
	if err != nil {
		return err
	}
	a, err := client.CreateAccount(s.ctx, api.CreateAccount{Name: c.Name, Location: c.Location, Tags: c.Tags})
	if err != nil {
		return err
	}
	return s.showAccount(&a, c.Output)
}

type accountUpdateCmd struct {
	Location string            `placeholder:"REGION" help:"Region of the account."`
	Tags     map[string]string `placeholder:"K=V" help:"Tags, separated by semicolons; they replace all."`
	keyFlags
	CheckInterval          time.Duration `placeholder:"60s" help:"How often the key is asked."`
	CheckIntervalUnhealthy time.Duration `placeholder:"10s" help:"How often it is asked after a failure."`
	OutageGrace            time.Duration `placeholder:"10m" help:"How long volumes stay open after the last success."`
	Recovery               string        `enum:",manual,automatic" default:"" placeholder:"manual|automatic" help:"Whether access comes back by itself when the key does."`
	OnSuspend              string        `enum:",error,block" default:"" placeholder:"error|block" help:"Whether requests fail or wait while suspended."`
	SuspendErrno           string        `enum:",ENOKEY,EIO" default:"" placeholder:"ENOKEY|EIO" help:"What requests fail with while suspended."`
	outputFlag
}

// Help has the command's examples.
func (*accountUpdateCmd) Help() string {
	return `A key is really used once before it is accepted; a refused change leaves everything as it was.

Examples:
  cmkfsd account update --key-uri https://acme.vault.azure.net/keys/volumes
  cmkfsd account update --key-source PKCS11 --pkcs11-uri 'pkcs11:token=T;object=K?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/cmkfs/pin'
  cmkfsd account update --outage-grace 60m --recovery automatic`
}

// Run changes the account.
func (c *accountUpdateCmd) Run(s *session) error {
	_, a, err := s.account()
	if err != nil {
		return err
	}
	change := api.UpdateAccount{Tags: c.Tags}
	if c.Location != "" {
		change.Location = &c.Location
	}
	policy := account.PolicyChange{
		CheckInterval: account.Duration(c.CheckInterval), CheckIntervalUnhealthy: account.Duration(c.CheckIntervalUnhealthy),
		OutageGrace: account.Duration(c.OutageGrace), Recovery: c.Recovery, OnSuspend: c.OnSuspend, SuspendErrno: c.SuspendErrno,
	}
	if policy != (account.PolicyChange{}) {
		change.Policy = &policy
	}
	if change.Identity, err = c.identity(a.Identity); err != nil {
		return err
	}
	var current *hsm.Config
	if k := a.Current(); k != nil {
		current = &k.Key
	}
	if change.Key, err = c.config(current); err != nil {
		return err
	}
	if change.Location == nil && change.Tags == nil && change.Policy == nil && change.Identity == nil && change.Key == nil {
		return &usageError{message: "nothing to change: name what to change with a flag", hint: "see: cmkfsd account update --help"}
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	changed, err := client.UpdateAccount(s.ctx, name, change)
	if err != nil {
		identity := a.Identity
		if change.Identity != nil {
			identity = *change.Identity
		}
		return s.explainEnvironment(err, change.Key, identity)
	}
	if change.Key != nil {
		s.noteSilence(&changed)
	}
	if change.Identity != nil {
		s.warnIdentity(changed.Identity)
	}
	return s.showAccount(&changed, c.Output)
}

// noteSilence says what could not be examined because the vault does not tell.
func (s *session) noteSilence(a *account.Account) {
	k := a.Current()
	if k == nil || k.Key.Azure == nil {
		return
	}
	if k.KeyInfo.Region == "" {
		fmt.Fprintf(s.err, "cmkfsd: note: the vault does not say in which region it is, so it was not compared with the account's location %s\n", a.Location)
	}
	if k.KeyInfo.RecoveryLevel == "" {
		fmt.Fprintln(s.err, "cmkfsd: note: the vault does not say its recovery level; make sure that nobody can purge the key")
	}
}

// explainEnvironment adds to the daemon's failure with a key that this process
// can use the key: then the daemon has another environment, which names the
// configuration of PKCS#11 modules and the endpoint of the managed identity.
func (s *session) explainEnvironment(err error, key *hsm.Config, identity account.Identity) error {
	code := api.ErrorOf(err).Code
	if key == nil || errors.Is(err, hsm.RegionMismatch) || code != api.CodeUnreachable && code != api.CodeMisconfigured && code != api.CodeDenied {
		return err
	}
	d, a, dirErr := s.account()
	if dirErr != nil {
		return err
	}
	agent, agentErr := s.keyAgent(d, a, "account update", "")
	if agentErr != nil {
		return err
	}
	if _, examineErr := agent.Examine(s.ctx, *askedAs(key, identity)); examineErr != nil {
		return err
	}
	status, statusErr := s.api.Status(s.ctx)
	if statusErr != nil {
		return err
	}
	return &hinted{err, fmt.Sprintf("this command can use the key, so the daemon has another environment (SOFTHSM2_CONF, IDENTITY_ENDPOINT, …): stop it with \"kill %d\" and try again", status.PID)}
}

type accountShowCmd struct{ outputFlag }

// Help has the command's example.
func (*accountShowCmd) Help() string {
	return "Works without a daemon. The field names of -o json are those of az netappfiles account show.\n\nExample:\n  cmkfsd account show -o json"
}

// Run shows the account from its files.
func (c *accountShowCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	inUse, err := keyInUse(d, a)
	if err != nil {
		return err
	}
	lease, err := d.LoadLease(a.Name)
	if err != nil {
		return err
	}
	failing := lease.State == account.StateSuspended && !lease.Operator
	v := a.View(inUse, failing)
	v.ExpireByLease(lease)
	return s.showView(a, v, c.Output)
}

// keyInUse reports whether a volume is under the account's current key, or one
// that a rotation has not done away with yet.
func keyInUse(d *account.Dir, a *account.Account) (bool, error) {
	k := a.Current()
	names, err := d.Volumes(a.Name)
	if err != nil || k == nil {
		return false, err
	}
	for _, name := range names {
		v, err := d.Volume(a.Name, name)
		if err != nil {
			return false, err
		}
		for _, used := range a.LeaseKeys() {
			if v.AEKID == used.ID || v.FormerAEKID == used.ID {
				return true, nil
			}
		}
	}
	return false, nil
}

// showAccount shows an account that was just changed.
func (s *session) showAccount(a *account.Account, output string) error {
	return s.showView(a, a.View(false, false), output)
}

func (s *session) showView(a *account.Account, v account.View, output string) error {
	if output == "json" {
		return s.printJSON(v)
	}
	fields := []string{"name", v.Name, "location", v.Location, "tags", showTags(v.Tags), "key source", v.Encryption.KeySource, "key", v.Encryption.KeyID}
	if k := v.Encryption.KeyVaultProperties; k != nil {
		fields = append(fields, "vault", k.KeyVaultURI, "key name", k.KeyName, "key version", k.KeyVersion, "key status", k.Status)
	}
	if k := v.Encryption.PKCS11Properties; k != nil {
		fields = append(fields, "uri", k.URI, "key status", k.Status)
	}
	fields = append(fields, "key expires", showTime(v.Encryption.KeyExpires), "credential expires", showTime(v.Encryption.CredentialExpires), "warning", v.Warning)
	fields = append(fields, identityFields(a.Identity)...)
	for _, k := range v.Encryption.PreviousKeys {
		state := "no longer needed, may be disabled"
		if len(k.NeededBy) > 0 {
			state = "still needed"
		}
		fields = append(fields, "former key", fmt.Sprintf("%s, replaced %s: %s", k.KeyID, showTime(k.ReplacedAt), state))
	}
	p := v.Policy
	fields = append(fields, "unfinished", showUnfinished(v.Encryption.Unfinished))
	fields = append(fields, "checks", "every "+p.CheckInterval.String()+", every "+p.CheckIntervalUnhealthy.String()+" after a failure",
		"outage grace", p.OutageGrace.String(), "recovery", p.Recovery, "while suspended", p.OnSuspend+" ("+p.SuspendErrno+")")
	s.printFields(fields...)
	return nil
}

type accountDeleteCmd struct {
	Name string `arg:"" help:"Name of the account."`
}

// Help has the command's example.
func (*accountDeleteCmd) Help() string {
	return "The audit log is deleted with it.\n\nExample:\n  cmkfsd account delete acme"
}

// Run deletes the account.
func (c *accountDeleteCmd) Run(s *session) error {
	d, err := s.dir()
	if err != nil {
		return err
	}
	if _, err := d.Account(c.Name); err != nil {
		return err
	}
	client, _, err := s.daemon()
	if err != nil {
		return err
	}
	return client.DeleteAccount(s.ctx, c.Name)
}

// existingFile makes a file's path absolute, since the daemon has another
// working directory, and refuses one that is not there.
func existingFile(flag, path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(abs)
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return "", &usageError{message: flag + ": cannot read " + abs + ": " + err.Error()}
	}
	return abs, f.Close()
}
