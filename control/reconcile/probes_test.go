package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// TestProbe says where a route is asked: where its requests go.
func TestProbe(t *testing.T) {
	web := func(change func(*model.Route, *model.Web)) *model.Route {
		w := model.DefaultWeb()
		r := &model.Route{ID: 9, Type: model.RouteHTTP, Enabled: true, Domain: "a.example.com", Target: model.Target{Peer: 3, Port: 80}, Web: &w}
		change(r, &w)
		return r
	}
	port := func(network string, peer model.PeerID) *model.Route {
		return &model.Route{ID: 9, Type: model.RouteL4, Enabled: true, Target: model.Target{Peer: peer, Port: 22},
			L4: &model.L4{Network: network, Ports: model.PortRange{First: 5000, Last: 5010}, TLS: model.TLSNone}}
	}
	for _, c := range []struct {
		name  string
		route *model.Route
		want  string // kind host backends fields; or why there are none
	}{
		{"the address that the peer has today", web(func(*model.Route, *model.Web) {}), "http a.example.com 10.8.0.9:80 []"},
		{"no options", web(func(r *model.Route, _ *model.Web) { r.Web = nil }), "http a.example.com 10.8.0.9:80 []"},
		{"a direct target", web(func(r *model.Route, _ *model.Web) { r.Target = testState().route(3).Target }), "http a.example.com 9.9.9.9:443 []"},
		{"TLS", web(func(r *model.Route, _ *model.Web) { r.BackendHTTPS = true }), "http a.example.com tls:10.8.0.9:80 []"},
		{"a disabled peer", web(func(r *model.Route, _ *model.Web) { r.Target.Peer = 1 }), "http a.example.com 10.8.0.2:80 []"},
		{"no peer", web(func(r *model.Route, _ *model.Web) { r.Target.Peer = 99 }), orphanReason},
		{"backends instead of the target", web(func(r *model.Route, w *model.Web) {
			r.BackendHTTPS, r.Target.Peer = true, 99
			w.Backends = []model.Backend{{Peer: 1, Port: 80}, {Peer: 2, Port: 81}, {Peer: 99, Port: 82}, {Peer: 3, Port: 83}}
		}), "http a.example.com tls:10.8.0.3:81,tls:10.8.0.9:83 []"},
		{"no usable backend", web(func(_ *model.Route, w *model.Web) { w.Backends = []model.Backend{{Peer: 1, Port: 80}} }), "http a.example.com 10.8.0.9:80 []"},
		{"a path of everything", web(func(_ *model.Route, w *model.Web) {
			w.Backends = []model.Backend{{Peer: 3, Port: 80}}
			w.Paths = []model.Path{{Prefix: "/a", Port: 81}, {Prefix: "/", Peer: 2, Port: 82}}
		}), "http a.example.com 10.8.0.3:82 []"},
		{"another path", web(func(_ *model.Route, w *model.Web) { w.Paths = []model.Path{{Prefix: "/a", Port: 81}} }), "http a.example.com 10.8.0.9:80 []"},
		{"a redirect of everything", web(func(_ *model.Route, w *model.Web) { w.Paths = []model.Path{{Prefix: "/", Redirect: "/x", Status: 302}} }),
			"requests for / are redirected by the route itself"},
		{"fields", web(func(_ *model.Route, w *model.Web) {
			w.Headers = &model.Headers{Request: []model.HeaderField{{Name: "X-A", Value: "b"}, {Name: "host", Value: "inner:81"}}, Response: []model.HeaderField{{Name: "C", Value: "d"}}}
		}), "http inner:81 10.8.0.9:80 [{X-A b}]"},
		{"behind a home gateway", testState().route(8), "http behind.example.com 10.8.0.7:18080 [{X-Gateway-Target-Domain behind.example.com} {X-Gateway-Target [fd00::5]:5001}]"},
		{"behind a home gateway that is none", web(func(r *model.Route, _ *model.Web) {
			r.Target = model.Target{Gateway: &model.GatewayTarget{Peer: 1, Host: "nas", Port: 80}}
		}), orphanReason},
		{"TCP", port("tcp", 3), "tcp  10.8.0.9:22 []"},
		{"TCP without a peer", port("tcp", 99), orphanReason},
		{"UDP", port("udp", 3), "whether a service listens on a port of UDP cannot be told from outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.route.ID, c.route.UpdatedAt = 9, testNow
			p := testState().probe(c.route)
			if p.Route != 9 || !p.Version.Equal(testNow) {
				t.Errorf("probe of %d as of %s", p.Route, p.Version)
			}
			got := p.Reason
			if len(p.Backends) > 0 {
				var addrs []string
				for _, b := range p.Backends {
					prefix := ""
					if b.TLS {
						prefix = "tls:"
					}
					addrs = append(addrs, prefix+b.Addr.String())
				}
				got = fmt.Sprintln(p.Kind, p.Host, strings.Join(addrs, ","), p.Fields) + p.Reason
			}
			if got = strings.TrimSpace(got); got != c.want {
				t.Errorf("is %q, want %q", got, c.want)
			}
		})
	}
}

