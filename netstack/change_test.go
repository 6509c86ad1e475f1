package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestPrepareRefuses(t *testing.T) {
	d := newServer(t, nil)
	key := func() model.PublicKey { return model.NewPrivateKey().Public() }
	ips := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	same := key()
	for _, c := range []struct {
		name  string
		peers []Peer
		kind  model.Kind
		says  []string
	}{
		{"no key", []Peer{{Name: "anna"}}, model.KindInvalid, []string{"anna"}},
		{"the server's key", []Peer{{Name: "anna", PublicKey: d.key}}, model.KindInvalid, []string{"anna"}},
		{"same key twice", []Peer{{Name: "anna", PublicKey: same}, {Name: "bert", PublicKey: same}}, model.KindConflict, []string{"anna", "bert"}},
		{"same address", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("10.8.0.2/32")}, {Name: "bert", PublicKey: key(), AllowedIPs: ips("10.8.0.2/32")}}, model.KindConflict, []string{"anna", "bert", "10.8.0.2/32"}},
		{"nested", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("10.8.0.7/32", "192.168.0.0/16")}, {Name: "bert", PublicKey: key(), AllowedIPs: ips("192.168.5.0/24")}}, model.KindConflict, []string{"anna", "bert"}},
		{"nested behind one's own", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("192.168.0.0/16", "192.168.1.0/24")}, {Name: "bert", PublicKey: key(), AllowedIPs: ips("192.168.5.0/24")}}, model.KindConflict, []string{"anna", "bert"}},
		{"IPv6 nested", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("fd00::/8")}, {Name: "bert", PublicKey: key(), AllowedIPs: ips("fd00::5/128")}}, model.KindConflict, []string{"anna", "bert"}},
		{"the server's address", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("10.8.0.0/24")}}, model.KindInvalid, []string{"anna", "10.8.0.1"}},
		{"host bits", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("192.168.5.1/24")}}, model.KindInvalid, []string{"anna"}},
		{"zero prefix", []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: []netip.Prefix{{}}}}, model.KindInvalid, []string{"anna"}},
		{"endpoint without port", []Peer{{Name: "anna", PublicKey: key(), Endpoint: netip.MustParseAddrPort("1.2.3.4:0")}}, model.KindInvalid, []string{"anna"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := d.Prepare(Config{Peers: c.peers})
			if model.KindOf(err) != c.kind || err == nil {
				t.Fatalf("%v, %v", p, err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not name %s", err, word)
				}
			}
		})
	}
	apply(t, d, Config{Peers: []Peer{{Name: "anna", PublicKey: key(), AllowedIPs: ips("192.168.0.0/16", "192.168.1.0/24", "10.8.0.2/32")}}})
}

