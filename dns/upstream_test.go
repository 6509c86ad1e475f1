package dns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gatecontrol/model"
)

// authority makes a certificate for 127.0.0.1 and configurations that use it.
func authority(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

// countingListener counts what it accepts, and can close it.
type countingListener struct {
	net.Listener
	accepted atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
		l.mu.Lock()
		l.conns = append(l.conns, c)
		l.mu.Unlock()
	}
	return c, err
}

func (l *countingListener) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
}

func TestEncryptedUpstreams(t *testing.T) {
	server, conf := authority(t)
	answer := records(0, "@ 0 IN A 192.0.2.1")
	for name, listenUp := range map[string]func(t *testing.T, ln net.Listener) string{
		"tls": func(t *testing.T, ln net.Listener) string {
			serve(t, &dns.Server{Listener: tls.NewListener(ln, server), Handler: dns.HandlerFunc(answer)})
			return "tls://" + ln.Addr().String()
		},
		"https": func(t *testing.T, ln net.Listener) string {
			h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				b, _ := io.ReadAll(req.Body)
				m := new(dns.Msg)
				if req.ProtoMajor != 2 || req.Method != http.MethodPost || req.URL.Path != "/dns-query" || m.Unpack(b) != nil || m.Id != 0 {
					http.Error(w, "no", http.StatusBadRequest)
					return
				}
				b, _ = answerWith(m, 0, "@ 0 IN A 192.0.2.1").Pack()
				w.Header().Set("Content-Type", "application/dns-message")
				_, _ = w.Write(b)
			}))
			_ = h.Listener.Close()
			h.Config.ErrorLog = log.New(io.Discard, "", 0)
			h.Listener, h.TLS, h.EnableHTTP2 = ln, server.Clone(), true
			h.StartTLS()
			t.Cleanup(h.Close)
			return "https://" + ln.Addr().String() + "/dns-query"
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ln := &countingListener{Listener: raw}
			r := start(t, exampleConfig(), conf, listenUp(t, ln))
			ask := func() {
				t.Helper()
				if got := answered(r.ask(t, "udp", question("www.example.org", dns.TypeA))); len(got) != 1 || got[0] != "192.0.2.1" {
					t.Fatalf("got %v", got)
				}
			}
			for range 10 {
				ask()
			}
			if n := ln.accepted.Load(); n != 1 {
				t.Errorf("%d connections for 10 questions", n)
			}
			ln.hangUp()
			ask()
			var wg sync.WaitGroup
			for i := range 60 {
				wg.Go(func() { r.ask(t, "udp", question("h"+big.NewInt(int64(i)).String()+".example.org", dns.TypeA)) })
			}
			wg.Wait()
			if n := ln.accepted.Load(); n > 2+maxStreamConns {
				t.Errorf("%d connections", n)
			}
		})
		t.Run(name+" of a stranger", func(t *testing.T) {
			raw, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			r := start(t, exampleConfig(), nil, listenUp(t, raw)) // unknown authority
			if m := r.ask(t, "udp", question("www.example.org", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
				t.Fatalf("got %v", m)
			}
		})
	}
}

func TestParseUpstream(t *testing.T) {
	for text, ok := range map[string]bool{
		"1.1.1.1": true, "1.1.1.1:5353": true, "2606:4700::1111": true, "[2606:4700::1111]:53": true, "[::1]": true,
		"tls://1.1.1.1": true, "tls://dns.example:8853": true, "tls://[2606:4700::1111]": true, "tls://[2606:4700::1111]:853": true,
		"https://dns.example/dns-query": true, "https://dns.example": true, "https://1.1.1.1:8443/x": true, "https://[2606:4700::1111]/x": true,

		"": false, "dns.example": false, "1.1.1": false, "1.1.1.1:0": false, "1.1.1.1:99999": false, "0.0.0.0": false, "::": false,
		"1.1.1.1,8.8.8.8": false, " 1.1.1.1": false,
		"tls://": false, "tls://a b": false, "tls://1.1.1.1:x": false, "tls://host/path": false,
		"https://": false, "https:///dns-query": false, "https://user@dns.example/": false, "https://dns.example/?a=b": false, "https://dns.example:0/": false,
		"http://dns.example/": false, "quic://dns.example": false, "udp://1.1.1.1": false,
	} {
		_, err := New(Options{Log: quiet, Zone: zone, Upstreams: []string{text}})
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if e, is := err.(*model.Error); err != nil && (!is || e.Kind != model.KindInvalid || e.Field != "dns_upstreams") {
			t.Errorf("%q: %#v", text, err)
		}
	}
	for _, z := range []string{"", "a b", "-x.internal", strings.Repeat("long-label.", 15) + "internal"} {
		if _, err := New(Options{Log: quiet, Zone: z}); model.KindOf(err) != model.KindInvalid {
			t.Errorf("zone %q: %v", z, err)
		}
	}
}
