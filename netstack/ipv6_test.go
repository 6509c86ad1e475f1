package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"gatecontrol/model"
)

// dual gives the server of a test an IPv6 address.
func dual(o *Options) { o.Addr6, o.Subnet6 = testAddr6, testSubnet6 }

// newDualForeign makes a peer with the tunnel addresses 10.8.0.n and fd00:8::n.
func newDualForeign(t testing.TB, n byte) *foreign {
	f := newForeign(t, n)
	b := testSubnet6.Addr().As16()
	b[15] = n
	f.addr6 = netip.AddrFrom16(b)
	return f
}

func TestIPv6Options(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"subnet without address": func(o *Options) { o.Subnet6 = testSubnet6 },
		"address without subnet": func(o *Options) { o.Addr6 = testAddr6 },
		"address outside":        func(o *Options) { o.Addr6, o.Subnet6 = netip.MustParseAddr("fd00:9::1"), testSubnet6 },
		"IPv4 twice":             func(o *Options) { o.Addr6, o.Subnet6 = testAddr, testSubnet },
		"loopback":               func(o *Options) { o.Addr6, o.Subnet6 = netip.IPv6Loopback(), netip.MustParsePrefix("::/64") },
		"small MTU":              func(o *Options) { dual(o); o.MTU = 1279 },
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{PrivateKey: model.NewPrivateKey(), Addr: testAddr, Subnet: testSubnet, MTU: 1420}
			change(&o)
			d, err := New(o)
			if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindInvalid || e.Field == "" {
				t.Fatalf("%v", err)
			}
			if d != nil {
				_ = d.Close()
			}
		})
	}
}

// Everything that goes over IPv4 goes over IPv6, on the same ports.
func TestIPv6(t *testing.T) {
	t.Parallel()
	a, b := newDualForeign(t, 2), newDualForeign(t, 3)
	d := started(t, dual, peers(a, b))
	a.join(d)
	b.join(d)
	b.listen(7000, echo)
	served, err := b.net.ListenUDP(&net.UDPAddr{Port: 7000})
	if err != nil {
		t.Fatal(err)
	}
	packetEcho(t, served)

	l, err := d.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, echo)
	p, err := d.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	packetEcho(t, p)
	port := func(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }
	at := func(addr netip.Addr, port uint16) string { return netip.AddrPortFrom(addr, port).String() }

	for _, c := range []struct {
		name         string
		server, peer netip.Addr
	}{{"IPv4", testAddr, b.addr}, {"IPv6", testAddr6, b.addr6}} {
		t.Run(c.name+" to the server", func(t *testing.T) {
			conn := a.mustDial("tcp", at(c.server, port(l.Addr())))
			exchange(t, conn, bytes.Repeat([]byte("tcp "), 50000))
			exchangeDatagram(t, a.mustDial("udp", at(c.server, port(p.LocalAddr()))), bytes.Repeat([]byte("udp "), 1000)) // in fragments
		})
		t.Run(c.name+" to the peer", func(t *testing.T) {
			exchange(t, dialPeer(t, d, "tcp", c.peer, 7000), bytes.Repeat([]byte("tcp "), 50000))
			exchangeDatagram(t, dialPeer(t, d, "udp", c.peer, 7000), bytes.Repeat([]byte("udp "), 1000))
		})
		t.Run(c.name+" from peer to peer", func(t *testing.T) {
			exchange(t, a.mustDial("tcp", at(c.peer, 7000)), bytes.Repeat([]byte("tcp "), 50000))
			exchangeDatagram(t, a.mustDial("udp", at(c.peer, 7000)), bytes.Repeat([]byte("udp "), 1000))
		})
	}
	t.Run("addresses", func(t *testing.T) {
		got := make(chan net.Conn, 1)
		l, err := d.Listen(0)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, func(c net.Conn) { got <- c; echo(c) })
		exchange(t, a.mustDial("tcp", at(testAddr6, port(l.Addr()))), []byte("who"))
		c := <-got
		if local, remote := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String()); local.Addr() != testAddr6 || remote.Addr() != a.addr6 {
			t.Errorf("from %s to %s", remote, local)
		}
		out := dialPeer(t, d, "tcp", b.addr6, 7000)
		if local := netip.MustParseAddrPort(out.LocalAddr().String()).Addr(); local != testAddr6 {
			t.Errorf("dialed from %s", local)
		}
		if !d.Owns(netip.MustParseAddr("fd00:8::77")) || d.Owns(netip.MustParseAddr("fd00:9::2")) {
			t.Error("another subnet is owned")
		}
	})
	t.Run("a port that is taken", func(t *testing.T) {
		if _, err := d.Listen(port(l.Addr())); !isKind(err, model.KindConflict) {
			t.Errorf("TCP: %v", err)
		}
		if _, err := d.ListenPacket(port(p.LocalAddr())); !isKind(err, model.KindConflict) {
			t.Errorf("UDP: %v", err)
		}
	})
	t.Run("a datagram to an address", func(t *testing.T) {
		sender, err := d.ListenPacket(0)
		if err != nil {
			t.Fatal(err)
		}
		defer sender.Close()
		for _, addr := range []netip.Addr{b.addr, b.addr6} {
			if _, err := sender.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 7000))); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, from, err := sender.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "hello" || netip.MustParseAddrPort(from.String()).Addr() != addr {
				t.Errorf("%q from %v, %v", buf[:n], from, err)
			}
		}
	})
	t.Run("cut", func(t *testing.T) {
		c := dialPeer(t, d, "tcp", b.addr6, 7000)
		exchange(t, c, []byte("there"))
		without := b.config()
		without.AllowedIPs = without.AllowedIPs[:1]
		apply(t, d, Config{Peers: []Peer{a.config(), without}})
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatalf("still open: %v", err)
		}
		if _, err := d.Dial(t.Context(), "tcp", netip.AddrPortFrom(b.addr6, 7000)); !isKind(err, model.KindUnavailable) {
			t.Fatalf("dialed: %v", err)
		}
	})
}