func TestOnePendingAtATime(t *testing.T) {
	d := newServer(t, nil)
	first, err := d.Prepare(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(Config{}); model.KindOf(err) != model.KindUnavailable {
		t.Fatalf("second Prepare: %v", err)
	}
	first.Abort()
	first.Commit() // does nothing any more
	second, err := d.Prepare(Config{Peers: manyPeers(1)})
	if err != nil {
		t.Fatal(err)
	}
	first.Abort() // not this one
	if _, err := d.Prepare(Config{}); err == nil {
		t.Fatal("an ended Pending ended another")
	}
	second.Commit()
	if n := len(d.Status().Peers); n != 1 {
		t.Fatalf("%d peers", n)
	}
}

func TestAbortChangesNothing(t *testing.T) {
	d := newServer(t, nil)
	before := Config{Peers: manyPeers(3)}
	apply(t, d, before)
	p, err := d.Prepare(Config{Peers: manyPeers(2)})
	if err != nil {
		t.Fatal(err)
	}
	p.Abort()
	if !d.table.Load().config.Equal(before) {
		t.Fatal("changed")
	}
	if got := livePeers(d); len(got) != 3 {
		t.Fatalf("WireGuard has %d peers", len(got))
	}
}

// livePeers lists what WireGuard has, sorted.
func livePeers(d *Device) []string {
	var list []string
	for _, p := range d.wg.Peers() {
		list = append(list, fmt.Sprintf("%s at %s every %s", p.Key(), p.Status().Endpoint, p.Keepalive()))
	}
	slices.Sort(list)
	return list
}

// After any change by difference, WireGuard has what it would have if it had
// been given the whole.
func TestDifferenceEqualsWhole(t *testing.T) {
	d := newServer(t, nil)
	list := manyPeers(6)
	extra := netip.MustParsePrefix("192.168.7.0/24")
	steps := []func(p []Peer) []Peer{
		func(p []Peer) []Peer { return p[:4] },
		func(p []Peer) []Peer { p[1].Keepalive = 25; return p[:5] },
		func(p []Peer) []Peer { p[1].AllowedIPs = append(slices.Clone(p[1].AllowedIPs), extra); return p[:5] },
		func(p []Peer) []Peer { // a prefix moves to another peer
			p[1].AllowedIPs = p[1].AllowedIPs[:1]
			p[0].AllowedIPs = append(slices.Clone(p[0].AllowedIPs), extra)
			return p[:5]
		},
		func(p []Peer) []Peer { p[2].PresharedKey = model.NewPresharedKey(); return p[:5] },
		func(p []Peer) []Peer { p[3].PublicKey = model.NewPrivateKey().Public(); return p[:5] },
		func(p []Peer) []Peer { p[4].Endpoint = netip.MustParseAddrPort("192.0.2.7:51820"); return p },
		func(p []Peer) []Peer { p[1].Keepalive = 0; p[2].PresharedKey = model.PrivateKey{}; return p[1:] },
		func(p []Peer) []Peer { // addresses trade places
			p[1].AllowedIPs, p[2].AllowedIPs = p[2].AllowedIPs, p[1].AllowedIPs
			return p[1:]
		},
		func(p []Peer) []Peer { return nil },
	}
	for i, step := range steps {
		config := Config{Peers: slices.Clone(step(list))}
		apply(t, d, config)
		whole := newServer(t, nil)
		apply(t, whole, config)
		got, want := livePeers(d), livePeers(whole)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d:\n%s\ninstead of\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, p := range d.table.Load().peers {
			if p.wg != d.wg.Lookup(p.PublicKey) || p.wg == nil {
				t.Fatalf("step %d: %s is another peer in the table than in WireGuard", i, p.Name)
			}
		}
	}
}

// Peers come and go while a flow of another runs.
func TestLiveChanges(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	a.listen(80, echo)
	c := dialPeer(t, d, "tcp", a.addr, 80)
	exchange(t, c, []byte("before"))
	peer := a.config()
	handshake := d.Status().Peers[0].LastHandshake

	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		buf := make([]byte, 1000)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(buf); err != nil {
				failed <- err
				return
			}
			for n := 0; n < len(buf); {
				k, err := c.Read(buf[n:])
				if err != nil {
					failed <- err
					return
				}
				n += k
			}
		}
	}()
	others := manyPeers(100)
	for i := range others {
		apply(t, d, Config{Peers: append([]Peer{peer}, others[:i+1]...)})
	}
	for i := range others {
		apply(t, d, Config{Peers: append([]Peer{peer}, others[i+1:]...)})
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if s := d.Status(); s.FilteredPackets != 0 || s.CorruptedPackets != 0 || len(s.Peers) != 1 || !s.Peers[0].LastHandshake.Equal(handshake) {
		t.Fatalf("the peer was touched: %+v", s)
	}
}

