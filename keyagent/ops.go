package keyagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/azure"
	"cmkfs/hsm/pkcs11"
	"cmkfs/hsm/platform"
)

// perform runs one request. Keys live in its frames only and are overwritten
// before it returns.
func perform(ctx context.Context, req request, to int) reply {
	ctx, t := withTrace(ctx)
	r, err := dispatch(ctx, req, to)
	r.ID, r.Error, r.Operations = req.ID, toWire(req.Op, err), t.operations
	return r
}

func dispatch(ctx context.Context, req request, to int) (reply, error) {
	switch req.Op {
	case opExamine:
		info, err := examine(ctx, req)
		return reply{Info: &info}, err
	case opNewAEK:
		a, err := newAEK(ctx, req)
		return reply{AEK: a}, err
	case opRewrap:
		a, info, err := rewrap(ctx, req)
		return reply{AEK: a, Info: &info}, err
	case opCheck:
		info, err := check(ctx, req)
		return reply{Info: &info}, err
	case opIdentify:
		info, err := identify(ctx, req)
		return reply{Info: &info}, err
	case opProve:
		info, err := prove(ctx, req)
		return reply{Info: &info}, err
	case opNewVEK:
		v, err := newVEK(ctx, req)
		return reply{VEK: v}, err
	case opRelease:
		return reply{}, release(ctx, req, to)
	case opReseal:
		v, err := reseal(ctx, req)
		return reply{VEK: v}, err
	case opListKeys:
		keys, err := listKeys(ctx, req)
		return reply{Keys: keys}, err
	}
	return reply{}, misconfigured(req.Op, "UnknownOperation", "The key agent does not know this operation", nil)
}

