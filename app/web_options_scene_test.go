package app_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatecontrol/app"
	"gatecontrol/demo"
	"gatecontrol/lab"
)

// gallery is a server with two peers whose services are published, and clients
// inside and outside of the tunnel.
type gallery struct {
	s        *lab.Server
	alpha    exhibit
	beta     exhibit
	authored atomic.Int64 // domains so far
}

// exhibit is a peer, and the service on its ports 8000 and 8001.
type exhibit struct {
	id   int64
	peer *demo.Peer

	mu   *sync.Mutex
	more *sync.Cond       // of mu: one more was seen
	seen *[]*http.Request // of the service, in order
}

func newGallery(t *testing.T) *gallery {
	t.Helper()
	g := &gallery{s: lab.Start(t, func(o *app.Options) {
		o.BotRanges = "openai,127.0.0.0/8"                                      // where strangers come from, to routes that ask
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")} // alpha
	})}
	g.alpha, g.beta = g.exhibit(t, "alpha"), g.exhibit(t, "beta")
	return g
}

func (g *gallery) exhibit(t *testing.T, name string) exhibit {
	t.Helper()
	id, p := g.s.Peer(t, name)
	e := exhibit{id: id, peer: p, mu: new(sync.Mutex), seen: new([]*http.Request)}
	e.more = sync.NewCond(e.mu)
	for _, port := range []uint16{8000, 8001} {
		e.serve(t, name, port)
	}
	return e
}

// serve opens the service on a port, until stop is called.
func (e exhibit) serve(t *testing.T, name string, port uint16) (stop func()) {
	t.Helper()
	ln, err := e.peer.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: e.handler(name, port)}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	stop = func() { _ = srv.Close() }
	t.Cleanup(stop)
	return stop
}

// handler tells who it is and what it was asked for. /flaky fails every other
// time, /long is a text of 4 KiB, which has parts, and is said to be in any coding.
func (e exhibit) handler(name string, port uint16) http.HandlerFunc {
	var flaky atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			e.note(r)
		}
		if stream(w, r) {
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		e.note(r)
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/flaky" {
			if flaky.Add(1)%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
		if r.URL.Path == "/long" {
			w.Header()["Content-Encoding"] = r.URL.Query()["coding"]
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(strings.Repeat("all work and no play ", 200)))
			return
		}
		_, _ = fmt.Fprintf(w, "%s:%d %s %s", name, port, r.Method, r.RequestURI)
	}
}

func (e exhibit) note(r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*e.seen = append(*e.seen, r)
	e.more.Broadcast()
}

// last is the last request that e got.
func (e exhibit) last(t *testing.T) *http.Request {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(*e.seen) == 0 {
		t.Fatal("the service got no request")
	}
	return (*e.seen)[len(*e.seen)-1]
}

// wait waits until e has got n requests in all, and returns the last of these.
func (e exhibit) wait(t *testing.T, n int) *http.Request {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	late := time.AfterFunc(11*time.Second, e.more.Broadcast)
	defer late.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(*e.seen) < n {
		if !time.Now().Before(end) {
			t.Fatalf("%d requests in 10 s, want %d", len(*e.seen), n)
		}
		e.more.Wait()
	}
	return (*e.seen)[n-1]
}

func (e exhibit) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(*e.seen)
}

// show publishes alpha's service with options and returns the route's id and
// domain.
func (g *gallery) show(t *testing.T, options map[string]any) (id int64, domain string) {
	t.Helper()
	domain = fmt.Sprintf("o%d.example.test", g.authored.Add(1))
	body := map[string]any{"domain": domain, "peer_id": g.alpha.id, "target_port": 8000}
	maps.Copy(body, options)
	var made struct{ Route struct{ ID int64 } }
	g.s.API.Call(t, 201, "POST", "/api/v1/routes", body, &made)
	return made.Route.ID, domain
}

func (g *gallery) change(t *testing.T, id int64, options map[string]any) {
	t.Helper()
	g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/routes/%d", id), options, nil)
}

// place is where a client is: how it reaches the TLS port and that of HTTP/3.
type place struct {
	dial    func(context.Context) (net.Conn, error)
	packets func() (net.PacketConn, error)
	quic    net.Addr // where HTTP/3 is
}

