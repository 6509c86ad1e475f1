package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"gatecontrol/proxy/dns01"
)

// tokens are the answers to challenges of running orders.
type tokens struct {
	mu    sync.RWMutex
	plain map[[2]string]string // by host and token
	certs map[string]*tls.Certificate
	// probes are for questions of our own; an order comes first.
	probes map[string]*tls.Certificate
}

func (t *tokens) http(host, token string) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	answer, ok := t.plain[[2]string{host, token}]
	return answer, ok
}

func (t *tokens) alpn(name string) *tls.Certificate {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if cert := t.certs[name]; cert != nil {
		return cert
	}
	return t.probes[name]
}

// probe shows a proof for name until done is called, unless there is one already.
func (t *tokens) probe(name string, proof *tls.Certificate) (done func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.certs[name] != nil || t.probes[name] != nil {
		return nil, false
	}
	if t.probes == nil {
		t.probes = make(map[string]*tls.Certificate)
	}
	t.probes[name] = proof
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.probes, name)
	}, true
}

// httpSolver answers on the plain port of the proxy (RFC 8555, section 8.3).
type httpSolver struct{ *tokens }

func (s httpSolver) Present(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plain == nil {
		s.plain = make(map[[2]string]string)
	}
	s.plain[[2]string{strings.ToLower(c.Identifier.Value), c.Token}] = c.KeyAuthorization
	return nil
}

func (s httpSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plain, [2]string{strings.ToLower(c.Identifier.Value), c.Token})
	return nil
}

// alpnSolver answers in handshakes of the proxy (RFC 8737).
type alpnSolver struct{ *tokens }

func (s alpnSolver) Present(_ context.Context, c acme.Challenge) error {
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certs == nil {
		s.certs = make(map[string]*tls.Certificate)
	}
	s.certs[strings.ToLower(c.Identifier.Value)] = cert
	return nil
}

func (s alpnSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.certs, strings.ToLower(c.Identifier.Value))
	return nil
}

// dnsSolver answers in the zone (RFC 8555, section 8.4).
type dnsSolver struct {
	zone     *Zone
	resolver *dns01.Resolver
}

// cleanTime bounds taking a record out, which is done even where the attempt was
// given up.
const cleanTime = 30 * time.Second

func (s dnsSolver) record(c acme.Challenge) dns01.Record {
	return dns01.Record{Zone: s.zone.Zone, Name: c.DNS01TXTRecordName(), Value: c.DNS01KeyAuthorization()}
}

func (s dnsSolver) Present(ctx context.Context, c acme.Challenge) error {
	if err := s.zone.Provider.Add(ctx, s.record(c)); err != nil {
		return &dnsError{s.zone.Zone, err}
	}
	return nil
}

func (s dnsSolver) Wait(ctx context.Context, c acme.Challenge) error {
	if !s.zone.Check {
		return nil
	}
	if err := s.resolver.WaitFor(ctx, s.zone.Provider, s.record(c)); err != nil {
		return &dnsError{s.zone.Zone, err}
	}
	return nil
}

func (s dnsSolver) CleanUp(ctx context.Context, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	return s.zone.Provider.Remove(ctx, s.record(c))
}

// dnsError is a failure to show a record, which is between us and the provider.
type dnsError struct {
	zone string
	err  error
}

func (e *dnsError) Error() string { return fmt.Sprintf("zone %s: %v", e.zone, e.err) }
func (e *dnsError) Unwrap() error { return e.err }