func misconfigured(op, reason, message string, err error) error {
	return &hsm.Error{Op: op, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
}

// open opens the key that the request names. What is asked of it is noted.
func open(ctx context.Context, req request) (hsm.Key, error) {
	began := time.Now()
	k, err := openKey(ctx, req)
	if err != nil {
		traceOf(ctx).note("open", "", began, err)
		return nil, err
	}
	return newTraced(k, req.Key, traceOf(ctx)), nil
}

func openKey(ctx context.Context, req request) (hsm.Key, error) {
	c := req.Key
	switch {
	case c.Source == hsm.SourcePlatform && c.Platform != nil:
		return platform.Open(ctx, *c.Platform)
	case c.Source == hsm.SourceKeyVault && c.Azure != nil:
		return azure.Open(ctx, *c.Azure)
	case c.Source == hsm.SourcePKCS11 && c.PKCS11 != nil:
		return pkcs11.Open(ctx, *c.PKCS11, pkcs11.Options{StateDir: req.StateDir})
	}
	return nil, misconfigured(req.Op, "KeySource", fmt.Sprintf("The key source %q is unknown or has no configuration", c.Source), nil)
}

func listKeys(ctx context.Context, req request) (keys []hsm.Info, err error) {
	c := req.Key
	began := time.Now()
	defer func() { traceOf(ctx).note("list", "", began, err) }()
	switch {
	case c.Source == hsm.SourceKeyVault && c.Azure != nil:
		return azure.List(ctx, *c.Azure)
	case c.Source == hsm.SourcePKCS11 && c.PKCS11 != nil:
		return pkcs11.List(ctx, *c.PKCS11, pkcs11.Options{StateDir: req.StateDir})
	case c.Source == hsm.SourcePlatform && c.Platform != nil:
		k, err := open(ctx, req)
		if err != nil {
			return nil, err
		}
		defer k.Close()
		info, err := k.Info(ctx)
		return []hsm.Info{info}, err
	}
	return nil, misconfigured(req.Op, "KeySource", fmt.Sprintf("The key source %q is unknown or has no configuration", c.Source), nil)
}

// examine reads the attributes and then tries what matters: whether something
// wrapped now comes back.
func examine(ctx context.Context, req request) (hsm.Info, error) {
	k, err := open(ctx, req)
	if err != nil {
		return hsm.Info{}, err
	}
	defer k.Close()
	info, err := k.Info(ctx)
	if err != nil {
		return info, err
	}
	if err := info.Usable(time.Now()); err != nil {
		return info, err
	}
	probe := make([]byte, crypto.KeySize)
	rand.Read(probe)
	_, err = wrapProven(ctx, req.Op, k, probe)
	return info, err
}

// wrapProven wraps and unwraps, so that nothing is stored that the key does not
// open.
func wrapProven(ctx context.Context, op string, k hsm.Key, plaintext []byte) (hsm.Wrapped, error) {
	w, err := k.Wrap(ctx, plaintext)
	if err != nil {
		return w, err
	}
	back, err := k.Unwrap(ctx, w)
	if err != nil {
		return w, err
	}
	defer clear(back)
	if !bytes.Equal(back, plaintext) {
		return w, &hsm.Error{Op: op, KeyID: w.KeyID, Kind: hsm.KindMisconfigured, Reason: "WrongKeyMaterial", Message: "The key decrypted to something else than was encrypted"}
	}
	return w, nil
}

func newAEK(ctx context.Context, req request) (*AEK, error) {
	if req.AEKID == "" {
		return nil, misconfigured(req.Op, "NoAEK", "The account encryption key needs an id", nil)
	}
	k, err := open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	aek := crypto.NewKey()
	defer clear(aek[:])
	w, err := wrapProven(ctx, req.Op, k, aek[:])
	if err != nil {
		return nil, err
	}
	return &AEK{Wrapped: w, Commitment: crypto.Commit(aek, []byte(req.AEKID))}, nil
}

// unwrapAEK is the one way to an account encryption key: through the customer's
// key, never out of a cache. The caller clears it.
func unwrapAEK(ctx context.Context, req request, k hsm.Key) (crypto.Key, error) {
	if req.AEK == nil {
		return crypto.Key{}, misconfigured(req.Op, "NoAEK", "There is no account encryption key to unwrap", nil)
	}
	b, err := k.Unwrap(ctx, req.AEK.Wrapped)
	if err != nil {
		return crypto.Key{}, err
	}
	defer clear(b)
	aek, err := crypto.KeyFromBytes(b)
	if err != nil || !crypto.CheckCommit(aek, []byte(req.AEKID), req.AEK.Commitment) {
		clear(aek[:])
		return crypto.Key{}, &hsm.Error{Op: "decrypt", KeyID: req.AEK.Wrapped.KeyID, Kind: hsm.KindMisconfigured, Reason: "WrongKeyMaterial", Message: "The key decrypted to something else than the account encryption key"}
	}
	return aek, nil
}

// check reads the attributes only after the answer that counts.
func check(ctx context.Context, req request) (hsm.Info, error) {
	k, err := open(ctx, req)
	if err != nil {
		return hsm.Info{}, err
	}
	defer k.Close()
	aek, err := unwrapAEK(ctx, req, k)
	if err != nil {
		return hsm.Info{}, err
	}
	clear(aek[:])
	// Half of the time that is left, so that a vault which stops answering now
	// does not take back what is known.
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancel()
	info, err := k.Info(ctx)
	if err != nil {
		return hsm.Info{}, nil // warnings are missing then, the lease is not
	}
	if req.Key.Azure != nil && info.KeyID != "" && !hsm.SameKeyID(info.KeyID, req.AEK.Wrapped.KeyID) {
		return besideNewer(ctx, req, info), nil
	}
	return info, nil
}

// besideNewer is what is known about the version of a key that is in force
// although there is a newer one, as far as it can be read.
func besideNewer(ctx context.Context, req request, newer hsm.Info) hsm.Info {
	unknown := hsm.Info{Newer: &newer}
	if err := inForce(&req); err != nil {
		return unknown
	}
	k, err := open(ctx, req)
	if err != nil {
		return unknown
	}
	defer k.Close()
	info, err := k.Info(ctx)
	if err != nil {
		return unknown
	}
	info.Newer = &newer
	return info
}

func newVEK(ctx context.Context, req request) (*VEK, error) {
	aek, err := openAEK(ctx, req)
	if err != nil {
		return nil, err
	}
	defer clear(aek[:])
	vek := crypto.NewKey()
	defer clear(vek[:])
	return &VEK{
		Sealed:     crypto.SealKey(aek, vek, vekAD(req)),
		Commitment: crypto.Commit(vek, req.VolumeID),
	}, nil
}

func release(ctx context.Context, req request, to int) error {
	if req.VEK == nil || to < 0 {
		return misconfigured(req.Op, "NoVEK", "There is no volume encryption key or nobody to give it to", nil)
	}
	vek, err := openVEK(ctx, req)
	if err != nil {
		return err
	}
	defer clear(vek[:])
	return give(to, vek[:])
}

// openVEK is the one way to a volume's key. The caller clears it.
func openVEK(ctx context.Context, req request) (crypto.Key, error) {
	aek, err := openAEK(ctx, req)
	if err != nil {
		return crypto.Key{}, err
	}
	defer clear(aek[:])
	vek, err := crypto.OpenKey(aek, req.VEK.Sealed, vekAD(req))
	if err != nil {
		return crypto.Key{}, misconfigured(req.Op, "BadVEK", "The sealed volume encryption key is damaged or belongs to another volume or account", err)
	}
	if !crypto.CheckCommit(vek, req.VolumeID, req.VEK.Commitment) {
		clear(vek[:])
		return crypto.Key{}, misconfigured(req.Op, "BadVEK", "The volume encryption key does not match its commitment", nil)
	}
	return vek, nil
}

func openAEK(ctx context.Context, req request) (crypto.Key, error) {
	if len(req.VolumeID) != 16 {
		return crypto.Key{}, misconfigured(req.Op, "NoVolume", "The volume's id is missing", nil)
	}
	k, err := open(ctx, req)
	if err != nil {
		return crypto.Key{}, err
	}
	defer k.Close()
	return unwrapAEK(ctx, req, k)
}

// vekAD binds a sealed volume key to its volume and account key. The volume id
// has a fixed length, so the two cannot run into each other.
func vekAD(req request) []byte {
	return append(append([]byte{}, req.VolumeID...), req.AEKID...)
}

// give writes the key to the worker's socket (or pipe) without waiting for one
// that does not read: 32 bytes fit into any buffer that is not full.
func give(fd int, key []byte) error {
	n, err := unix.SendmsgN(fd, key, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err == unix.ENOTSOCK {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if ready, perr := unix.Poll(p, 0); perr != nil || ready != 1 {
			err = unix.EAGAIN
		} else {
			n, err = unix.Write(fd, key)
		}
	}
	if err == nil && n != len(key) {
		err = fmt.Errorf("%d of %d bytes written", n, len(key))
	}
	if err != nil {
		return unreachable(opRelease, "Worker", "The volume encryption key could not be given to the worker", err)
	}
	return nil
}