// What belongs to a peer ends when the peer loses its address, whichever side
// opened it.
func TestCut(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"removed":           func(c *Config) { c.Peers = c.Peers[1:] },
		"other key":         func(c *Config) { c.Peers[0].PublicKey = model.NewPrivateKey().Public() },
		"other preshared":   func(c *Config) { c.Peers[0].PresharedKey = model.NewPresharedKey() },
		"address taken":     func(c *Config) { c.Peers[0].AllowedIPs = nil },
		"address given":     func(c *Config) { c.Peers[0].AllowedIPs, c.Peers[1].AllowedIPs = nil, c.Peers[0].AllowedIPs },
		"address exchanged": func(c *Config) { c.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.8.0.77/32")} },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newForeign(t, 2), newForeign(t, 3)
			config := peers(a, b)
			d := started(t, nil, config)
			a.join(d)
			b.join(d)
			a.listen(80, echo)
			b.listen(80, echo)
			l, err := d.Listen(8080)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()

			dialed := dialPeer(t, d, "tcp", a.addr, 80)
			exchange(t, dialed, []byte("dialed"))
			datagrams := dialPeer(t, d, "udp", a.addr, 5000)
			fromA := a.mustDial("tcp", "10.8.0.1:8080")
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			exchangeOnce(t, fromA, accepted)
			a.mustDial("tcp", "10.8.0.1:8080") // stays in the backlog
			untouched := dialPeer(t, d, "tcp", b.addr, 80)
			if name == "address given" {
				untouched = nil
			}

			ended := make(chan error, 3)
			for _, c := range []net.Conn{dialed, datagrams, accepted} {
				go func() {
					_, err := c.Read(make([]byte, 1))
					ended <- err
				}()
			}
			config.Peers = slices.Clone(config.Peers)
			change(&config)
			begin := time.Now()
			apply(t, d, config)
			for range 3 {
				select {
				case err := <-ended:
					if err == nil {
						t.Fatal("data out of a cut connection")
					}
				case <-time.After(time.Second):
					t.Fatal("a reader still waits after a second")
				}
			}
			t.Logf("cut after %s", time.Since(begin))
			if dialed.RemoteAddr().String() != "10.8.0.2:80" || accepted.RemoteAddr() == nil {
				t.Fatal("addresses are forgotten")
			}
			if untouched != nil {
				exchange(t, untouched, []byte("still there"))
			}
			if name == "removed" {
				waiting := make(chan net.Conn, 1)
				go func() {
					if c, err := l.Accept(); err == nil {
						waiting <- c
					}
				}()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				c, err := b.net.DialContext(ctx, "tcp", "10.8.0.1:8080")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				got := <-waiting
				defer got.Close()
				if !strings.HasPrefix(got.RemoteAddr().String(), "10.8.0.3:") {
					t.Fatalf("Accept gave a connection of %s", got.RemoteAddr())
				}
			}
		})
	}
}

// exchangeOnce passes one message from a to b.
func exchangeOnce(t *testing.T, a, b net.Conn) {
	t.Helper()
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(patience))
	if n, err := b.Read(make([]byte, 5)); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	_ = b.SetReadDeadline(time.Time{})
}

func TestRemovedPeerComesBack(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	a.listen(80, echo)
	apply(t, d, Config{})
	if _, err := d.Dial(t.Context(), "tcp", netip.AddrPortFrom(a.addr, 80)); err == nil {
		t.Fatal("dialed a removed peer")
	}
	config := peers(a)
	config.Peers[0].Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.port())
	apply(t, d, config) // the server knocks
	exchange(t, dialPeer(t, d, "tcp", a.addr, 80), []byte("again"))
}

// port returns the UDP port of the peer.
func (f *foreign) port() uint16 {
	f.t.Helper()
	return listenPort(f.t, f.wg)
}

// TestOnCut asks for exactly the addresses that a change takes from a peer.
func TestOnCut(t *testing.T) {
	var lost func(netip.Addr) bool
	d := newServer(t, func(o *Options) { o.OnCut = func(f func(netip.Addr) bool) { lost = f } })
	list := manyPeers(3)
	apply(t, d, Config{Peers: list})
	if lost != nil {
		t.Error("told of a change that only added peers")
	}
	apply(t, d, Config{Peers: list[1:]})
	if lost == nil || !lost(list[0].AllowedIPs[0].Addr()) || lost(list[1].AllowedIPs[0].Addr()) || lost(netip.MustParseAddr("9.9.9.9")) {
		t.Error("the removed peer's address is not what was lost")
	}
}
