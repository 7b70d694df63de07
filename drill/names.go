package drill

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// names is a resolver of the drill's own: it knows the vault's name and no
// other. Only processes of the drill's mount namespace see it.
type names struct {
	host    string
	hosts   string   // the file that is seen as /etc/hosts
	address string   // of the vault's name, a loopback address
	places  []string // that are seen otherwise
}

// newNames takes the place of the host's resolver.
func newNames(dir, vaultURI string) (*names, error) {
	u, err := url.Parse(vaultURI)
	if err != nil {
		return nil, err
	}
	// Every drill's own, since the vault's port is always the same.
	n := &names{host: u.Hostname(), hosts: filepath.Join(dir, "hosts"), address: fmt.Sprintf("127.83.%d.%d", rand.IntN(256), 1+rand.IntN(250))}
	resolv := filepath.Join(dir, "resolv.conf")
	// Nobody answers there.
	if err := os.WriteFile(resolv, []byte("nameserver "+n.address+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		return nil, err
	}
	if err := n.know(); err != nil {
		return nil, err
	}
	return n, errors.Join(n.over(n.hosts, "/etc/hosts"), n.over(resolv, "/etc/resolv.conf"))
}

// over has a file be seen in the place of another.
func (n *names) over(file, place string) error {
	real, err := filepath.EvalSymlinks(place)
	if err != nil {
		return err
	}
	if err := unix.Mount(file, real, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("the drill's own %s: %w", place, err)
	}
	n.places = append(n.places, real)
	return nil
}

// close gives the host's resolver back.
func (n *names) close() {
	for _, p := range n.places {
		_ = unix.Unmount(p, unix.MNT_DETACH)
	}
}

// know resolves the vault's name. The file is written in place: it is seen
// through a mount.
func (n *names) know() error {
	return os.WriteFile(n.hosts, []byte("127.0.0.1 localhost\n"+n.address+" "+n.host+"\n"), 0o644)
}

// forget does not.
func (n *names) forget() error { return os.WriteFile(n.hosts, []byte("127.0.0.1 localhost\n"), 0o644) }
