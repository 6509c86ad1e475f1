package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

// behind is a Config of one route through a home gateway.
func behind(gateway netip.AddrPort) Config {
	cfg := site(gateway)
	cfg.Routes[0].Target = Target{Addr: gateway, PeerName: "home", Behind: "192.168.2.228:5001"}
	return cfg
}

// gatewayFields are those of a request that tell a home gateway where to lead it, and
// what stands behind its body.
func gatewayFields(r *http.Request) string {
	var list []string
	for name, values := range r.Header {
		if strings.HasPrefix(strings.ReplaceAll(strings.ToLower(name), "_", "-"), "x-gateway-") {
			list = append(list, name+"="+strings.Join(values, ";"))
		}
	}
	for name, values := range r.Trailer {
		if strings.HasPrefix(strings.ToLower(name), "x-") {
			list = append(list, "behind the body "+name+"="+strings.Join(values, ";"))
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

const led = "X-Gateway-Target-Domain=app.test X-Gateway-Target=192.168.2.228:5001"

// TestGatewayFields looks at what a home gateway gets, and what everybody else does
// not, whatever the client says itself.
func TestGatewayFields(t *testing.T) {
	tell := func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %v %d %s", r.Host, r.Proto, r.TLS != nil, n, gatewayFields(r))
	}
	addr, plain := backend(t, tell), backend(t, tell)
	copies, copied := mirror(t)
	forged := []pair{
		{"x-gateway-target", "10.0.0.1:22"}, {"x-gateway-target-domain", "peer.test"}, {"x_gateway_target", "10.0.0.1:22"},
		{"x-gateway_target-domain", "peer.test"}, {"x-gateway-token", "t"}, {"x-gateway-", "t"}, {"trailer", "x-gateway-target, x-gateway-target-domain"},
	}
	for _, tt := range []struct {
		name, behind, target, want string
	}{
		{"a name", "nas_1.lan:80", "/", "X-Gateway-Target-Domain=app.test X-Gateway-Target=nas_1.lan:80"},
		{"an address", "192.168.2.228:5001", "/", led},
		{"an IPv6 address", "[fd00::5]:80", "/", "X-Gateway-Target-Domain=app.test X-Gateway-Target=[fd00::5]:80"},
		{"a path past the gateway", "192.168.2.228:5001", "/elsewhere/x", ""},
		{"no gateway", "", "/", ""},
	} {
		cfg := site(addr)
		cfg.Routes[0].Target.Behind = tt.behind
		cfg.Routes[0].Options = &RouteOptions{
			Paths:   []Path{{Prefix: "/elsewhere", Target: &Target{Addr: plain}}},
			Mirrors: []Target{{Addr: copies}},
			Headers: &model.Headers{Request: []model.HeaderField{{Name: "Host", Value: "inner.test"}}},
		}
		for _, s := range speakers {
			t.Run(tt.name+"/"+s.name, func(t *testing.T) {
				got := s.speak(t, newRig(t, cfg), ask{
					method: "POST", target: tt.target, host: "app.test", body: "body", noLength: true, fields: forged,
					trailers: []pair{{"x-gateway-target", "10.0.0.1:22"}, {"x-gateway-target-domain", "peer.test"}},
				})
				if want := "inner.test HTTP/1.1 false 4 " + tt.want; got.status != 200 || got.body != want {
					t.Errorf("%d %q, want %q", got.status, got.body, want)
				}
				if c := await(t, copied); gatewayFields(c.Request) != "" || c.body != "body" {
					t.Errorf("the copy has %q and %q", gatewayFields(c.Request), c.body)
				}
			})
		}
	}
	t.Run("Connection names them", func(t *testing.T) {
		got := newRig(t, behind(addr)).raw("GET / HTTP/1.1\r\nHost: APP.test:80\r\nConnection: close, X-Gateway-Target, x-gateway-target-domain\r\n\r\n")
		if !strings.HasSuffix(got, "APP.test:80 HTTP/1.1 false 0 "+led) {
			t.Errorf("%q", got)
		}
	})
}

// TestGatewayRetries has each attempt say where it is to be led.
func TestGatewayRetries(t *testing.T) {
	var attempts atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if attempts.Add(1) < 3 {
			w.WriteHeader(503)
		}
		fmt.Fprint(w, gatewayFields(r))
	})
	r := newRig(t, retrying(behind(addr), 2, 503), soon)
	if resp, body := get(t, r.client(), "https://app.test/"); resp.StatusCode != 200 || body != led || attempts.Load() != 3 {
		t.Errorf("%d %q after %d attempts", resp.StatusCode, body, attempts.Load())
	}
}

