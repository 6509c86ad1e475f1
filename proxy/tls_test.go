package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testCA issues certificates of clients.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newTestCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t: t, cert: cert, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// client issues a certificate; tune may change what it says first.
func (ca *testCA) client(name string, tune ...func(*x509.Certificate)) *tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, f := range tune {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// ask sends one request over a new TLS connection and returns the status and the
// state of that connection. A failure, in the handshake or as the alert that
// follows one of TLS 1.3, is an error.
func (r *rig) ask(cfg *tls.Config, host string) (int, tls.ConnectionState, error) {
	cfg = cfg.Clone()
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AppendCertsFromPEM(r.authority.RootPEM())
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: cfg}).DialContext(ctx, network, r.tls)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("https://" + host + "/")
	if err != nil {
		return 0, tls.ConnectionState{}, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, *resp.TLS, err
}

// mutual is a Config of a host that wants certificates of ca and one of its own
// authority, and of one that wants none.
func mutual(t testing.TB, cas map[string]*testCA) Config {
	to := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") })
	cfg := Config{Routes: []Route{{ID: 1, Host: "open.test", Target: Target{Addr: to}}}}
	for host, ca := range cas {
		cfg.Routes = append(cfg.Routes, Route{
			ID: routeID(len(cfg.Routes) + 1), Host: host, Target: Target{Addr: to}, Options: &RouteOptions{ClientCA: ca.pem},
		})
	}
	return cfg
}

func TestClientCertificates(t *testing.T) {
	one, two := newTestCA(t, "one"), newTestCA(t, "two")
	r := newRig(t, mutual(t, map[string]*testCA{"one.test": one, "same.test": one, "two.test": two}))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tt := range []struct {
			name   string
			cert   *tls.Certificate
			sni    string
			status int // 0: the handshake fails
		}{
			{"none needed", nil, "open.test", 200},
			{"none", nil, "one.test", 0},
			{"the right one", one.client("ann"), "one.test", 200},
			{"one of another authority", two.client("bob"), "one.test", 0},
			{"one that nobody issued", newTestCA(t, "one").client("eve"), "one.test", 0},
		} {
			t.Run(tls.VersionName(version)+" "+tt.name, func(t *testing.T) {
				cfg := &tls.Config{ServerName: tt.sni, MaxVersion: version}
				if tt.cert != nil {
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
				}
				if status, _, err := r.ask(cfg, tt.sni); status != tt.status || (err == nil) != (tt.status != 0) {
					t.Errorf("%d, %v; want %d", status, err, tt.status)
				}
			})
		}
	}
}

