package drill

import (
	"context"
	"runtime"

	"cmkfs/hsm"
)

// tokenDrills are what happens to a token, its PIN and its library.
func tokenDrills() []Drill {
	on := func(f func(*token) error) func(context.Context, *scene) error {
		return func(_ context.Context, s *scene) error { return f(s.token) }
	}
	all := []Drill{
		{
			Name: "token-removed", Title: "the token is pulled out", Class: hsm.KindUnreachable,
			inject: on((*token).remove), heal: on((*token).giveBack),
		}, {
			Name: "token-files-gone", Title: "the files of a SoftHSM token are deleted under the running library", Class: hsm.KindUnreachable,
			inject: on((*token).wipe), heal: on((*token).giveBack),
		}, {
			Name: "token-pin-changed", Title: "the token has another PIN than the file says", Class: hsm.KindDenied,
			inject: on((*token).changePIN), heal: on((*token).tellPIN),
		}, {
			Name: "token-key-not-permitted", Title: "the key on the token may not decrypt any more", Class: hsm.KindDenied,
			inject: on(func(t *token) error { return t.permit(false) }), heal: on(func(t *token) error { return t.permit(true) }),
		}, {
			Name: "token-module-crashed", Title: "the PKCS#11 library crashes whatever is called", Class: hsm.KindUnreachable,
			inject: on(func(t *token) error { return t.spoil(crashing[runtime.GOARCH]) }), heal: on((*token).mend),
		}, {
			Name: "token-module-hung", Title: "the PKCS#11 library does not return from any call", Class: hsm.KindUnreachable, Grace: 2,
			inject: on(func(t *token) error { return t.spoil(hanging[runtime.GOARCH]) }), heal: on((*token).mend),
		},
	}
	for i := range all {
		all[i].Source, all[i].Outcome = Token, Stops
		all[i].Own = "the token itself is changed: needs SoftHSM"
	}
	return all
}