// visitor is a client of one HTTP version.
type visitor struct {
	g       *gallery
	version string
	via     func(*testing.T, place, *tls.Config) http.RoundTripper
}

// visitors are the HTTP versions of the web ports.
func (g *gallery) visitors() []visitor {
	return []visitor{{g, "HTTP1", viaHTTP1}, {g, "HTTP2", viaHTTP2}, {g, "HTTP3", viaHTTP3}}
}

func viaHTTP1(t *testing.T, from place, c *tls.Config) http.RoundTripper {
	return viaTCP(t, from, c, func(p *http.Protocols) { p.SetHTTP1(true) })
}

func viaHTTP2(t *testing.T, from place, c *tls.Config) http.RoundTripper {
	return viaTCP(t, from, c, func(p *http.Protocols) { p.SetHTTP2(true) })
}

func viaTCP(t *testing.T, from place, c *tls.Config, set func(*http.Protocols)) http.RoundTripper {
	tr := &http.Transport{TLSClientConfig: c, DisableCompression: true, Protocols: new(http.Protocols)}
	set(tr.Protocols)
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return from.dial(ctx) }
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func viaHTTP3(t *testing.T, from place, c *tls.Config) http.RoundTripper {
	t.Helper()
	pc, err := from.packets()
	if err != nil {
		t.Fatal(err)
	}
	socket := &quic.Transport{Conn: pc}
	tr := &http3.Transport{
		TLSClientConfig: c, DisableCompression: true,
		Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return socket.Dial(ctx, from.quic, c, q)
		},
	}
	t.Cleanup(func() {
		_ = tr.Close()
		_ = socket.Close()
		_ = pc.Close()
	})
	return tr
}

// sameVersion keeps a test of one version from passing on another.
type sameVersion struct {
	http.RoundTripper
	version string
}

func (s sameVersion) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.RoundTripper.RoundTrip(r)
	if err == nil && s.version != fmt.Sprint("HTTP", res.ProtoMajor) {
		_ = res.Body.Close()
		return nil, fmt.Errorf("the answer came over %s", res.Proto)
	}
	return res, err
}

// client makes a client that follows nothing.
func (v visitor) client(t *testing.T, from place, certificate []tls.Certificate) *http.Client {
	t.Helper()
	c := trustIn(t, v.g.s.Dir)
	c.Certificates = certificate
	return &http.Client{
		Transport:     sameVersion{v.via(t, from, c), v.version},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
}

// outside is a client on this host.
func (v visitor) outside(t *testing.T, certificate ...tls.Certificate) *http.Client {
	t.Helper()
	addr := v.g.s.Addrs().HTTPS
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return v.client(t, place{
		dial:    func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) },
		packets: func() (net.PacketConn, error) { return net.ListenPacket("udp", "127.0.0.1:0") },
		quic:    to,
	}, certificate)
}

// inside is a client at a peer.
func (v visitor) inside(t *testing.T, p *demo.Peer) *http.Client {
	t.Helper()
	return v.client(t, place{
		dial:    func(ctx context.Context) (net.Conn, error) { return p.DialContext(ctx, "tcp", "10.8.0.1:443") },
		packets: func() (net.PacketConn, error) { return p.ListenPacket(0) },
		quic:    &net.UDPAddr{IP: net.IPv4(10, 8, 0, 1), Port: 443},
	}, nil)
}

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   string
}

// visit gets a path and changes the request before, if there is something to change.
func visit(t *testing.T, c *http.Client, domain, path string, change ...func(*http.Request)) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+domain+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(req)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s%s: %v", domain, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s%s: %v", domain, path, err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// wants compares an answer with a status and, if that is not empty, a body.
func (a answer) wants(t *testing.T, what string, status int, body string) {
	t.Helper()
	if a.status != status || body != "" && a.body != body {
		t.Errorf("%s: %d %q, want %d %q", what, a.status, a.body, status, body)
	}
}

// cookie is the one that the answer sets, which has this name.
func (a answer) cookie(t *testing.T, name string) *http.Cookie {
	t.Helper()
	set := (&http.Response{Header: a.header}).Cookies()
	if len(set) != 1 || set[0].Name != name {
		t.Fatalf("the cookies are %v, want %s", set, name)
	}
	return set[0]
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
