package certs

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// ErrOther is that something else than this server answered.
var ErrOther = errors.New("something else answered")

// reachTime bounds one question of Reach.
const reachTime = 5 * time.Second

// Reach asks addr for name, over HTTP or TLS, as an authority would, and reports
// whether it was this server that answered: with nil, ErrOther, or why nothing
// did. No authority is part of this.
func (m *Manager) Reach(ctx context.Context, name string, addr netip.Addr, secure bool) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	token := "preflight-" + rand.Text()
	c := acme.Challenge{
		Identifier: acme.Identifier{Type: "dns", Value: name}, Token: token, KeyAuthorization: token + "." + rand.Text(),
	}
	if secure {
		return m.reachTLS(ctx, c, netip.AddrPortFrom(addr, m.times.probeTLS))
	}
	return m.reachHTTP(ctx, c, netip.AddrPortFrom(addr, m.times.probeHTTP))
}

func (m *Manager) reachHTTP(ctx context.Context, c acme.Challenge, addr netip.AddrPort) error {
	solver := httpSolver{&m.tokens}
	_ = solver.Present(ctx, c)
	defer func() { _ = solver.CleanUp(ctx, c) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+c.HTTP01ResourcePath(), nil)
	if err != nil {
		return err
	}
	if req.Host = c.Identifier.Value; addr.Port() != 80 {
		req.Host = net.JoinHostPort(req.Host, strconv.Itoa(int(addr.Port())))
	}
	transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, int64(len(c.KeyAuthorization))+1))
	if err != nil {
		return err
	}
	if string(got) != c.KeyAuthorization {
		return fmt.Errorf("%w: status %d", ErrOther, resp.StatusCode)
	}
	return nil
}

func (m *Manager) reachTLS(ctx context.Context, c acme.Challenge, addr netip.AddrPort) error {
	proof, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return err
	}
	done, ok := m.tokens.probe(c.Identifier.Value, proof)
	if !ok {
		return errors.New("an order or a pre-flight for the name is running")
	}
	defer done()
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: c.Identifier.Value, NextProtos: []string{acmez.ACMETLS1Protocol},
		InsecureSkipVerify: true, // it is a proof and no certificate; it is compared below
	}}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: %v", ErrOther, err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	if !proves(state.PeerCertificates[0], c.KeyAuthorization) {
		return ErrOther
	}
	return nil
}

// proofID marks the extension that holds the proof (RFC 8737, section 3).
var proofID = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

func proves(cert *x509.Certificate, keyAuthorization string) bool {
	sum := sha256.Sum256([]byte(keyAuthorization))
	want, err := asn1.Marshal(sum[:])
	return err == nil && slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(proofID) && bytes.Equal(e.Value, want)
	})
}
