package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/dns"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
	"gatecontrol/store"
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
		Netstack: tunnel, DNS: resolver, L4: forwarder, Proxy: web,
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
}

// BenchmarkOneChange applies one change of a peer beside 10,000 peers and
// 10,000 routes, from the write to the swap.
func BenchmarkOneChange(b *testing.B) {
	g := newGateway(b)
	if err := g.put(b, func(tx *store.Tx) error {
		for i := range 10_000 {
			addr := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
			p := testPeer(0, addr.String()).Peer
			p.Name, p.PublicKey, p.Hostname = fmt.Sprint("peer ", i), model.NewPrivateKey().Public(), fmt.Sprint("h", i)
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
	b.ReportAllocs()
	n := uint16(0)
	for b.Loop() {
		n++
		if err := g.put(b, func(tx *store.Tx) error {
			p, err := store.Peers.Get(tx, 5000)
			if err != nil {
				return err
			}
			p.Keepalive = n
			return store.Peers.Put(tx, p)
		}); err != nil {
			b.Fatal(err)
		}
	}
}