func isKind(err error, kind model.Kind) bool {
	e, ok := errors.AsType[*model.Error](err)
	return ok && e.Kind == kind
}

// A server without IPv6 has no door for it, and a datagram cannot be sent there.
func TestIPv6Off(t *testing.T) {
	d := started(t, nil, Config{})
	p, err := d.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(testAddr6, 1))); err == nil {
		t.Error("written to an IPv6 address")
	}
	key := model.NewPrivateKey().Public()
	apply(t, d, Config{Peers: []Peer{{Name: "six", PublicKey: key, AllowedIPs: prefixes("fd00:8::2/128")}}})
	if _, err := d.Dial(t.Context(), "tcp", netip.MustParseAddrPort("[fd00:8::2]:80")); !isKind(err, model.KindUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestExitIPv6(t *testing.T) {
	t.Parallel()
	w, a := newInternet(t), newDualForeign(t, 2)
	var asked atomic.Pointer[netip.AddrPort]
	config := peers(a)
	config.Exit.Enabled = true
	d := started(t, func(o *Options) {
		dual(o)
		w.options(o)
		o.DialExit = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			asked.Store(&addr)
			return w.dial(ctx, network, addr)
		}
		o.PublicAddrs = append(o.PublicAddrs, netip.MustParseAddr("2a00::1"))
	}, config)
	a.join(d)
	t.Run("TCP", func(t *testing.T) {
		c := a.mustDial("tcp", "[2606:4700::1111]:80")
		s, err := w.tcp.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got := asked.Load().String(); got != "[2606:4700::1111]:80" {
			t.Errorf("dialed %s", got)
		}
		transfer(t, c, s, 1<<20)
	})
	t.Run("UDP", func(t *testing.T) {
		exchangeDatagram(t, a.mustDial("udp", "[2606:4700::1111]:53"), []byte("question"))
		exchangeDatagram(t, a.mustDial("udp", "[2606:4700::1111]:53"), bytes.Repeat([]byte("large "), 1000))
	})
	t.Run("to this host", func(t *testing.T) {
		listen(t, d, 8080, echo)
		exchange(t, a.mustDial("tcp", "[2a00::1]:8080"), []byte("handed over"))
	})
	before := w.dialed.Load()
	for _, target := range []string{
		"[2a00::1]:8081", "[fd00:8::99]:80", "[fd12::1]:80", "[2001:db8::1]:80", "[64:ff9b::a00:1]:80", "[2002:7f00:1::]:80", "[::10.1.2.3]:80", "[fd00:ec2::254]:80",
	} {
		t.Run("refused "+target, func(t *testing.T) {
			if c, err := a.dial("tcp", target); err == nil || isTimeout(err) {
				t.Fatalf("%v, %v", c, err)
			}
		})
	}
	if n := w.dialed.Load(); n != before {
		t.Errorf("%d of them were dialed", n-before)
	}
}

// dualRouter is a running server of both families with two raw peers.
func dualRouter(t *testing.T, change func(*Options)) (d *Device, one, two *raw) {
	t.Helper()
	one, two = newRaw(t), newRaw(t)
	d = started(t, func(o *Options) {
		dual(o)
		if change != nil {
			change(o)
		}
	}, Config{Peers: []Peer{
		{Name: "one", PublicKey: one.key.Public(), AllowedIPs: prefixes("10.8.0.2/32", "fd00:8::2/128")},
		{Name: "two", PublicKey: two.key.Public(), AllowedIPs: prefixes("10.8.0.3/32", "fd00:8::3/128")},
	}, Exit: Exit{Enabled: true}})
	one.join(d)
	two.join(d)
	return d, one, two
}

