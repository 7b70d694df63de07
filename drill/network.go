package drill

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"time"

	"cmkfs/hsm"
)

// networkDrills are faults between daemon and vault.
func networkDrills() []Drill {
	healed := func(ctx context.Context, s *scene) error { return s.proxy.heal(ctx) }
	all := []Drill{
		{
			Name: "vault-black-holed", Title: "connections to the vault are made, and nothing ever comes back",
			Outcome: Stops, Class: hsm.KindUnreachable, Grace: 2,
			inject: func(_ context.Context, s *scene) error { return s.proxy.blackHole() }, heal: healed,
		}, {
			Name: "vault-refused", Title: "nobody listens at the vault's address",
			Outcome: Stops, Class: hsm.KindUnreachable,
			inject: func(_ context.Context, s *scene) error { return s.proxy.refuse() }, heal: healed,
		}, {
			Name: "vault-reset", Title: "connections are reset in the middle of a request",
			Outcome: Stops, Class: hsm.KindUnreachable,
			inject: func(_ context.Context, s *scene) error { return s.proxy.reset() }, heal: healed,
		}, {
			Name: "vault-dns-failing", Title: "the vault's name is not resolved any more",
			Outcome: Stops, Class: hsm.KindUnreachable, ByName: true,
			Own:    "names are resolved by the host, which other programs use too",
			inject: func(_ context.Context, s *scene) error { return s.names.forget() },
			heal:   func(_ context.Context, s *scene) error { return s.names.know() },
		}, {
			Name: "vault-tls-wrong", Title: "somebody else's certificate is shown at the vault's address",
			Outcome: Stops, Class: hsm.KindUnreachable,
			inject: func(_ context.Context, s *scene) error {
				l, err := impostor()
				if err != nil {
					return err
				}
				s.cleanup(func() { l.Close() })
				return s.proxy.divert(l.Addr().String())
			}, heal: healed,
		}, {
			Name: "vault-slow", Title: "every answer of the vault takes 1.5 s: slow, and within all deadlines",
			Outcome: GoesOn, Grace: 10, Hold: 15 * time.Second,
			inject: func(_ context.Context, s *scene) error { return s.proxy.slow(1500 * time.Millisecond) }, heal: healed,
		}, {
			Name: "vault-too-slow", Title: "every answer of the vault takes 7 s: longer than a request may",
			Outcome: Stops, Class: hsm.KindUnreachable, Grace: 2,
			inject: func(_ context.Context, s *scene) error { return s.proxy.slow(7 * time.Second) }, heal: healed,
		}, {
			Name: "vault-flapping", Title: "the vault comes and goes every second: shorter than the grace each time",
			Outcome: GoesOn, Class: hsm.KindUnreachable, Grace: 4, Hold: 8 * time.Second,
			inject: func(ctx context.Context, s *scene) error {
				return s.flap(ctx, time.Second, s.proxy.refuse, func() error { return s.proxy.heal(ctx) })
			}, heal: healed,
		},
	}
	for i := range all {
		all[i].Source, all[i].Network = Vault, true
	}
	return all
}

// impostor listens with a certificate of its own making for another name.
func impostor() (net.Listener, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "impostor.example"}, DNSNames: []string{"impostor.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		return nil, fmt.Errorf("the impostor: %w", err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_ = c.(*tls.Conn).Handshake()
			}()
		}
	}()
	return l, nil
}