// TestClientCertificateTickets: a ticket is good where it was given and nowhere
// else, whichever of two hosts wants more.
func TestClientCertificateTickets(t *testing.T) {
	one, two := newTestCA(t, "one"), newTestCA(t, "two")
	cas := map[string]*testCA{"one.test": one, "same.test": one, "two.test": two}
	cfg := mutual(t, cas)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			r := newRig(t, cfg)
			cache := oneTicket{tls.NewLRUClientSessionCache(1)} // for all hosts
			ask := func(host string, cert *tls.Certificate) (int, bool) {
				client := &tls.Config{ServerName: host, MaxVersion: version, ClientSessionCache: cache}
				if cert != nil {
					client.Certificates = []tls.Certificate{*cert}
				}
				// crypto/tls's client offers no ticket whose certificate does not
				// fit the host; the names are not what is looked at here.
				client.InsecureSkipVerify = true
				status, state, _ := r.ask(client, host)
				return status, state.DidResume
			}
			ann := one.client("ann")
			if status, resumed := ask("one.test", ann); status != 200 || resumed {
				t.Fatalf("first: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("one.test", ann); status != 200 || !resumed {
				t.Errorf("again: %d, resumed %v", status, resumed)
			}
			if status, _ := ask("one.test", nil); status != 200 {
				t.Errorf("the ticket itself proves the certificate, but: %d", status)
			}
			if status, resumed := ask("same.test", nil); status != 0 {
				t.Errorf("with a ticket of another host of the same authority: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("one.test", ann); status != 200 {
				t.Errorf("after that: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("two.test", nil); status != 0 {
				t.Errorf("with a ticket of another host of another authority: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("open.test", nil); status != 200 {
				t.Errorf("at a host that wants none: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("one.test", nil); status != 0 {
				t.Errorf("with a ticket of a host that wants none: %d, resumed %v", status, resumed)
			}
		})
	}
}

// oneTicket gives the same ticket to every host.
type oneTicket struct{ tls.ClientSessionCache }

func (c oneTicket) Get(string) (*tls.ClientSessionState, bool) { return c.ClientSessionCache.Get("") }
func (c oneTicket) Put(_ string, s *tls.ClientSessionState) {
	if s != nil { // a client forgets tickets that failed; this one does not
		c.ClientSessionCache.Put("", s)
	}
}

// TestClientCertificateLater: a connection that was open before certificates were
// asked for gets nothing any more.
func TestClientCertificateLater(t *testing.T) {
	ca := newTestCA(t, "one")
	before := site(backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	after := before
	after.Routes = []Route{before.Routes[0]}
	after.Routes[0].Options = &RouteOptions{ClientCA: ca.pem}
	r := newRig(t, before)
	c := r.client()
	if resp, _ := get(t, c, "https://app.test/"); resp.StatusCode != 200 {
		t.Fatalf("before: %d", resp.StatusCode)
	}
	r.commit(after)
	if resp, _ := get(t, c, "https://app.test/"); resp.StatusCode != http.StatusMisdirectedRequest || !resp.Close {
		t.Errorf("on the old connection: %d, closed %v", resp.StatusCode, resp.Close)
	}
	if resp, _ := get(t, c, "http://app.test/"); resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("on the plain port: %d", resp.StatusCode)
	}
	cert := ca.client("ann")
	if status, _, err := r.ask(&tls.Config{ServerName: "app.test", Certificates: []tls.Certificate{*cert}}, "app.test"); status != 200 {
		t.Errorf("with a certificate: %d, %v", status, err)
	}
	// What asks for the same leaves connections alone.
	kept := r.srv.snapshot.Load().hosts["app.test"].clientAuth
	after.AdminHosts = nil
	after.Routes = append(after.Routes[:1:1], Route{ID: 2, Host: "b.test", Target: before.Routes[0].Target})
	r.commit(after)
	if r.srv.snapshot.Load().hosts["app.test"].clientAuth != kept {
		t.Error("an unrelated change made a new demand")
	}
}

// TestClientCertificateWithoutSNI: who sends no name is not asked, and so has
// nothing to show.
func TestClientCertificateWithoutSNI(t *testing.T) {
	cfg := mutual(t, map[string]*testCA{"one.test": newTestCA(t, "one")})
	cfg.AdminHosts = []string{"127.0.0.1"}
	r := newRig(t, cfg, func(o *Options, _ *limits) {
		o.DialAdmin = func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }
	})
	c, err := tls.Dial("tcp", r.tls, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: one.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 421 ") {
		t.Errorf("%.60q", b)
	}
}

func TestClientAuthorities(t *testing.T) {
	good := newTestCA(t, "one").pem
	for _, tt := range []struct {
		name, pem string
		ok        bool
	}{
		{"one", good, true},
		{"two", good + "\n\n" + newTestCA(t, "two").pem, true},
		{"text", "certificate", false},
		{"text behind", good + "x", false},
		{"a key", strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE KEY"), false},
		{"damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if a, err := newClientAuth("a.test", tt.pem, nil); (err == nil) != tt.ok || (a != nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestKeyAgreement: the hybrid with ML-KEM is what modern clients get.
func TestKeyAgreement(t *testing.T) {
	r := newRig(t, site(backend(t, func(http.ResponseWriter, *http.Request) {})))
	if _, state, err := r.ask(&tls.Config{ServerName: "app.test"}, "app.test"); err != nil || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("%v, %v", state.CurveID, err)
	}
	old := &tls.Config{ServerName: "app.test", CurvePreferences: []tls.CurveID{tls.X25519}}
	if _, state, err := r.ask(old, "app.test"); err != nil || state.CurveID != tls.X25519 {
		t.Errorf("a client without it: %v, %v", state.CurveID, err)
	}
}

func TestChallenges(t *testing.T) {
	proof, err := testAuthority().Certificate("proof.test")
	if err != nil {
		t.Fatal(err)
	}
	cfg := site(backend(t, func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, "backend "+q.URL.Path) }))
	cfg.Routes = append(cfg.Routes, Route{ID: 2, Host: "https.test", ForceHTTPS: true, Target: cfg.Routes[0].Target})
	r := newRig(t, cfg, func(o *Options, _ *limits) {
		o.Challenge = func(host, token string) (string, bool) {
			return "proof of " + host, token == "running" && host != "other.test"
		}
		o.ChallengeCertificate = func(name string) *tls.Certificate {
			if name != "app.test" {
				return nil
			}
			return proof
		}
	})
	const path = "/.well-known/acme-challenge/"
	for _, tt := range []struct {
		name, url string
		status    int
		body      string
	}{
		{"a running one", "http://app.test" + path + "running", 200, "proof of app.test"},
		{"before the redirect", "http://https.test" + path + "running", 200, "proof of https.test"},
		{"for a host that nobody serves", "http://none.test" + path + "running", 200, "proof of none.test"},
		{"another", "http://app.test" + path + "else", 200, "backend " + path + "else"},
		{"another, redirected", "http://https.test" + path + "else", 308, ""},
		{"of another host", "http://other.test" + path + "running", 404, ""},
		{"on the TLS port", "https://app.test" + path + "running", 200, "backend " + path + "running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := get(t, r.client(), tt.url)
			if resp.StatusCode != tt.status || tt.body != "" && body != tt.body {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		})
	}

	handshake := func(name string, protos ...string) (tls.ConnectionState, error) {
		c, err := tls.Dial("tcp", r.tls, &tls.Config{ServerName: name, NextProtos: protos, InsecureSkipVerify: true})
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || isTimeout(err) {
			t.Error("the connection goes on after the handshake")
		}
		return c.ConnectionState(), nil
	}
	state, err := handshake("app.test", acmeProtocol)
	if err != nil || state.NegotiatedProtocol != acmeProtocol || string(state.PeerCertificates[0].Raw) != string(proof.Certificate[0]) {
		t.Errorf("a running order: %q, %v", state.NegotiatedProtocol, err)
	}
	if _, err := handshake("https.test", acmeProtocol); err == nil {
		t.Error("a handshake for a name without an order succeeds")
	}
}

// BenchmarkHandshake is a full handshake of TLS 1.3, both sides in one process,
// over a pipe. The client's share is in it.
func BenchmarkHandshake(b *testing.B) {
	for _, tt := range []struct {
		name   string
		client *tls.Config
	}{
		{"full", &tls.Config{}},
		{"full-X25519", &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}},
		{"resumed", &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			r := newRig(b, site(backend(b, func(http.ResponseWriter, *http.Request) {})))
			client := tt.client
			client.ServerName = "app.test"
			client.RootCAs = x509.NewCertPool()
			client.RootCAs.AppendCertsFromPEM(r.authority.RootPEM())
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			one := func() {
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				s, err := ln.Accept()
				if err != nil {
					b.Fatal(err)
				}
				done := make(chan error, 1)
				go func() {
					t := tls.Server(s, r.srv.tls)
					err := t.Handshake()
					if err == nil {
						_, err = t.Write([]byte("x")) // with the ticket before it
					}
					_ = t.Close()
					done <- err
				}()
				t := tls.Client(c, client)
				if err := t.Handshake(); err != nil {
					b.Fatal(err)
				}
				if _, err := t.Read(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				_ = t.Close()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			one() // certificates and tickets exist then
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}