// TestGatewayGRPC: a home gateway speaks HTTP/1.1, so it gets gRPC as that, too.
func TestGatewayGRPC(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, " ", gatewayFields(r)) })
	r := newRig(t, behind(addr))
	req, _ := http.NewRequest("POST", "https://app.test/a.B/C", strings.NewReader("x"))
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := (&http.Client{Transport: transportHTTP2(r)}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "HTTP/1.1 "+led {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// TestGatewayUpgrades leads WebSockets through a home gateway. They end where the
// service behind it becomes another one, though the gateway stays.
func TestGatewayUpgrades(t *testing.T) {
	heads := make(chan string, 10)
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		heads <- gatewayFields(req)
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptOf(req.Header.Get("Sec-WebSocket-Key")))
		_, _ = io.Copy(c, br)
	})
	for _, way := range socketWays {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, behind(addr), func(_ *Options, l *limits) { l.grace = 20 * time.Millisecond })
			c, err := way.dial(t, r)("/", nil)
			if err != nil || c.duplex == nil {
				t.Fatalf("%d %v", c.status, err)
			}
			defer c.Close()
			if got := <-heads; got != led {
				t.Errorf("the gateway got %s", got)
			}
			renamed := behind(addr)
			renamed.Routes[0].Target.PeerName = "another name"
			r.commit(renamed)
			for u := range r.srv.upgrades.open {
				if u.doom != nil {
					t.Error("another name of the gateway dooms it")
				}
			}
			b := make([]byte, 1)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, b); err != nil || b[0] != 'x' {
				t.Fatalf("%q %v", b, err)
			}
			other := behind(addr)
			other.Routes[0].Target.Behind = "192.168.2.229:5001"
			r.commit(other)
			if _, err := c.Read(b); err == nil {
				t.Error("it goes on to a service that the route leads to no more")
			}
		})
	}
}

// TestGatewayAway counts the attempts to reach a home gateway: while it is away one
// request tries at a time, and all do as soon as it is connected.
func TestGatewayAway(t *testing.T) {
	for _, tt := range []struct {
		name   string
		behind string
		online bool
		rest   time.Duration
		dials  int32 // of three requests
	}{
		{"away", "192.168.2.228:5001", false, time.Hour, 1},
		{"away, and rested", "192.168.2.228:5001", false, time.Nanosecond, 3},
		{"connected", "192.168.2.228:5001", true, time.Hour, 3},
		{"no gateway", "", false, time.Hour, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var dials atomic.Int32
			cfg := behind(netip.MustParseAddrPort("10.8.0.8:8080"))
			cfg.Routes[0].Target.Behind = tt.behind
			r := newRig(t, cfg, func(o *Options, l *limits) {
				l.rest = tt.rest
				o.LastSeen = func(netip.Addr) (Sighting, bool) { return Sighting{Online: tt.online}, true }
				o.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
					dials.Add(1)
					return nil, errors.New("nobody there")
				}
			})
			for range 3 {
				if resp, _ := get(t, r.client(), "https://app.test/"); resp.StatusCode != 502 {
					t.Errorf("%d", resp.StatusCode)
				}
			}
			if dials.Load() != tt.dials {
				t.Errorf("%d attempts, want %d", dials.Load(), tt.dials)
			}
		})
	}
	t.Run("comes back", func(t *testing.T) {
		addr := backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })
		var online atomic.Bool
		var dials, asked atomic.Int32
		r := newRig(t, retrying(behind(addr), 2), soon, func(o *Options, l *limits) {
			l.rest = time.Hour
			o.LastSeen = func(netip.Addr) (Sighting, bool) {
				asked.Add(1)
				return Sighting{Online: online.Load()}, true
			}
			dial := o.Dial
			o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
				if dials.Add(1); !online.Load() {
					return nil, errors.New("nobody there")
				}
				return dial(ctx, network, addr)
			}
		})
		for i, want := range []int{502, 502, 200, 200} {
			online.Store(i >= 2)
			if resp, body := get(t, r.client(), "https://app.test/"); resp.StatusCode != want {
				t.Errorf("request %d: %d %s, want %d", i, resp.StatusCode, body, want)
			}
		}
		// Further attempts of a request are in vain as well, and a connection is kept.
		if n, m := dials.Load(), asked.Load(); n != 2 || m != 5 {
			t.Errorf("%d attempts to connect, asked %d times whether it is there", n, m)
		}
	})
}

// TestGatewayTargets refuses what is no way through a home gateway.
func TestGatewayTargets(t *testing.T) {
	addr := netip.MustParseAddrPort("10.8.0.8:8080")
	through := Target{Addr: addr, Behind: "nas:80"}
	for name, target := range map[string]Target{
		"TLS":            {Addr: addr, Behind: "nas:80", TLS: true},
		"another line":   {Addr: addr, Behind: "nas:80\r\nX-A: b"},
		"a space":        {Addr: addr, Behind: "nas :80"},
		"no address":     {Behind: "nas:80"},
		"no port":        {Addr: netip.AddrPortFrom(addr.Addr(), 0), Behind: "nas:80"},
		"nobody's place": {Addr: netip.MustParseAddrPort("0.0.0.0:8080"), Behind: "nas:80"},
	} {
		r := newRig(t, Config{})
		if _, err := r.srv.Prepare(Config{Routes: []Route{{ID: 1, Host: "app.test", Target: target}}}); model.KindOf(err) != model.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused(t, RouteOptions{Backends: []Backend{{Target: through, Weight: 1}}}, "backends[0]")
	refused(t, RouteOptions{Mirrors: []Target{through}}, "mirror_targets[0]")
	refused(t, RouteOptions{Paths: []Path{{Prefix: "/a", Target: &through}}}, "paths[0].target")
	refused(t, RouteOptions{Headers: &model.Headers{Request: []model.HeaderField{{Name: "X-Gateway-Target", Value: "a:1"}}}}, "custom_headers.request[0].name")
	r := newRig(t, Config{})
	cfg := behind(addr)
	cfg.Routes[0].Options = &RouteOptions{Mirrors: []Target{{Addr: addr}}}
	if _, err := r.srv.Prepare(cfg); model.KindOf(err) != model.KindInvalid {
		t.Errorf("the gateway as its own mirror: %v", err)
	}
}
