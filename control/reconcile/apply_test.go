package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/dns"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
	"gatecontrol/store"
	"gatecontrol/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is a store and the planes, without the services above them.
type gateway struct {
	*Reconciler
	db *store.DB
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	sealer, err := store.LoadSealer(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: dir, Sealer: sealer, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	tunnel, err := netstack.New(netstack.Options{
		Log: log, PrivateKey: model.NewPrivateKey(), Addr: testFacts.Gateway, Subnet: netip.MustParsePrefix("10.0.0.0/8"), MTU: 1420,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tunnel.Close() })
	if err := tunnel.Start(); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr.String())
	}
	forwarder, err := l4.New(l4.Options{Log: log, Dial: dial, Binds: []l4.Bind{l4.HostBind("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = forwarder.Close() })
	cert, key, err := proxy.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := proxy.LoadAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	web, err := proxy.New(proxy.Options{
		Log: log, Dial: dial, Certificate: ca.Certificate,
		DialAdmin: func(context.Context) (net.Conn, error) { return nil, net.ErrClosed },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = web.Close() })
	resolver, err := dns.New(dns.Options{Log: log, Zone: "gc.internal", Upstreams: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resolver.Close() })
	r := New(Options{
		DB: db, Log: log, Now: func() time.Time { return testNow }, Facts: testFacts,
		Netstack: tunnel, DNS: resolver, L4: forwarder, Proxy: web, Monitor: telemetry.NewMonitor(telemetry.MonitorOptions{Log: log}),
	})
	return &gateway{r, db}
}

func (g *gateway) put(t testing.TB, f func(*store.Tx) error) error {
	t.Helper()
	return g.db.Update(t.Context(), f)
}

// portRoute is a TCP route on port to nowhere in particular.
func portRoute(port int) *model.Route {
	return &model.Route{
		Type: model.RouteL4, Enabled: true,
		L4:     &model.L4{Network: "tcp", Ports: model.PortRange{First: uint16(port), Last: uint16(port)}, TLS: model.TLSNone},
		Target: model.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 9},
	}
}

func holdPort(t testing.TB) (net.Listener, int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).Port
}

func accepts(port int) bool {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func TestWriteIsLiveOrNothing(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	free, port := holdPort(t)
	_ = free.Close()
	if err := g.put(t, func(tx *store.Tx) error { return store.Routes.Insert(tx, portRoute(port)) }); err != nil {
		t.Fatal(err)
	}
	if !accepts(port) {
		t.Error("the port of an acknowledged route is closed")
	}
	plan := g.Plan()
	_, taken := holdPort(t)
	another := portRoute(taken)
	another.L4.Ports.First = uint16(taken)
	err := g.put(t, func(tx *store.Tx) error {
		if err := store.Peers.Insert(tx, testPeer(0, "10.8.0.5").Peer); err != nil {
			return err
		}
		return store.Routes.Insert(tx, another)
	})
	if model.KindOf(err) != model.KindConflict {
		t.Fatalf("a taken port: %v", err)
	}
	if g.Plan() != plan {
		t.Error("the plan moved although the write failed")
	}
	if n := len(g.Netstack.Status().Peers); n != 0 {
		t.Errorf("%d peers of the failed write are in the tunnel", n)
	}
	if err := g.db.View(func(tx *store.Tx) error {
		if store.Peers.Len(tx) != 0 || store.Routes.Len(tx) != 1 || tx.Revision() != plan.Revision {
			t.Errorf("stored: %d peers, %d routes, revision %d", store.Peers.Len(tx), store.Routes.Len(tx), tx.Revision())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !accepts(port) {
		t.Error("the failed write closed another route's port")
	}
}

// TestPicturesTouchNoPlane gives a route that serves what people see of it. Every
// plane goes on with what it runs.
func TestPicturesTouchNoPlane(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	parts := 0
	g.db.SetPrepare(func(ctx context.Context, tx *store.Tx) (store.Pending, error) {
		p, err := g.prepare(ctx, tx)
		if err == nil {
			parts = len(p.(*pending).parts)
		}
		return p, err
	})
	r := &model.Route{Type: model.RouteHTTP, Domain: "app.example.com", Enabled: true, Target: model.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 9}}
	if err := g.put(t, func(tx *store.Tx) error { return store.Routes.Insert(tx, r) }); err != nil || parts == 0 {
		t.Fatalf("%d planes are concerned by a new route, %v", parts, err)
	}
	for _, branding := range []model.Branding{{Logo: "a.png"}, {Logo: "b.png", Image: "c.png"}, {}} {
		w := r.Options()
		w.Branding = branding
		r.Web, r.UpdatedAt = &w, r.UpdatedAt.Add(time.Hour)
		if err := g.put(t, func(tx *store.Tx) error { return store.Routes.Put(tx, r) }); err != nil || parts != 0 {
			t.Errorf("%+v: %d planes are concerned, %v", branding, parts, err)
		}
	}
}

// TestBadRouteDoesNotStopTheRest starts on a store with a route whose port is
// taken: the rest serves, and the route follows once the port is free.
func TestBadRouteDoesNotStopTheRest(t *testing.T) {
	g := newGateway(t)
	holder, taken := holdPort(t)
	free, port := holdPort(t)
	_ = free.Close()
	g.db.SetPrepare(nil) // stored while no planes were there to object
	bad := portRoute(taken)
	if err := g.put(t, func(tx *store.Tx) error {
		if err := store.Routes.Insert(tx, bad); err != nil {
			return err
		}
		return store.Routes.Insert(tx, portRoute(port))
	}); err != nil {
		t.Fatal(err)
	}
	g.db.SetPrepare(g.prepare)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !accepts(port) {
		t.Error("the good route does not serve")
	}
	if g.Skipped()[bad.ID] == nil || len(g.Skipped()) != 1 {
		t.Errorf("skipped: %v", g.Skipped())
	}
	if c := g.Conditions(); len(c) != 1 || c[0].Code != "route_left_out" || c[0].Route != bad.ID || c[0].Subject != fmt.Sprintf("tcp port %d", taken) ||
		!strings.Contains(c[0].Text, "in use by another program") {
		t.Errorf("conditions: %+v", c)
	}
	// Other writes go on meanwhile.
	if err := g.put(t, func(tx *store.Tx) error { return store.Peers.Insert(tx, testPeer(0, "10.8.0.5").Peer) }); err != nil {
		t.Fatal(err)
	}
	_ = holder.Close()
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(g.Skipped()) != 0 || !accepts(taken) {
		t.Errorf("the port is free, and the route does not serve: %v", g.Skipped())
	}
	if c := g.Conditions(); len(c) != 0 {
		t.Errorf("conditions: %+v", c)
	}
}

// TestBadRecordsAreLeftOut starts on a store with records that no plane can
// take: the rest serves, and further writes go through.
func TestBadRecordsAreLeftOut(t *testing.T) {
	g := newGateway(t)
	insert := func(list ...any) {
		t.Helper()
		if err := g.put(t, func(tx *store.Tx) error {
			for _, v := range list {
				var err error
				switch v := v.(type) {
				case *model.Peer:
					err = store.Peers.Insert(tx, v)
				case *model.Route:
					err = store.Routes.Insert(tx, v)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	newPeer := func(n byte, addr string) *model.Peer {
		p := testPeer(0, addr).Peer
		p.Name, p.PublicKey = fmt.Sprint("peer ", n), model.PublicKey{n}
		return p
	}
	httpRoute := func(domain string, peer model.PeerID) *model.Route {
		return &model.Route{Type: model.RouteHTTP, Enabled: true, Domain: domain, Target: model.Target{Peer: peer, Addr: netip.MustParseAddr("9.9.9.9"), Port: 80}}
	}
	free, port := holdPort(t)
	_ = free.Close()

	g.db.SetPrepare(nil) // stored by another version, or under other settings
	good, gateway := newPeer(1, "10.8.0.5"), newPeer(2, "10.8.0.1")
	good.Group = 99 // of which nobody knows what it said
	broken := newPeer(3, "10.8.0.6")
	broken.PresharedKey = "not sealed"
	insert(good, gateway, broken)
	serves, first, second := httpRoute("serves.example.com", good.ID), portRoute(port), portRoute(port)
	second.Target.Port++
	behind := httpRoute("behind.example.com", 0)
	behind.Target = model.Target{Port: 80, Gateway: &model.GatewayTarget{Peer: good.ID, Host: "nas", Port: 80}}
	bad := []*model.Route{
		behind, // its peer is no home gateway
		httpRoute("lost.example.com", gateway.ID),      // its peer has the address of the gateway
		httpRoute("unreadable.example.com", broken.ID), // its peer cannot be read
		httpRoute("gate.example.com", good.ID),         // the admin host has that name now
		httpRoute("not a domain", good.ID),
	}
	insert(serves, first, second)
	for _, r := range bad {
		insert(r)
	}
	bad = append(bad, second) // the port belongs to the route before it
	g.db.SetPrepare(g.prepare)

	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range bad {
		if g.Skipped()[r.ID] == nil {
			t.Errorf("route %s (%d) is not among the skipped", r.Domain, r.ID)
		}
	}
	if len(g.Skipped()) != len(bad) {
		t.Errorf("skipped: %v", g.Skipped())
	}
	if !accepts(port) || len(g.Plan().Proxy.Routes) != 1 || len(g.Netstack.Status().Peers) != 1 {
		t.Errorf("the rest does not serve: port %v, %d web routes, %d peers", accepts(port), len(g.Plan().Proxy.Routes), len(g.Netstack.Status().Peers))
	}
	if !g.incomplete() {
		t.Error("nothing will try again")
	}
	if p := g.Plan().Netstack.Peers[0]; !p.Isolated || !p.NoExit {
		t.Errorf("a member of a lost group may do everything: %+v", p)
	}
	count := func() map[string]int {
		n := make(map[string]int)
		for _, c := range g.Conditions() {
			n[c.Code]++
			if c.Code == "peer_left_out" && (c.Peer != gateway.ID || c.Subject != gateway.Name) {
				t.Errorf("condition: %+v", c)
			}
		}
		return n
	}
	if got, want := count(), (map[string]int{"route_left_out": len(bad), "peer_left_out": 1, "records_unreadable": 1}); !maps.Equal(got, want) {
		t.Errorf("conditions %v, want %v", got, want)
	}
	insert(newPeer(4, "10.8.0.7")) // other writes go on
	for _, group := range []model.GroupID{99, 0} {
		good.Keepalive++
		good.Group = group
		if err := g.put(t, func(tx *store.Tx) error { return store.Peers.Put(tx, good) }); err != nil {
			t.Errorf("changing a member of a lost group: %v", err)
		}
	}
	if p := g.Plan().Netstack.Peers[0]; p.Isolated || p.NoExit {
		t.Errorf("out of the lost group: %+v", p)
	}
	if err := g.put(t, func(tx *store.Tx) error {
		bad[2].Enabled = false
		return store.Routes.Put(tx, bad[2])
	}); err != nil {
		t.Errorf("disabling a route that cannot be applied: %v", err)
	}
	if err := g.put(t, func(tx *store.Tx) error {
		gateway.AllowedIPs[0] = netip.MustParsePrefix("10.8.0.8/32")
		return store.Peers.Put(tx, gateway)
	}); err != nil {
		t.Errorf("mending a peer: %v", err)
	}
	if n := len(g.Netstack.Status().Peers); n != 3 {
		t.Errorf("%d peers in the tunnel, want 3", n)
	}
	if got, want := count(), (map[string]int{"route_left_out": len(bad) - 1, "records_unreadable": 1}); !maps.Equal(got, want) {
		t.Errorf("conditions %v after mending, want %v", got, want)
	}
}

// TestDanglingReferencesAreRefused writes past the services.
func TestDanglingReferencesAreRefused(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	group, p := &model.Group{Name: "home"}, testPeer(0, "10.8.0.5").Peer
	home := testPeer(0, "10.8.0.7", func(p *model.Peer) { p.Name, p.PublicKey, p.Type = "gateway", model.PublicKey{7}, model.PeerGateway }).Peer
	behind := func(gateway *model.Peer, domain string) *model.Route {
		return &model.Route{Type: model.RouteHTTP, Enabled: true, Domain: domain,
			Target: model.Target{Port: 80, Gateway: &model.GatewayTarget{Peer: gateway.ID, Host: "nas", Port: 80}}}
	}
	if err := g.put(t, func(tx *store.Tx) error {
		if err := store.Groups.Insert(tx, group); err != nil {
			return err
		}
		p.Group = group.ID
		if err := store.Peers.Insert(tx, p); err != nil {
			return err
		}
		r := &model.Route{Type: model.RouteHTTP, Domain: "a.example.com", Target: model.Target{Peer: p.ID, Port: 80}}
		if err := store.Routes.Insert(tx, r); err != nil {
			return err
		}
		if err := store.Peers.Insert(tx, home); err != nil {
			return err
		}
		return store.Routes.Insert(tx, behind(home, "c.example.com"))
	}); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(tx *store.Tx) error{
		"a peer that a route needs":    func(tx *store.Tx) error { _, err := store.Peers.Delete(tx, p.ID); return err },
		"a gateway that a route needs": func(tx *store.Tx) error { _, err := store.Peers.Delete(tx, home.ID); return err },
		"a gateway that becomes another peer": func(tx *store.Tx) error {
			other := *home
			other.Type = model.PeerRegular
			return store.Peers.Put(tx, &other)
		},
		"a route through a peer that is no gateway": func(tx *store.Tx) error { return store.Routes.Insert(tx, behind(p, "d.example.com")) },
		"a route through nobody":                    func(tx *store.Tx) error { return store.Routes.Insert(tx, behind(new(model.Peer), "d.example.com")) },
		"a group that has a member":                 func(tx *store.Tx) error { _, err := store.Groups.Delete(tx, group.ID); return err },
		"a new peer of no group": func(tx *store.Tx) error {
			return store.Peers.Insert(tx, testPeer(0, "10.8.0.6", func(p *model.Peer) { p.Name, p.PublicKey, p.Group = "b", model.PublicKey{2}, 99 }).Peer)
		},
		"a peer moved to no group": func(tx *store.Tx) error {
			moved := *p
			moved.Group = 99
			return store.Peers.Put(tx, &moved)
		},
		"a route to no peer": func(tx *store.Tx) error {
			return store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Enabled: true, Domain: "b.example.com", Target: model.Target{Peer: 99, Port: 80}})
		},
	} {
		if err := g.put(t, f); err == nil {
			t.Errorf("%s: the write went through", name)
		}
	}
}

// TestPanicGivesBack fails in one plane after another one has prepared.
func TestPanicGivesBack(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	planes := g.planes
	g.planes = append(planes[:len(planes):len(planes)], func(_, _ *Plan) (store.Pending, error) { panic("a fault") })
	add := func() error {
		return g.put(t, func(tx *store.Tx) error { return store.Peers.Insert(tx, testPeer(0, "10.8.0.5").Peer) })
	}
	func() {
		defer func() { _ = recover() }()
		_ = add()
	}()
	g.planes = planes
	if err := add(); err != nil {
		t.Errorf("the change after a fault: %v", err)
	}
}

// BenchmarkOneChange applies one change beside 10,000 peers and 10,000 routes,
// from the write to the swap, the sync of the file included.
func BenchmarkOneChange(b *testing.B) {
	g := newGateway(b)
	g.db.SetPrepare(nil)
	group := &model.Group{Name: "every tenth"}
	if err := g.put(b, func(tx *store.Tx) error {
		if err := store.Groups.Insert(tx, group); err != nil {
			return err
		}
		for i := range 10_000 {
			addr := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
			p := testPeer(0, addr.String()).Peer
			p.Name, p.PublicKey, p.Hostname = fmt.Sprint("peer ", i), model.NewPrivateKey().Public(), fmt.Sprint("h", i)
			p.Keepalive = 0 // or the device would be busy calling 10,000 absent peers
			if i%10 == 0 {
				p.Group = group.ID
			}
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
			r := &model.Route{Type: model.RouteHTTP, Enabled: true, Domain: fmt.Sprintf("r%d.example.com", i), Target: model.Target{Peer: p.ID, Port: 80}}
			if err := store.Routes.Insert(tx, r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	g.db.SetPrepare(g.prepare)
	if err := g.Apply(b.Context()); err != nil {
		b.Fatal(err)
	}
	peer := func(change func(*model.Peer)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			p, err := store.Peers.Get(tx, 5000)
			if err != nil {
				return err
			}
			change(p)
			return store.Peers.Put(tx, p)
		}
	}
	route := func(change func(*model.Route)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			r, err := store.Routes.Get(tx, 5000)
			if err != nil {
				return err
			}
			change(r)
			return store.Routes.Put(tx, r)
		}
	}
	n := 0
	for _, c := range []struct {
		name   string
		change func(*store.Tx) error
	}{
		{"setting", func(tx *store.Tx) error {
			return store.Settings.Put(tx, &store.Setting{Key: "k", Value: fmt.Sprint(n)})
		}},
		{"peer keepalive", peer(func(p *model.Peer) { p.Keepalive = uint16(n) })},
		{"peer toggle", peer(func(p *model.Peer) { p.Enabled = !p.Enabled })},
		{"peer hostname", peer(func(p *model.Peer) { p.Hostname = fmt.Sprint("x", n) })},
		{"group name", func(tx *store.Tx) error {
			group.Name = fmt.Sprint("group ", n)
			return store.Groups.Put(tx, group)
		}},
		{"group isolated", func(tx *store.Tx) error {
			group.Isolated = !group.Isolated
			return store.Groups.Put(tx, group)
		}},
		{"route target", route(func(r *model.Route) { r.Target.Port++ })},
		{"route toggle", route(func(r *model.Route) { r.Enabled = !r.Enabled })},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n++
				if err := g.put(b, c.change); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is stored of the exit replaces what the facts say, at once and after a
// restart; what cannot be read opens nothing.
func TestExitSettings(t *testing.T) {
	g := newGateway(t)
	if err := g.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ key, value, want string }{
		{model.ExitPrivateKey, "10.0.0.0/8", "{true [10.0.0.0/8] false}"},
		{model.ExitEnabledKey, "false", "{false [10.0.0.0/8] false}"},
		{model.ExitRedirectKey, "true", "{false [10.0.0.0/8] true}"},
		{"custom_dns", "9.9.9.9", "{false [10.0.0.0/8] true}"},
		{model.ExitPrivateKey, "nonsense", "{false [] true}"},
		{model.ExitEnabledKey, "", "{true [] true}"}, // deleted
	} {
		if err := g.put(t, func(tx *store.Tx) error {
			if step.value == "" {
				_, err := store.Settings.Delete(tx, step.key)
				return err
			}
			return store.Settings.Put(tx, &store.Setting{Key: step.key, Value: step.value})
		}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(g.Plan().Netstack.Exit); got != step.want {
			t.Errorf("after %s=%s: %s instead of %s", step.key, step.value, got, step.want)
		}
		if err := g.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(g.Plan().Netstack.Exit); got != step.want {
			t.Errorf("read anew after %s=%s: %s instead of %s", step.key, step.value, got, step.want)
		}
	}
}
