package pkcs11

import "os"

// RefusedPINs reads a file of refused PINs, and returns how many there are.
func RefusedPINs(dir string, content []byte) (int, error) {
	g := newPINGuard(dir, "module", "label", "serial")
	if err := os.MkdirAll(dir+"/refused-pins", 0o700); err != nil {
		return 0, err
	}
	if err := os.WriteFile(g.path(), content, 0o600); err != nil {
		return 0, err
	}
	r, err := g.load()
	return len(r.Hashes), err
}