// takeMessage waits for an ICMPv6 message and checks that it is one.
func takeMessage(t *testing.T, r *raw) (h ipv6, m []byte) {
	t.Helper()
	p := r.take(1)[0]
	h, ok := parseIPv6(p)
	if !ok || len(p) > minMTU6 || h.proto != protoICMPv6 || h.length != ipv6Header || sum6(p[h.length:], p[8:40]) != 0xffff {
		t.Fatalf("%x", p)
	}
	return h, p[h.length:]
}

// echoRequest6 is an echo request in a packet that may pass hops routers.
func echoRequest6(src, dst string, hops uint8, id, seq uint16, data []byte) []byte {
	m := []byte{icmp6Echo, 0, 0, 0}
	m = binary.BigEndian.AppendUint16(m, id)
	m = binary.BigEndian.AppendUint16(m, seq)
	p := message6(src, dst, protoICMPv6, append(m, data...))
	p[7] = hops
	setChecksum6(p[ipv6Header:], p[8:40])
	return p
}

func TestIPv6Errors(t *testing.T) {
	d, one, two := dualRouter(t, nil)
	dying := message6("fd00:8::2", "fd00:8::3", protoUDP, make([]byte, 2000-ipv6Header))
	dying[7] = 1
	large := message6("fd00:8::2", "fd00:8::3", protoUDP, make([]byte, 1421-ipv6Header))
	ping := echoRequest6("fd00:8::2", "2001:db8::1", 64, 1, 2, make([]byte, 1300))
	spent := echoRequest6("fd00:8::2", "2606:4700::1111", 1, 1, 2, []byte("data"))
	for _, c := range []struct {
		name      string
		packet    []byte
		typ, code byte
		mtu       uint32
	}{
		{"no hop left", dying, icmp6TimeExceeded, 0, 0},
		{"too big", large, icmp6TooBig, 0, 1420},
		{"prohibited", ping, icmp6Unreachable, 1, 0},
		{"no hop left before the exit", spent, icmp6TimeExceeded, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			one.send(c.packet)
			h, m := takeMessage(t, one)
			if netip.AddrFrom16(h.src) != testAddr6 || m[0] != c.typ || m[1] != c.code || binary.BigEndian.Uint32(m[4:]) != c.mtu ||
				!bytes.HasPrefix(c.packet, m[icmpHeader:]) || len(m)-icmpHeader != min(len(c.packet), icmp6Quote) {
				t.Errorf("%x", m)
			}
		})
	}
	t.Run("not about errors", func(t *testing.T) {
		before := d.Status().FilteredPackets
		for _, typ := range []byte{icmp6TooBig, icmp6Redirect} {
			p := message6("fd00:8::2", "fd00:8::3", protoICMPv6, []byte{typ, 0, 0, 0, 0, 0, 0, 0})
			p[7] = 1
			one.send(p)
		}
		eventually(t, "refusal", func() bool { return d.Status().FilteredPackets == before+2 })
		one.send(echoRequest6("fd00:8::2", "fd00:8::1", 64, 9, 9, nil))
		if _, m := takeMessage(t, one); m[0] != icmp6EchoReply {
			t.Errorf("%x", m)
		}
	})
	t.Run("a closed port", func(t *testing.T) {
		datagram := func(dst string) []byte {
			m := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40, 0x27, 0x10}, udpHeader)
			p := message6("fd00:8::2", dst, protoUDP, append(m, 0, 0))
			binary.BigEndian.PutUint16(p[ipv6Header+6:], ^onesSum(0).add(p[8:]).word(protoUDP).word(udpHeader).fold())
			return p
		}
		for _, dst := range []string{"fd00:8::1", "2001:db8::1"} { // of this server, and refused by the exit
			one.send(datagram(dst))
			if h, m := takeMessage(t, one); netip.AddrFrom16(h.src) != netip.MustParseAddr(dst) || m[0] != icmp6Unreachable || m[1] != 4 {
				t.Errorf("%s: %x", dst, m)
			}
		}
	})
	t.Run("fragments", func(t *testing.T) {
		whole := message6("fd00:8::2", "fd00:8::3", protoUDP, bytes.Repeat([]byte("datagram"), 500))
		pieces := [][]byte{fragmentOf6(whole, 5, 0, 1360), fragmentOf6(whole, 5, 1360, 2720), fragmentOf6(whole, 5, 2720, 4000)}
		one.send(pieces...)
		for i, p := range two.take(3) {
			pieces[i][7]--
			if !bytes.Equal(p, pieces[i]) {
				t.Errorf("piece %d: %x", i, p)
			}
		}
		before := d.Status().FilteredPackets
		one.send(fragmentOf6(whole, 6, 0, 1360), fragmentOf6(whole, 6, 1352, 2720), fragmentOf6(whole, 6, 2720, 4000))
		eventually(t, "refusal of what overlaps", func() bool { return d.Status().FilteredPackets == before+2 })
	})
}
