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

// newGallery listens for TLS as servers do by default, on one socket for both families,
// and has IPv6 in its tunnel.
func newGallery(t *testing.T) *gallery {
	t.Helper()
	g := &gallery{s: lab.Start(t, func(o *app.Options) {
		o.HTTPSListen, o.WGSubnet6 = ":0", "fd00:8::/64"
		o.BotRanges = "openai,127.0.0.0/8"                                      // where strangers come from, to routes that ask
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")} // alpha
	})}
	g.s.API.Call(t, 200, "PUT", "/api/v1/settings/metrics", fields{"enabled": true}, nil)
	g.alpha, g.beta = g.exhibit(t, "alpha"), g.exhibit(t, "beta")
	return g
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
	return v.at(t, netip.MustParseAddr("127.0.0.1"), certificate)
}

// outside6 is a client on this host that comes by IPv6.
func (v visitor) outside6(t *testing.T) *http.Client {
	t.Helper()
	return v.at(t, netip.IPv6Loopback(), nil)
}

// at is a client at an address of this host, which finds the server there.
func (v visitor) at(t *testing.T, host netip.Addr, certificate []tls.Certificate) *http.Client {
	t.Helper()
	port := uint16(portOf(t, v.g.s.Addrs().HTTPS))
	to := netip.AddrPortFrom(host, port)
	return v.client(t, place{
		dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to.String())
		},
		packets: func() (net.PacketConn, error) {
			return net.ListenPacket("udp", netip.AddrPortFrom(host, 0).String())
		},
		quic: net.UDPAddrFromAddrPort(to),
	}, certificate)
}

// inside is a client at a peer.
func (v visitor) inside(t *testing.T, p *demo.Peer) *http.Client {
	t.Helper()
	return v.in(t, p, p.Addr, netip.MustParseAddrPort("10.8.0.1:443"))
}

// inside6 is a client at a peer that comes by IPv6.
func (v visitor) inside6(t *testing.T, p *demo.Peer) *http.Client {
	t.Helper()
	return v.in(t, p, p.Addr6, netip.MustParseAddrPort("[fd00:8::1]:443"))
}

func (v visitor) in(t *testing.T, p *demo.Peer, from netip.Addr, to netip.AddrPort) *http.Client {
	t.Helper()
	return v.client(t, place{
		dial:    func(ctx context.Context) (net.Conn, error) { return p.DialContext(ctx, "tcp", to.String()) },
		packets: func() (net.PacketConn, error) { return p.ListenPacketAt(netip.AddrPortFrom(from, 0)) },
		quic:    net.UDPAddrFromAddrPort(to),
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
	a, err := try(t.Context(), c, "https://"+domain+path, change...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is visit for what may come to nothing, and for other goroutines than the test's.
func try(ctx context.Context, c *http.Client, url string, change ...func(*http.Request)) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return answer{}, err
	}
	for _, f := range change {
		f(req)
	}
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", url, err)
	}
	return answer{res.StatusCode, res.Header, string(body)}, nil
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