// TestMonitored says which routes are checked, how often, and that a change that
// makes no difference to that makes none at all.
func TestMonitored(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*store.Tx) error) *Plan {
		t.Helper()
		if err := g.put(t, f); err != nil {
			t.Fatal(err)
		}
		return g.Plan()
	}
	if p := g.Plan(); p.Monitor.Interval != time.Minute || len(p.Monitor.Probes) != 0 {
		t.Errorf("at the start: %+v", p.Monitor)
	}
	var on, off, udp model.Route
	p := change(func(tx *store.Tx) error {
		web := model.Route{Type: model.RouteHTTP, Enabled: true, Monitored: true, Target: testState().route(3).Target}
		on, off, udp = web, web, *portRoute(6000)
		on.Domain, off.Domain, off.Enabled, udp.Monitored, udp.L4.Network = "on.example.com", "off.example.com", false, true, "udp"
		for _, r := range []*model.Route{&on, &off, &udp} {
			if err := store.Routes.Insert(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if len(p.Monitor.Probes) != 1 || p.Monitor.Probes[0].Route != on.ID {
		t.Errorf("monitored are %+v", p.Monitor.Probes)
	}
	for id, reason := range map[model.RouteID]string{on.ID: "", off.ID: "", udp.ID: "UDP"} {
		if q, ok := g.Probe(id); !ok || q.Route != id || (len(q.Backends) == 0) != (reason != "") || !strings.Contains(q.Reason, reason) {
			t.Errorf("probe of %d: %+v, %t", id, q, ok)
		}
	}
	if _, ok := g.Probe(99); ok {
		t.Error("there is a probe of no route")
	}

	next := change(func(tx *store.Tx) error {
		if err := store.RouteChecks.Put(tx, &model.RouteCheck{ID: on.ID, Status: model.StatusDown}); err != nil {
			return err
		}
		return store.Settings.Put(tx, &store.Setting{Key: model.MonitorIntervalKey, Value: "30"})
	})
	if next.Monitor.Interval != 30*time.Second || next.Proxy != p.Proxy || next.L4 != p.L4 {
		t.Errorf("the interval is %s, and other planes were compiled anew: %t", next.Monitor.Interval, next.Proxy != p.Proxy)
	}
	revision := next.Revision
	if last := change(func(tx *store.Tx) error {
		return store.RouteChecks.Put(tx, &model.RouteCheck{ID: on.ID, Status: model.StatusUp})
	}); last != next || last.Revision != revision {
		t.Error("what a check found is a change of intent")
	}
	if p := change(func(tx *store.Tx) error { _, err := store.Routes.Delete(tx, on.ID); return err }); len(p.Monitor.Probes) != 0 {
		t.Errorf("after it was deleted: %+v", p.Monitor.Probes)
	}
}

// TestProbesFollowPeers has the checks of a route go where its backends are now.
func TestProbesFollowPeers(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, two := testPeer(0, "10.8.0.2").Peer, testPeer(0, "10.8.0.3").Peer
	one.Name, two.Name, two.PublicKey = "one", "two", model.PublicKey{2}
	w := model.DefaultWeb()
	asked := func(f func(*store.Tx) error) string {
		t.Helper()
		if err := g.put(t, f); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(g.Plan().Monitor.Probes[0].Backends)
	}
	if got := asked(func(tx *store.Tx) error {
		if err := errors.Join(store.Peers.Insert(tx, one), store.Peers.Insert(tx, two)); err != nil {
			return err
		}
		w.Backends = []model.Backend{{Peer: one.ID, Port: 80, Weight: 1}, {Peer: two.ID, Port: 80, Weight: 1}}
		return store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Enabled: true, Monitored: true, Domain: "a.example.com",
			Target: model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: 80}, Web: &w})
	}); got != "[{10.8.0.2:80 false} {10.8.0.3:80 false}]" {
		t.Errorf("asked are %s", got)
	}
	if got := asked(func(tx *store.Tx) error { two.Enabled = false; return store.Peers.Put(tx, two) }); got != "[{10.8.0.2:80 false}]" {
		t.Errorf("with one disabled: %s", got)
	}
	if got := asked(func(tx *store.Tx) error {
		one.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.8.0.9/32")}
		return store.Peers.Put(tx, one)
	}); got != "[{10.8.0.9:80 false}]" {
		t.Errorf("with one moved: %s", got)
	}
}
