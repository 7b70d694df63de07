package pkcs11

import (
	"context"
	"fmt"
	"os"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
)

// module is the turn of whoever has a PKCS#11 library loaded. C_Initialize and
// C_Finalize act on the whole process, so there is one turn for all libraries.
var module = make(chan struct{}, 1)

// session is a library, loaded and initialised, with a session open on the
// token of a URI. It has the turn until close.
type session struct {
	uri    URI
	ctx    *p11.Ctx
	handle p11.SessionHandle
	token  p11.TokenInfo
	slot   uint
	pin    []byte   // content of the PIN file, once logged in with it
	guard  pinGuard // of that PIN
}

// connect loads the library and opens a session on the token, without login.
func connect(ctx context.Context, u URI) (*session, error) {
	// What fails is the library at first, and then the token.
	op := "module"
	fail := func(k hsm.Kind, reason string, c hsm.Condition, detail string, err error) error {
		return refuse(op, u.KeyID(), k, reason, c, detail, err)
	}
	select {
	case module <- struct{}{}:
	case <-ctx.Done():
		return nil, fail(hsm.KindUnreachable, "Deadline", hsm.TokenUnanswered, "its library was busy for too long", ctx.Err())
	}
	s := &session{uri: u}
	if err := s.open(ctx, &op, fail); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) open(ctx context.Context, op *string, fail func(hsm.Kind, string, hsm.Condition, string, error) error) error {
	if err := ctx.Err(); err != nil {
		return fail(hsm.KindUnreachable, "Deadline", "", "The key operation was given up", err)
	}
	if _, err := os.Stat(s.uri.ModulePath); err != nil {
		return fail(hsm.KindMisconfigured, "ModuleNotLoadable", hsm.TokenModuleUnusable, "it does not exist or cannot be read", err)
	}
	if s.ctx = p11.New(s.uri.ModulePath); s.ctx == nil {
		return fail(hsm.KindMisconfigured, "ModuleNotLoadable", hsm.TokenModuleUnusable, s.uri.ModulePath, nil)
	}
	if err := s.ctx.Initialize(); err != nil {
		s.ctx.Destroy()
		s.ctx = nil
		return classify(*op, s.uri.KeyID(), err)
	}
	*op = "token"
	slots, err := s.ctx.GetSlotList(true)
	if err != nil {
		return classify(*op, s.uri.KeyID(), err)
	}
	found := 0
	var failed error // of a slot that did not answer, which may be the one
	for _, slot := range slots {
		if s.uri.SlotID != nil && *s.uri.SlotID != slot {
			continue
		}
		info, err := s.ctx.GetTokenInfo(slot)
		if err != nil {
			failed = err
			continue
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 || !s.uri.matches(info) {
			continue
		}
		found++
		s.slot, s.token = slot, info
	}
	switch {
	case found == 0:
		return fail(hsm.KindUnreachable, "TokenAbsent", hsm.TokenAbsent, "no token matches the URI, or it was removed", failed)
	case found > 1:
		return fail(hsm.KindMisconfigured, "AmbiguousToken", hsm.BadTokenURI, "more than one token matches it: add serial=", nil)
	}
	if s.handle, err = s.ctx.OpenSession(s.slot, p11.CKF_SERIAL_SESSION); err != nil {
		return classify(*op, s.uri.KeyID(), err)
	}
	return nil
}

// close logs out, unloads the library and gives the turn back. Finalising ends
// the sessions; errors of it do not matter, since nothing of it is used again.
func (s *session) close() {
	clear(s.pin)
	if s.ctx != nil {
		_ = s.ctx.Finalize()
		s.ctx.Destroy()
	}
	<-module
}

// matches compares the URI with what the token says of itself, which is padded
// with blanks.
func (u URI) matches(t p11.TokenInfo) bool {
	for _, c := range []struct{ want, have string }{
		{u.Token, t.Label}, {u.Serial, t.SerialNumber}, {u.Manufacturer, t.ManufacturerID}, {u.Model, t.Model},
	} {
		if c.want != "" && c.want != trim(c.have) {
			return false
		}
	}
	return true
}

// tokenID names the token by what it says of itself: a URI can name one token
// in many ways, and two tokens may have one label.
func (s *session) tokenID() string {
	t := s.token
	return URI{Token: trim(t.Label), Serial: trim(t.SerialNumber), Manufacturer: trim(t.ManufacturerID), Model: trim(t.Model)}.KeyID()
}

// login reads the PIN and logs in, unless the token has refused that PIN before.
// The calling thread may be unable to write files afterwards; see readonly.go.
func (s *session) login(stateDir string) error {
	const op = "login"
	fail := func(k hsm.Kind, reason string, c hsm.Condition, detail string, err error) error {
		return refuse(op, s.uri.KeyID(), k, reason, c, detail, err)
	}
	if s.token.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if s.uri.PINFile == "" {
		return fail(hsm.KindMisconfigured, "PINSource", hsm.TokenNoPIN, "the URI has no pin-source=file:/path, and the token requires a PIN", nil)
	}
	content, err := os.ReadFile(s.uri.PINFile)
	if err != nil {
		return fail(hsm.KindMisconfigured, "PINSource", hsm.TokenNoPIN, "the file of pin-source cannot be read", err)
	}
	s.pin = content
	s.guard = newPINGuard(stateDir, s.uri.ModulePath, s.token.Label, s.token.SerialNumber)
	switch refused, err := s.guard.refused(content); {
	case err != nil:
		return fail(hsm.KindUnreachable, "PINGuard", "", "It is not known whether the token has refused this PIN before, so it is not tried", err)
	case refused:
		return fail(hsm.KindDenied, "CKR_PIN_INCORRECT", hsm.TokenPINRefused, wrongPIN, nil)
	case s.token.Flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fail(hsm.KindDenied, "CKR_PIN_LOCKED", hsm.TokenPINRefused, lockedPIN, nil)
	case s.token.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fail(hsm.KindDenied, "PINFinalTry", hsm.TokenPINRefused, "one more wrong PIN would lock it, so none is tried: log in once with the token's own tool", nil)
	}
	if strings.HasPrefix(s.token.ManufacturerID, "SoftHSM") {
		if err := forbidWriting(stateDir); err != nil {
			return fail(hsm.KindUnreachable, "ReadOnly", "", "The token could not be protected from an interrupted login", err)
		}
	}
	return s.authenticate(p11.CKU_USER)
}

// authenticate sends the PIN: to log in, or once more for an operation with a
// key that wants it each time.
func (s *session) authenticate(user uint) error {
	const op = "login"
	err := s.ctx.Login(s.handle, user, strings.TrimRight(string(s.pin), "\r\n"))
	switch {
	case err == nil, is(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case is(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE):
		e := classify(op, s.uri.KeyID(), err)
		if err := s.guard.refuse(s.pin); err != nil {
			e.Err = fmt.Errorf("%w (remembered in memory only: %w)", e.Err, err)
		}
		return e
	default:
		return classify(op, s.uri.KeyID(), err)
	}
}
