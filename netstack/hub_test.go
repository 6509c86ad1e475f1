package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/model"
	"gatecontrol/wireguard"
)

var (
	plainIP   = netip.MustParseAddr("10.8.0.2")
	gatewayIP = netip.MustParseAddr("10.8.0.4")
)

// raw is a peer without a network stack: a test writes its packets byte by
// byte, and reads those that it gets.
type raw struct {
	t   testing.TB
	key model.PrivateKey
	wg  *wireguard.Device
	up  *wireguard.Peer // the server

	mu  sync.Mutex
	got [][]byte
}

func newRaw(t testing.TB) *raw {
	t.Helper()
	r := &raw{t: t, key: model.NewPrivateKey()}
	var err error
	r.wg, err = wireguard.New(wireguard.Options{PrivateKey: r.key, MTU: 1420, Receive: func(_ *wireguard.Peer, packets [][]byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range packets {
			size, _ := packetSize(p)
			r.got = append(r.got, bytes.Clone(p[:size]))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.wg.Close() })
	return r
}

// join connects r to the server and waits for the session.
func (r *raw) join(d *Device) {
	r.t.Helper()
	if err := r.wg.Open(0); err != nil {
		r.t.Fatal(err)
	}
	var err error
	r.up, err = r.wg.Add(wireguard.PeerConfig{
		PublicKey: d.key, Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), d.Status().ListenPort),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(nil) // what is sent first begins the handshake
	eventually(r.t, "session", func() bool { return d.wg.Lookup(r.key.Public()).Status().RxBytes > 148 })
}

func (r *raw) send(packets ...[]byte) {
	for _, p := range packets {
		b := r.up.NewBurst(len(p))
		copy(b.Next(len(p)), p)
		b.Send()
	}
}

// take waits for n packets and returns all that have come.
func (r *raw) take(n int) [][]byte {
	r.t.Helper()
	eventually(r.t, "packet", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.got) >= n
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// router is a running server with two raw peers.
func router(t *testing.T, change func(*Config)) (d *Device, plain, gateway *raw) {
	t.Helper()
	plain, gateway = newRaw(t), newRaw(t)
	config := Config{Peers: []Peer{
		{Name: "plain", PublicKey: plain.key.Public(), AllowedIPs: prefixes("10.8.0.2/32", "fd00::2/128")},
		{Name: "gateway", PublicKey: gateway.key.Public(), AllowedIPs: prefixes("10.8.0.4/32", "fd00::4/128")},
	}}
	if change != nil {
		change(&config)
	}
	d = started(t, nil, config)
	plain.join(d)
	gateway.join(d)
	return d, plain, gateway
}

func TestHubRelaysAsARouter(t *testing.T) {
	_, plain, gateway := router(t, nil)
	t.Run("IPv4", func(t *testing.T) {
		in := udpDatagram(plainIP, gatewayIP, 5000, 1000)
		plain.send(in)
		out := gateway.take(1)
		if len(out) != 1 || out[0][8] != 63 || checksum(out[0][:ipv4Header]) != 0 || !bytes.Equal(out[0][ipv4Header:], in[ipv4Header:]) {
			t.Fatalf("%x", out)
		}
	})
	t.Run("IPv6", func(t *testing.T) {
		in := packet6("fd00::2", "fd00::4", protoUDP, 80)
		plain.send(in)
		out := gateway.take(1)
		if len(out) != 1 || out[0][7] != in[7]-1 || !bytes.Equal(out[0][8:], in[8:]) {
			t.Fatalf("%x", out)
		}
	})
	t.Run("a batch, in order", func(t *testing.T) {
		const n = 40
		b := plain.up.NewBurst(wireguard.MaxBurst)
		for i := range n {
			p := udpDatagram(plainIP, gatewayIP, 5000, 1300)
			binary.BigEndian.PutUint32(p[len(p)-4:], uint32(i))
			copy(b.Next(len(p)), p)
		}
		b.Send()
		for i, p := range gateway.take(n) {
			if got := binary.BigEndian.Uint32(p[len(p)-4:]); got != uint32(i) {
				t.Fatalf("packet %d comes as number %d", got, i)
			}
		}
	})
}

func TestHubComplains(t *testing.T) {
	d, plain, _ := router(t, nil)
	dying := udpDatagram(plainIP, gatewayIP, 5000, 100)
	dying[8] = 1
	large := udpDatagram(plainIP, gatewayIP, 5000, 1393)
	for name, c := range map[string]struct {
		packet    []byte
		typ, code byte
		mtu       uint16
	}{
		"no hop left": {dying, icmpTimeExceeded, 0, 0},
		"too big":     {large, icmpUnreachable, codeFragmentationNeeded, 1420},
	} {
		plain.send(c.packet)
		out := plain.take(1)
		p := out[0]
		head, ok := parseIPv4(p)
		body := p[ipv4Header:]
		if len(out) != 1 || !ok || checksum(p[:ipv4Header]) != 0 || checksum(body) != 0 || len(p) > 576 ||
			address(head.src) != testAddr || address(head.dst) != plainIP || head.proto != protoICMP ||
			body[0] != c.typ || body[1] != c.code || binary.BigEndian.Uint16(body[6:]) != c.mtu ||
			!bytes.HasPrefix(c.packet, body[icmpHeader:]) {
			t.Errorf("%s: %x", name, p)
		}
	}
	filtered := func(t *testing.T, n uint64, send func()) {
		t.Helper()
		before := d.Status().FilteredPackets
		send()
		eventually(t, "refusal", func() bool { return d.Status().FilteredPackets >= before+n })
	}
	t.Run("not about errors", func(t *testing.T) {
		p := packet(plainIP, gatewayIP, protoICMP, []byte{3, 1, 0, 0, 0, 0, 0, 0})
		p[8] = 1
		filtered(t, 1, func() { plain.send(p) })
	})
	t.Run("not without bound", func(t *testing.T) {
		filtered(t, 10*icmpBurst, func() {
			for range 10 * icmpBurst {
				plain.send(dying)
			}
		})
		if n := len(plain.take(1)); n > 5*icmpBurst {
			t.Fatalf("%d answers", n)
		}
	})
}

// A peer cannot exceed its rate, in either direction, and others are free.
func TestRates(t *testing.T) {
	d, plain, gateway := router(t, nil)
	const n, size = 400, 1028
	from4 := packet(plainIP, gatewayIP, protoUDP, udpDatagram(plainIP, gatewayIP, 5000, size-ipv4Header-udpHeader)[ipv4Header:])
	to4 := packet(gatewayIP, plainIP, protoUDP, from4[ipv4Header:])
	server4 := packet(plainIP, testAddr, protoUDP, from4[ipv4Header:])
	receive := func(r *raw, p []byte) func() {
		return func() { d.hub.receive(d.table.Load().byKey[r.key.Public()].wg, [][]byte{bytes.Clone(p)}) }
	}
	c := dialPeer(t, d, "udp", plainIP, 5000)
	six := func(src, dst string) []byte {
		p := append(packet6(src, dst, protoUDP, 5000), make([]byte, size-ipv6Header-udpHeader)...)
		binary.BigEndian.PutUint16(p[4:], size-ipv6Header)
		return p
	}
	large := 0
	for i, way := range []struct {
		name string
		send func()
	}{
		{"from the peer to another", receive(plain, from4)},
		{"from the peer to another, IPv6", receive(plain, six("fd00::2", "fd00::4"))},
		{"from the peer to the server", receive(plain, server4)},
		{"to the peer from another", receive(gateway, to4)},
		{"to the peer from another, IPv6", receive(gateway, six("fd00::4", "fd00::2"))},
		{"to the peer from the server", func() { _, _ = c.Write(from4[ipv4Header+udpHeader:]) }},
		{"to the peer in large segments", func() {
			if large++; large%10 == 0 {
				pkt := largeSegment(plainIP, size-ipv4Header-tcpHeader, 10)
				d.hub.transmit(pkt)
				pkt.DecRef()
			}
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			limit := uint64(100_000 + i) // bytes per second; another limit begins with a full bucket
			config := Config{Peers: slices.Clone(d.table.Load().config.Peers)}
			config.Peers[0].ReceiveLimit, config.Peers[0].SendLimit = limit, limit
			apply(t, d, config)
			lost := d.Status().LimitedPackets
			begin := time.Now()
			for range n {
				way.send()
			}
			most := minBurst + int(float64(limit)*time.Since(begin).Seconds())
			lost = d.Status().LimitedPackets - lost
			passed := (n - int(lost)) * size
			if passed > most || passed < minBurst-size {
				t.Errorf("%d bytes passed, %d may", passed, most)
			}
		})
	}
	// The other peer has no limit.
	before := d.Status().LimitedPackets
	gateway.send(packet(gatewayIP, testAddr, protoUDP, from4[ipv4Header:]))
	for range n {
		receive(gateway, packet(gatewayIP, testAddr, protoUDP, from4[ipv4Header:]))()
	}
	if d.Status().LimitedPackets != before {
		t.Error("a peer without a limit is limited")
	}

	table := d.table.Load()
	same, err := d.Prepare(table.config)
	if err != nil {
		t.Fatal(err)
	}
	if same.next.peers[0].receiving != table.peers[0].receiving {
		t.Error("a change of something else fills the bucket")
	}
	same.Abort()
}

// What fits into no message is lost, and nothing else comes of it.
func TestTransmitOfTooLargePacket(t *testing.T) {
	d := newServer(t, nil)
	apply(t, d, Config{Peers: []Peer{{Name: "plain", PublicKey: model.NewPrivateKey().Public(), AllowedIPs: prefixes("10.8.0.2/32")}}})
	pkt := fromStack4(udpDatagram(testAddr, plainIP, 5000, maxIPPacket-ipv4Header-udpHeader))
	defer pkt.DecRef()
	d.hub.transmit(pkt)
	if n := d.Status().FilteredPackets; n != 1 {
		t.Errorf("%d lost", n)
	}
}

// The largest packet passes any limit, sooner or later.
func TestRateOfLargePackets(t *testing.T) {
	if l := newLimiter(1); !allow(l, 65535) || allow(l, 1300) {
		t.Errorf("%v", l.Tokens())
	}
}

// largeSegment is what the stack hands over for segments of this payload.
func largeSegment(dst netip.Addr, payload, segments int) *stack.PacketBuffer {
	p := appendIPv4(nil, 0, 64, protoTCP, word(testAddr), word(dst), tcpHeader+payload*segments)
	t := make([]byte, tcpHeader+payload*segments)
	binary.BigEndian.PutUint16(t, 80)
	binary.BigEndian.PutUint16(t[2:], 1000)
	t[12], t[13] = tcpHeader<<2, flagACK
	pkt := fromStack4(append(p, t...))
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: uint16(payload), L3HdrLen: ipv4Header}
	return pkt
}

func TestLimiter(t *testing.T) {
	if newLimiter(0) != nil || !allow(nil, 1<<30) {
		t.Error("no limit limits")
	}
	if l := newLimiter(1); l.Burst() != minBurst || l.Limit() != rate.Limit(1) {
		t.Errorf("%v %v", l.Limit(), l.Burst())
	}
	if l := newLimiter(8 << 20); l.Burst() != 1<<20 {
		t.Errorf("%v", l.Burst())
	}
}

func TestHubSurvivesAFailingPacket(t *testing.T) {
	plain := newRaw(t)
	d := newServer(t, nil)
	inject, seen := d.hub.inject, 0
	d.hub.inject = func(pkt *stack.PacketBuffer) {
		if seen++; seen == 1 {
			panic("bad packet")
		}
		inject(pkt)
	}
	apply(t, d, Config{Peers: []Peer{{Name: "plain", PublicKey: plain.key.Public(), AllowedIPs: prefixes("10.8.0.2/32")}}})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	plain.join(d)
	p := packet(plainIP, testAddr, protoICMP, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0})
	plain.send(p)
	eventually(t, "failure", func() bool { return d.Status().FailedPackets == 1 })
	plain.send(p)
	if out := plain.take(1); out[0][ipv4Header] != 0 {
		t.Fatalf("no echo: %x", out)
	}
}

// Any bytes may come out of WireGuard.
func FuzzHub(f *testing.F) {
	f.Add(udpDatagram(plainIP, gatewayIP, 80, 10))
	f.Add(udpDatagram(plainIP, gatewayIP, 5000, 1500))
	f.Add(udpDatagram(plainIP, testAddr, 5000, 100))
	f.Add(fragmentOf(udpDatagram(plainIP, gatewayIP, 5000, 100), 1, 8, 64))
	f.Add(packet6("fd00::2", "fd00::4", protoUDP, 80))
	d := newServer(f, nil)
	var config Config
	for _, p := range filterTable(f).peers {
		config.Peers = append(config.Peers, p.Peer)
	}
	apply(f, d, config)
	from := d.table.Load().lookup(plainIP).wg
	f.Fuzz(func(t *testing.T, p []byte) {
		d.hub.receive(from, [][]byte{slices.Clone(p), p})
		if n := d.hub.panics.Load(); n > 0 {
			t.Fatal("the stack failed")
		}
	})
}

func TestFragmentsThatOverlap(t *testing.T) {
	whole := udpDatagram(plainIP, gatewayIP, 5000, 4000)
	type cut struct{ from, to int }
	for _, c := range []struct {
		name string
		cuts []cut
		last bool // whether the last one passes; all before it do
	}{
		{"in order", []cut{{0, 1400}, {1400, 2800}, {2800, 4008}}, true},
		{"backwards", []cut{{2800, 4008}, {1400, 2800}, {0, 1400}}, true},
		{"middle last", []cut{{0, 1400}, {2800, 4008}, {1400, 2800}}, true},
		{"twice", []cut{{0, 1400}, {0, 1400}}, false},
		{"over the front", []cut{{0, 1400}, {8, 16}}, false},
		{"over the seam", []cut{{0, 1400}, {1400, 2800}, {1392, 1408}}, false},
		{"around", []cut{{1400, 1408}, {0, 2800}}, false},
		{"after an overlap", []cut{{0, 1400}, {2800, 4008}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f fragments
			for i, cut := range c.cuts {
				want := c.last || i < len(c.cuts)-1
				if got := f.accept(fragmentOf(whole, 9, cut.from, cut.to)); got != want {
					t.Fatalf("fragment %d: %v", i, got)
				}
			}
		})
	}
	t.Run("nothing passes after an overlap", func(t *testing.T) {
		var f fragments
		f.accept(fragmentOf(whole, 9, 0, 1400))
		f.accept(fragmentOf(whole, 9, 0, 1400))
		if f.accept(fragmentOf(whole, 9, 1400, 2800)) {
			t.Fatal("passed")
		}
		if !f.accept(fragmentOf(whole, 10, 1400, 2800)) {
			t.Fatal("another datagram is refused")
		}
	})
	t.Run("a complete datagram is forgotten", func(t *testing.T) {
		var f fragments
		for range 3 { // the sender's numbers came round
			for _, c := range []cut{{0, 2000}, {2000, 4008}} {
				if !f.accept(fragmentOf(whole, 9, c.from, c.to)) {
					t.Fatal("refused")
				}
			}
		}
		if len(f.sets) != 0 {
			t.Fatalf("%d left", len(f.sets))
		}
	})
	t.Run("memory is bounded", func(t *testing.T) {
		var f fragments
		for id := range 10 * fragmentSets {
			f.accept(fragmentOf(whole, uint16(id), 0, 1400))
		}
		if len(f.sets) > fragmentSets {
			t.Fatalf("%d datagrams", len(f.sets))
		}
		for i := 0; i < 2*fragmentSpans; i++ {
			f.accept(fragmentOf(whole, 1, 16*i+8, 16*i+16))
		}
		for _, set := range f.sets {
			if len(set.spans) > fragmentSpans {
				t.Fatalf("%d spans", len(set.spans))
			}
		}
	})
}

func TestDecrementTTL(t *testing.T) {
	for ttl := 1; ttl < 256; ttl++ {
		for tos := range 256 { // so that the checksum takes many values
			p := udpDatagram(plainIP, gatewayIP, 1, 0)
			p[1], p[8] = byte(tos), byte(ttl)
			p[10], p[11] = 0, 0
			binary.BigEndian.PutUint16(p[10:], checksum(p[:ipv4Header]))
			decrementTTL(p)
			if int(p[8]) != ttl-1 || checksum(p[:ipv4Header]) != 0 {
				t.Fatalf("TTL %d, TOS %d: %x", ttl, tos, p[:ipv4Header])
			}
		}
	}
}
