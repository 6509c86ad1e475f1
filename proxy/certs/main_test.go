package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/lab/acme"
	"gatecontrol/model"
	"gatecontrol/proxy"
	"gatecontrol/proxy/dns01"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(acme.VALoop)) }

var discard = slog.New(slog.DiscardHandler)

// rig is a Manager behind a proxy, with its ports on loopback.
type rig struct {
	t          testing.TB
	db         *store.DB
	zone       *acme.Zone
	pebble     *acme.Authority
	m          *Manager
	srv        *proxy.Server
	authority  *proxy.Authority
	plain, tls net.Listener
	target     netip.AddrPort
	close      func() // ends Manager and proxy, and leaves the store and the authority
	log        *slog.Logger
}

type setup struct {
	life time.Duration
	tune func(*Options, *times)
	eab  map[string]string
	ocsp bool
}

// newRig starts everything; the Manager runs.
func newRig(t testing.TB, s setup) *rig {
	t.Helper()
	r := &rig{t: t, db: storetest.Open(t), zone: acme.NewZone(t), log: discard}
	if testing.Verbose() {
		r.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	cert, key, err := proxy.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if r.authority, err = proxy.LoadAuthority(cert, key); err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "backend") }))
	t.Cleanup(backend.Close)
	r.target = netip.MustParseAddrPort(backend.Listener.Addr().String())
	r.listen("127.0.0.1:0", "127.0.0.1:0")
	r.pebble = acme.New(t, acme.Options{Name: "first", Resolver: r.zone.Addr, Life: s.life, EAB: s.eab, OCSP: s.ocsp})
	r.pebble.Check(port(r.plain), port(r.tls))
	r.start(s)
	t.Cleanup(func() { r.close() })
	return r
}

func port(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

func (r *rig) listen(plain, secure string) {
	r.t.Helper()
	var err error
	if r.plain, err = net.Listen("tcp", plain); err != nil {
		r.t.Fatal(err)
	}
	if r.tls, err = net.Listen("tcp", secure); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) options() Options {
	roots := x509.NewCertPool()
	roots.AddCert(r.pebble.Certificate())
	return Options{
		Log: r.log, Storage: r.db.Blobs(), Internal: r.authority.Certificate,
		CAs: []CA{{Directory: r.pebble.Directory, Name: "first"}}, Email: "admin@gate.example", Roots: roots,
		Resolver: &dns01.Resolver{Servers: []string{r.zone.Addr}},
	}
}

func (r *rig) start(s setup) {
	r.t.Helper()
	o, tm := r.options(), defaultTimes()
	tm.first, tm.most, tm.byHand = 50*time.Millisecond, 200*time.Millisecond, 0
	if s.tune != nil {
		s.tune(&o, &tm)
	}
	m, err := newManager(o, tm)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	if r.srv, err = proxy.New(proxy.Options{
		Log: r.log, Certificate: m.Certificate, Challenge: m.Challenge, ChallengeCertificate: m.ChallengeCertificate, Serving: m.Serve,
		Dial: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr.String())
		},
	}); err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	srv, plain, secure := r.srv, r.plain, r.tls
	running.Go(func() { _ = m.Run(ctx) })
	running.Go(func() { _ = srv.Serve(plain) })
	running.Go(func() { _ = srv.ServeTLS(secure) })
	r.close = sync.OnceFunc(func() {
		stop()
		_ = srv.Close()
		running.Wait()
		_ = m.Close()
	})
}

// restart ends everything but the store and the authority, and starts it anew on
// the same ports.
func (r *rig) restart(s setup) {
	r.t.Helper()
	r.close()
	r.listen(r.plain.Addr().String(), r.tls.Addr().String())
	r.start(s)
}

// serve has the proxy serve hosts.
func (r *rig) serve(hosts ...string) {
	r.t.Helper()
	var cfg proxy.Config
	for i, host := range hosts {
		cfg.Routes = append(cfg.Routes, proxy.Route{ID: model.RouteID(i + 1), Host: host, ForceHTTPS: true, Target: proxy.Target{Addr: r.target}})
	}
	p, err := r.srv.Prepare(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	p.Commit()
}

// shown is the certificate that a client sees.
func (r *rig) shown(host string) *x509.Certificate {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.tls.Addr().String(), &tls.Config{ServerName: host, InsecureSkipVerify: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// isBy reports whether host shows a certificate that is good for it, of p.
func (r *rig) isBy(host string, p *acme.Authority) bool {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.tls.Addr().String(), &tls.Config{ServerName: host, RootCAs: p.Roots})
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (r *rig) status(host string) model.CertStatus {
	r.t.Helper()
	for _, s := range r.m.Status() {
		if s.Name == host {
			return s
		}
	}
	r.t.Fatalf("%s is not listed", host)
	return model.CertStatus{}
}

func (r *rig) waitFor(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			list, _ := json.MarshalIndent(r.m.Status(), "", " ")
			r.t.Fatalf("not within 30 s: %s\n%s", what, list)
		}
	}
}

// items lists what is in the store.
func (r *rig) items(prefix string) []string {
	r.t.Helper()
	keys, err := r.db.Blobs().List(context.Background(), prefix)
	if err != nil {
		r.t.Fatal(err)
	}
	return keys
}

// waitIdle waits until nothing is done for a name, and nothing is to be done soon.
func (r *rig) waitIdle(name string) {
	r.t.Helper()
	r.waitFor("nothing to do", func() bool {
		r.m.mu.Lock()
		defer r.m.mu.Unlock()
		s := r.m.subjects[name]
		return s != nil && !s.running && s.next.After(time.Now().Add(time.Second))
	})
}

// provider changes the zone; with another secret than the server's it is refused.
func (r *rig) provider(secret string) dns01.Provider {
	r.t.Helper()
	settings := map[string]string{"server": r.zone.Addr, "key_name": acme.KeyName, "key_secret": secret}
	if err := model.CheckDNSSettings(model.DNSRFC2136, settings); err != nil {
		r.t.Fatal(err)
	}
	p, err := dns01.New(model.DNSRFC2136, settings)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}
