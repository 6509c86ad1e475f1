// Package certs keeps a certificate ready for every name that the proxy serves:
// one that was brought, one of a public authority that it gets and renews by
// itself (RFC 8555, RFC 9773), or one of the internal authority until then and
// where no public one certifies. Nothing is asked of an authority for any other
// name, whatever strangers send. Of ours it imports model and proxy/dns01.
//
// certmagic keeps the certificates, tries authorities in their order, and staples
// OCSP. Orders, challenges and the schedule are ours: its solvers would open
// ports of their own beside the proxy's, and its retries run in goroutines that
// nobody could wait for.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"gatecontrol/model"
	"gatecontrol/proxy/dns01"
)

// CA is an authority that speaks ACME.
type CA struct {
	Directory string // URL
	Name      string // as people know it; the host of the URL if it is empty
	// Identities are the names by which CAA records mean it (RFC 8659).
	Identities []string
}

// Options are what a Manager works with. Log, Storage and Internal are needed.
type Options struct {
	Log     *slog.Logger
	Storage Storage
	// Internal makes a certificate of the internal authority for a name.
	Internal func(name string) (*tls.Certificate, error)
	// CAs are tried in their order. Without any, nothing is asked of anybody.
	CAs   []CA
	Email string // of the accounts there; may be empty
	// EAB are credentials for authorities that want an account of their own
	// (RFC 8555, section 7.3.4).
	EABKeyID string
	EABKey   model.Secret // base64url
	// AllNames has names certified whose top label is not public as well, by a
	// private authority that speaks ACME.
	AllNames bool
	// Roots are trusted for connections to the authorities; nil: those of the system.
	Roots *x509.CertPool
	// Resolver looks for records of challenges.
	Resolver *dns01.Resolver
}

// Zone is a DNS zone whose records prove its names.
type Zone struct {
	Zone     string // normalised
	Provider dns01.Provider
	// Check reports whether the servers of the zone are waited for.
	Check    bool
	Wildcard bool // names one label below share one certificate
}

// Upload is a certificate that was brought.
type Upload struct {
	Names []string
	Cert  *tls.Certificate // with its Leaf
}

// Manager knows the certificates. Its methods may be called from any goroutine
// and do not wait for an authority, but Run.
type Manager struct {
	opts   Options
	log    *slog.Logger
	times  times
	store  *items
	cache  *certmagic.Cache
	config *certmagic.Config
	cas    []*authority
	tokens tokens

	// table is what handshakes read, by host.
	table atomic.Pointer[map[string]*entry]

	mu       sync.Mutex
	names    []string
	uploads  []Upload
	zones    zones
	arranged time.Time           // when table was made
	subjects map[string]*subject // of names that an authority certifies
	wake     chan struct{}       // holds one value if the schedule changed
}

// entry is what one host shows: the first of these that is there.
type entry struct {
	upload  *tls.Certificate
	subject *subject
}

// New checks the options. Nothing is asked of anybody until Run.
func New(o Options) (*Manager, error) { return newManager(o, defaultTimes()) }

func newManager(o Options, tm times) (*Manager, error) {
	if o.Log == nil || o.Storage == nil || o.Internal == nil {
		return nil, errors.New("certs: Log, Storage and Internal are needed")
	}
	if o.Resolver == nil {
		o.Resolver = new(dns01.Resolver)
	}
	m := &Manager{
		opts: o, log: o.Log, times: tm, store: newItems(o.Storage),
		subjects: make(map[string]*subject), wake: make(chan struct{}, 1),
	}
	m.table.Store(new(map[string]*entry))
	var issuers []certmagic.Issuer
	for _, ca := range o.CAs {
		u, err := url.Parse(ca.Directory)
		if err != nil || u.Host == "" || u.Scheme != "https" {
			return nil, model.Invalid("GC_ACME_CA", "%q is not the https:// address of a directory", ca.Directory)
		}
		if ca.Name == "" {
			ca.Name = u.Host
		}
		a := newAuthority(m, ca, u)
		m.cas, issuers = append(m.cas, a), append(issuers, a)
	}
	logger := zap.New(&slogCore{o.Log.Handler()})
	config := certmagic.Config{
		Issuers: issuers, Storage: m.store, Logger: logger, OnEvent: m.onEvent,
		// Writing and reading a file first is to find out what a disk is worth;
		// the store has told already.
		DisableStorageCheck: true,
		DisableARI:          true, // authority.renewalInfo does it
	}
	if len(issuers) == 0 {
		config.Issuers = []certmagic.Issuer{} // and not the default
	}
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		Logger:             logger,
		RenewCheckInterval: never,
		OCSPCheckInterval:  m.times.staple,
	})
	m.config = certmagic.New(m.cache, config)
	return m, nil
}

// never is how often certmagic renews by itself.
const never = 100 * 365 * 24 * time.Hour

// Close ends what New began. Run must have ended.
func (m *Manager) Close() error {
	m.cache.Stop()
	for _, a := range m.cas {
		a.client.CloseIdleConnections()
	}
	return nil
}

// Certificate returns what name shows, normalised. It is asked in handshakes, for
// names that are served alone.
func (m *Manager) Certificate(name string) (*tls.Certificate, error) {
	if e := (*m.table.Load())[name]; e != nil {
		if e.upload != nil {
			return e.upload, nil
		}
		if cert := e.subject.certificate(m); cert != nil {
			return cert, nil
		}
	}
	return m.opts.Internal(name)
}

// Challenge and ChallengeCertificate answer authorities, for running orders alone.
func (m *Manager) Challenge(host, token string) (string, bool) { return m.tokens.http(host, token) }

// ChallengeCertificate returns the proof for a handshake, nil if there is none.
func (m *Manager) ChallengeCertificate(name string) *tls.Certificate { return m.tokens.alpn(name) }

// Serve tells which names are served, normalised. The list is not changed any more.
func (m *Manager) Serve(names []string) { m.change(func() { m.names = names }) }

// Set replaces the certificates that were brought, and the zones. What failed in a
// zone is tried again at once: it may have been set right.
func (m *Manager) Set(uploads []Upload, list []Zone) {
	zones := indexZones(list)
	m.change(func() {
		for _, s := range m.subjects {
			if s.Failures > 0 && (m.zones.of(s.name) != nil || zones.of(s.name) != nil) {
				s.Retry, s.next = time.Time{}, time.Time{}
			}
		}
		m.uploads, m.zones = uploads, zones
	})
}

// change does f and works out anew who shows what.
func (m *Manager) change(f func()) {
	m.mu.Lock()
	f()
	m.arrangeLocked(time.Now())
	m.mu.Unlock()
	m.poke()
}

// poke has Run look at the schedule.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// onEvent hears of what certmagic does by itself. A certificate that its issuer
// has revoked is replaced on our schedule, not in its goroutine, which would try
// for a month.
func (m *Manager) onEvent(ctx context.Context, event string, data map[string]any) error {
	switch event {
	case "cert_obtaining":
		if attemptOf(ctx) == nil {
			return certmagic.ErrNoRetry{Err: errors.New("left to the schedule")}
		}
	case "cert_ocsp_revoked":
		subjects, _ := data["subjects"].([]string)
		m.mu.Lock()
		for _, name := range subjects {
			if s := m.subjects[name]; s != nil {
				s.revoked, s.next = true, time.Time{}
			}
		}
		m.mu.Unlock()
		m.poke()
	}
	return nil
}
