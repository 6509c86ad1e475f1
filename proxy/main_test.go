package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Server with both ports on loopback.
type rig struct {
	t          testing.TB
	srv        *Server
	authority  *Authority
	plain, tls string // host:port
	log        *logBuffer
	from       string // the loopback address that clients connect from; empty: any
	narrow     bool   // clients made now take next to nothing that is not read
	serving    sync.WaitGroup
	udp        sync.Once
	packets    string // host:port of HTTP/3, once quic was called
	kept       int64  // what the test has taken of the budget of bodies
}

// dialer dials from the address that clients made now are to have.
func (r *rig) dialer() *net.Dialer {
	d := new(net.Dialer)
	if r.from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(r.from)}
	}
	if r.narrow {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1) })
		}
	}
	return d
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var testAuthority = sync.OnceValue(func() *Authority {
	cert, key, err := NewAuthority()
	if err != nil {
		panic(err)
	}
	a, err := LoadAuthority(cert, key)
	if err != nil {
		panic(err)
	}
	return a
})

// newRig starts a Server; tune may change its limits or options first.
func newRig(t testing.TB, cfg Config, tune ...func(*Options, *limits)) *rig {
	t.Helper()
	r := &rig{t: t, authority: testAuthority(), log: &logBuffer{}}
	opts := Options{
		Log:         slog.New(slog.NewTextHandler(r.log, nil)),
		Certificate: r.authority.Certificate,
		Dial: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr.String())
		},
	}
	lim := defaultLimits()
	for _, f := range tune {
		f(&opts, &lim)
	}
	srv, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.limits = lim
	r.srv = srv
	r.commit(cfg)
	serve := func(f func(net.Listener) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.serving.Go(func() {
			if err := f(ln); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	r.plain, r.tls = serve(srv.Serve), serve(srv.ServeTLS)
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		r.serving.Wait()
		if kept := keptBudget - srv.bodies.left.Load(); kept != r.kept {
			t.Errorf("%d bytes of bodies are still counted after Close", kept-r.kept)
		}
		if n := srv.census.total; n != 0 {
			t.Errorf("%d connections still counted after Close", n)
		}
	})
	return r
}

func (r *rig) commit(cfg Config) {
	r.t.Helper()
	p, err := r.srv.Prepare(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	p.Commit()
}

// backend starts an HTTP backend.
func backend(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// rawBackend starts a backend that speaks bytes: f gets each connection.
func rawBackend(t testing.TB, f func(net.Conn, *bufio.Reader)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				f(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// site is a Config of one route that is served on both ports.
func site(addr netip.AddrPort) Config {
	return Config{Routes: []Route{{ID: 1, Host: "app.test", Target: Target{Addr: addr, PeerName: "nas"}}}}
}

// client returns an HTTP client that reaches every name at the rig.
func (r *rig) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.authority.RootPEM())
	d := r.dialer()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to := r.plain
			if _, port, _ := net.SplitHostPort(addr); port == "443" {
				to = r.tls
			}
			return d.DialContext(ctx, network, to)
		},
		TLSClientConfig:    &tls.Config{RootCAs: pool},
		DisableCompression: true,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dial opens a plain connection to the rig, with a deadline for everything.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := r.dialer().Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// dialTLS opens a TLS connection with the given SNI.
func (r *rig) dialTLS(name string) *tls.Conn {
	r.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.authority.RootPEM())
	c, err := tls.DialWithDialer(r.dialer(), "tcp", r.tls, &tls.Config{RootCAs: pool, ServerName: name})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// exchange writes raw bytes and returns everything until the end of the connection.
func (r *rig) raw(text string) string {
	r.t.Helper()
	c := r.dial()
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Logf("write: %v", err) // the answer may have come first
	}
	b, err := io.ReadAll(c)
	if err != nil {
		r.t.Logf("read: %v", err)
	}
	return string(b)
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// eventually polls a condition, for what happens in other goroutines.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

func routeID(n int) model.RouteID { return model.RouteID(n) }
