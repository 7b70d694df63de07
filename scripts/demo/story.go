package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The two accounts of the story, and their volumes.
const (
	vaultAccount, vaultVolume = "vault", "sources"
	tokenAccount, tokenVolume = "token", "work"
)

// story is the demo, chapter by chapter.
func (d *demo) story() error {
	sources := d.Path("mnt-sources") // vault account
	work := d.Path("mnt-work")       // token account
	goroot, err := d.Do("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	goroot = strings.TrimSpace(goroot)

	d.Begin("keys: an emulated key vault, and a SoftHSM token")
	emulator, err := d.StartVault()
	if err != nil {
		return err
	}
	tokenURI, err := d.MakeToken()
	if err != nil {
		return err
	}

	d.Begin("daemon, accounts, volumes")
	daemon, err := d.Serve()
	if err != nil {
		return err
	}
	for _, a := range []struct {
		account, volume, source, mount string
		key                            []string
	}{
		{vaultAccount, vaultVolume, "Microsoft.KeyVault", sources, emulator.KeyFlags()},
		{tokenAccount, tokenVolume, "PKCS11", work, []string{"--pkcs11-uri", tokenURI}},
	} {
		if err := os.Mkdir(a.mount, 0o755); err != nil {
			return err
		}
		update := append([]string{"account", "update", "--account", a.account, "--key-source", a.source,
			"--check-interval", "2s", "--check-interval-unhealthy", "1s"}, a.key...)
		for _, args := range [][]string{
			{"account", "create", "--name", a.account},
			update,
			{"account", "check", "--account", a.account},
			{"volume", "create", "--account", a.account, "--name", a.volume, "--quota", "4GiB", "--encryption-key-source", a.source},
			{"volume", "mount", "--account", a.account, a.volume, a.mount},
		} {
			if _, err := d.Cmkfs(args...); err != nil {
				return err
			}
		}
		d.Say("%s/%s is mounted; its key source is %s", a.account, a.volume, a.source)
	}

	d.Begin("the source tree of the installed Go toolchain")
	want, total, err := d.read(filepath.Join(goroot, "src"), "reading the original")
	if err != nil {
		return err
	}
	if len(want) < 10_000 {
		return fmt.Errorf("%s/src has only %d files", goroot, len(want))
	}
	if err := os.Mkdir(filepath.Join(sources, "go"), 0o755); err != nil {
		return err
	}
	if err := d.unpack(goroot, "src", filepath.Join(sources, "go"), total); err != nil {
		return err
	}
	tree := filepath.Join(sources, "go", "src")
	if err := d.verify(tree, want); err != nil {
		return err
	}

	d.Begin("a build, SQLite and git, while the workers are killed")
	db, repo := filepath.Join(work, "rows.db"), filepath.Join(work, "repo")
	if err := d.whileKilling(func() error {
		built := make(chan error, 1)
		go func() { built <- d.build(sources, goroot) }()
		err := d.sqlite(db)
		if err == nil {
			err = d.git(repo, filepath.Join(tree, "crypto"))
		}
		return errors.Join(err, <-built)
	}); err != nil {
		return err
	}

	d.Begin("the customer disables both keys")
	secrets, err := writeSecrets(work)
	if err != nil {
		return err
	}
	held := filepath.Join(tree, "fmt", "print.go")
	holder, err := d.holdOpen(held)
	if err != nil {
		return err
	}
	before, err := holder.sees()
	if err != nil {
		return err
	}
	d.Say("a process holds fmt/print.go open and mapped")
	d.Show(before)
	disabled := time.Now()
	if err := errors.Join(emulator.Control("disable", "cmk"), d.SetToken("disable")); err != nil {
		return err
	}
	if err := d.AwaitAll(30*time.Second, "suspended"); err != nil {
		return err
	}
	d.Say("both accounts suspended themselves %.1fs later (checks every 2s, confirmed after 1s)", time.Since(disabled).Seconds())
	if err := d.everybodySeesNoKey(holder, tree, held, work); err != nil {
		return err
	}
	if err := errors.Join(d.searchState(secrets), d.searchMemory(daemon.PID(), secrets)); err != nil {
		return err
	}

	d.Begin("the customer enables the keys; the operator restores access")
	r, err := d.Try(time.Minute, d.Cmkfsd, "--state-dir", d.State, "volume", "restore-access", "--account", vaultAccount, "--all")
	if err != nil {
		return err
	}
	if r.Code == 0 {
		return errors.New("restore-access succeeded although the key is still disabled")
	}
	d.Say("too early, restore-access says:")
	d.Show(r.Stderr)
	if err := errors.Join(emulator.Control("enable", "cmk"), d.SetToken("restore")); err != nil {
		return err
	}
	for _, account := range []string{vaultAccount, tokenAccount} {
		if _, err := d.Cmkfs("volume", "restore-access", "--account", account, "--all"); err != nil {
			return err
		}
	}
	if err := d.AwaitAll(30*time.Second, "online"); err != nil {
		return err
	}
	after, err := holder.sees()
	if err != nil {
		return err
	}
	d.Say("the process reads on, through the same descriptor and mapping")
	d.Show(after)
	if after != before {
		return fmt.Errorf("it reads something else than before: %s", before)
	}
	if err := errors.Join(d.verify(tree, want), d.sqliteHolds(db), d.gitHolds(repo)); err != nil {
		return err
	}

	d.Begin("unmount and scrub")
	holder.close()
	for _, v := range [][2]string{{vaultAccount, vaultVolume}, {tokenAccount, tokenVolume}} {
		if _, err := d.Cmkfs("volume", "unmount", "--account", v[0], v[1]); err != nil {
			return err
		}
		if _, err := d.Cmkfs("volume", "check", "--account", v[0], v[1], "--scrub"); err != nil {
			return err
		}
		d.Say("%s/%s: unmounted, every block scrubbed, no finding", v[0], v[1])
	}
	if code := daemon.Stop(); code != 0 {
		return fmt.Errorf("the daemon ended with exit code %d", code)
	}
	return nil
}

// writeSecrets puts a recognizable text and a recognizable name on a volume
// and reads both back, so that they have been in every cache there is.
func writeSecrets(mount string) ([]secret, error) {
	var texts [2]string
	for i := range texts {
		// The text must not be in this process's environment or arguments,
		// nor a constant of the program, or it would be found for that.
		texts[i] = "demo-" + strings.ToLower(rand.Text())
	}
	path := filepath.Join(mount, texts[1])
	if err := os.WriteFile(path, []byte(strings.Repeat(texts[0]+"\n", 4096)), 0o600); err != nil {
		return nil, err
	}
	if _, err := os.ReadFile(path); err != nil {
		return nil, err
	}
	if _, err := os.ReadDir(mount); err != nil {
		return nil, err
	}
	return []secret{{"a file's content", texts[0]}, {"a file's name", texts[1]}}, nil
}

// noKey are the errors a suspended volume may give: "Required key not
// available", or "Key has been revoked" where the vault said so.
var noKey = []syscall.Errno{syscall.ENOKEY, syscall.EKEYREVOKED}

func saysNoKey(text string) bool {
	for _, errno := range noKey {
		// The C library and Go differ in the first letter's case.
		if strings.Contains(strings.ToLower(text), strings.ToLower(errno.Error())) {
			return true
		}
	}
	return false
}

// everybodySeesNoKey shows and checks what a suspended volume looks like.
func (d *demo) everybodySeesNoKey(h *holder, tree, file, work string) error {
	for _, args := range [][]string{
		{"ls", "-l", tree},
		{"cat", file},
		{"touch", filepath.Join(work, "new")},
	} {
		began := time.Now()
		r, err := d.Try(10*time.Second, args[0], args[1:]...)
		if err != nil {
			return err
		}
		if r.Code == 0 || r.Stdout != "" || !saysNoKey(r.Stderr) {
			return fmt.Errorf("%v on a suspended volume: exit %d, %q %q", args, r.Code, r.Stdout, r.Stderr)
		}
		d.Say("%s fails after %d ms:", args[0], time.Since(began).Milliseconds())
		d.Show(r.Stderr)
	}
	seen, err := h.sees()
	if err != nil {
		return err
	}
	d.Say("the process holding the file open:")
	d.Show(seen)
	if strings.Contains(seen, "sha256") || !saysNoKey(seen) || !strings.Contains(seen, "SIGBUS") {
		return fmt.Errorf("a process still reads a suspended volume: %s", seen)
	}
	table, err := d.Cmkfs("status")
	if err != nil {
		return err
	}
	d.Say("cmkfsd status:")
	d.Show(table)
	return nil
}
