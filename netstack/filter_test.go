package netstack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gatecontrol/model"
)

// filterTable has a plain peer, one that is isolated, one with a network and
// ports of its own, one that is trusted, and two with IPv6.
func filterTable(t testing.TB) *table {
	t.Helper()
	peer := func(name string, ips ...string) Peer {
		return Peer{Name: name, PublicKey: model.NewPrivateKey().Public(), AllowedIPs: prefixes(ips...)}
	}
	plain, isolated := peer("plain", "10.8.0.2/32", "fd00::2/128"), peer("isolated", "10.8.0.3/32")
	gateway, trusted := peer("gateway", "10.8.0.4/32", "192.168.1.0/24", "fd00::4/128"), peer("trusted", "10.8.0.5/32")
	isolated.Isolated, trusted.Trusted = true, true
	gateway.ServerPorts = []uint16{9090, 80}
	odd := peer("odd", "127.0.0.7/32", "224.0.0.7/32") // an operator's mistake
	table, err := newTable(Config{Peers: []Peer{plain, isolated, gateway, trusted, odd}}, self{addr: testAddr, subnet: testSubnet}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestClassify(t *testing.T) {
	table := filterTable(t)
	ip := netip.MustParseAddr
	plain, isolated, gateway := ip("10.8.0.2"), ip("10.8.0.3"), ip("10.8.0.4")
	lan, trusted, internet := ip("192.168.1.77"), ip("10.8.0.5"), ip("1.1.1.1")
	datagram := func(src, dst netip.Addr) []byte { return udpDatagram(src, dst, 5000, 100) }
	withOptions := func(options ...byte) []byte {
		p := datagram(plain, testAddr)
		p = slices.Insert(p, ipv4Header, options...)
		p[0] = 0x40 | byte((ipv4Header+len(options))/4)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return p
	}
	big := udpDatagram(plain, gateway, 5000, 4000)
	segment := tcpSYN(plain, gateway, 443)

	for _, c := range []struct {
		name   string
		packet []byte
		want   way
	}{
		{"to the server", datagram(plain, testAddr), toServer},
		{"isolated to the server", datagram(isolated, testAddr), toServer},
		{"ping to the server", packet(plain, testAddr, protoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0}), toServer},
		{"other protocol to the server", packet(plain, testAddr, 47, make([]byte, 8)), drop},
		{"to a peer", datagram(plain, gateway), toPeer},
		{"to a peer's network", datagram(plain, lan), toPeer},
		{"from a peer's network", datagram(lan, plain), toPeer},
		{"any protocol to a peer", packet(plain, gateway, 47, make([]byte, 8)), toPeer},
		{"to itself", datagram(plain, plain), drop},
		{"to its own network", datagram(gateway, lan), drop},
		{"from an isolated peer", datagram(isolated, plain), toFlow},
		{"to an isolated peer", datagram(plain, isolated), toFlow},
		{"ping to an isolated peer", packet(plain, isolated, protoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0}), toExit},
		{"to the internet", datagram(plain, internet), toFlow},
		{"to nobody in the tunnel", datagram(plain, ip("10.8.0.99")), toFlow},
		{"connection to the internet", tcpSYN(plain, internet, 443), toExit},
		{"fragment to the internet", fragmentOf(udpDatagram(plain, internet, 5000, 4000), 1, 0, 1400), toExit},
		{"ping to the internet", packet(plain, internet, protoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0}), toExit},
		{"fragment of a ping to the internet", fragmentOf(packet(plain, internet, protoICMP, make([]byte, 3008)), 1, 1400, 2800), toExit},
		{"first of them", fragmentOf(packet(plain, internet, protoICMP, append([]byte{8}, make([]byte, 3007)...)), 1, 0, 1400), toExit},
		{"echo reply to the internet", packet(plain, internet, protoICMP, []byte{0, 0, 0, 0}), drop},
		{"other ICMP to the internet", packet(plain, internet, protoICMP, []byte{13, 0, 0, 0}), drop},
		{"empty ICMP to the internet", packet(plain, internet, protoICMP, nil), drop},
		{"ICMP error about a packet to its sender", told(plain, internet, 3, 4, 1280, plain), toExit},
		{"about one to another peer", told(plain, internet, 3, 4, 1280, gateway), drop},
		{"about one to nobody", told(plain, internet, 3, 1, 0, internet), drop},
		{"that asks for single bytes", told(plain, internet, 3, 4, 67, plain), drop},
		{"to the server about a packet to its sender", told(plain, testAddr, 11, 0, 0, plain), toServer},
		{"to the server about one to another peer", told(plain, testAddr, 3, 4, 1280, gateway), drop},
		{"to the server that asks for single bytes", told(plain, testAddr, 3, 4, 0, plain), drop},
		{"without what it is about", packet(plain, testAddr, protoICMP, []byte{3, 4, 0, 0, 0, 0, 5, 0}), drop},
		{"in fragments", fragmentOf(told(plain, testAddr, 3, 4, 1280, gateway), 1, 0, 24), drop},
		{"timestamp to the server", packet(plain, testAddr, protoICMP, make([]byte, 20)[:20:20]), drop},
		{"other protocol to the internet", packet(plain, internet, 47, make([]byte, 8)), drop},

		{"from nobody", datagram(ip("10.8.0.99"), testAddr), drop},
		{"from the server's address", datagram(testAddr, plain), drop},
		{"from loopback", datagram(ip("127.0.0.7"), testAddr), drop},
		{"from multicast", datagram(ip("224.0.0.7"), testAddr), drop},
		{"to loopback", datagram(plain, ip("127.0.0.1")), drop},
		{"to a peer's loopback", datagram(plain, ip("127.0.0.7")), drop},
		{"to this network", datagram(plain, ip("0.0.0.0")), drop},
		{"to multicast", datagram(plain, ip("239.1.1.1")), drop},
		{"to a reserved address", datagram(plain, ip("240.0.0.1")), drop},
		{"to everybody", datagram(plain, ip("255.255.255.255")), drop},
		{"to everybody in the subnet", datagram(plain, ip("10.8.0.255")), drop},
		{"to the subnet itself", datagram(plain, ip("10.8.0.0")), drop},

		{"gateway's port", tcpSYN(plain, gateway, 80), drop},
		{"gateway's port over UDP", udpDatagram(plain, gateway, 9090, 1), drop},
		{"gateway's port on its network", tcpSYN(plain, lan, 80), drop},
		{"gateway's port for the trusted", tcpSYN(trusted, gateway, 80), toPeer},
		{"gateway's other port", segment, toPeer},
		{"answer to a gateway's port", edited(tcpSYN(plain, gateway, 80), func(p []byte) { p[ipv4Header+13] = 0x12 }), toPeer},
		{"short segment to a gateway", packet(plain, gateway, protoTCP, make([]byte, 13)), drop},

		{"first fragment", fragmentOf(big, 1, 0, 1400), toPeer},
		{"later fragment", fragmentOf(big, 1, 1400, 2800), toPeer},
		{"last fragment", fragmentOf(big, 1, 2800, 4008), toPeer},
		{"fragment of odd size", fragmentOf(big, 1, 0, 1401), drop},
		{"fragment without data", fragmentOf(big, 1, 8, 8), drop},
		{"fragment beyond the end", edited(fragmentOf(big, 1, 2800, 4008), func(p []byte) { binary.BigEndian.PutUint16(p[6:], 0x1fff) }), drop},
		{"tiny first fragment", fragmentOf(segment, 1, 0, 8), drop},
		{"fragment inside a TCP header", fragmentOf(segment, 1, 8, 20), drop},

		{"loose source route", withOptions(131, 7, 4, 1, 1, 1, 1, 0), drop},
		{"strict source route", withOptions(1, 137, 7, 4, 1, 1, 1, 1), drop},
		{"unreadable options", withOptions(7, 0, 0, 0), drop},
		{"option beyond the header", withOptions(7, 9, 0, 0), drop},
		{"router alert", withOptions(148, 4, 0, 0), toServer},
		{"end of options", withOptions(0, 131, 0, 0), toServer},

		{"nothing", nil, drop},
		{"one byte", []byte{0x45}, drop},
		{"version 5", edited(datagram(plain, testAddr), func(p []byte) { p[0] = 0x55 }), drop},
		{"short header", edited(datagram(plain, testAddr), func(p []byte) { p[0] = 0x44 }), drop},
		{"longer than it is", edited(datagram(plain, testAddr), func(p []byte) { p[2] = 0xff }), drop},
		{"shorter than its header", edited(datagram(plain, testAddr), func(p []byte) { p[2], p[3] = 0, 19 }), drop},

		{"IPv6 to a peer", packet6("fd00::2", "fd00::4", protoUDP, 5000), toPeer},
		{"IPv6 to a gateway's port", packet6("fd00::2", "fd00::4", protoUDP, 80), drop},
		{"IPv6 to nobody", packet6("fd00::2", "fd00::5", protoUDP, 5000), drop},
		{"IPv6 to the internet", packet6("fd00::2", "2606:4700::1111", protoUDP, 53), drop},
		{"IPv6 from nobody", packet6("fd00::3", "fd00::4", protoUDP, 5000), drop},
		{"IPv6 to multicast", packet6("fd00::2", "ff02::1", protoUDP, 5000), drop},
		{"IPv6 routing header", packet6("fd00::2", "fd00::4", 43, 5000), drop},
		{"IPv6 short", packet6("fd00::2", "fd00::4", protoUDP, 5000)[:39], drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := table.classify(c.packet)
			if v.way != c.want {
				t.Fatalf("way %d instead of %d", v.way, c.want)
			}
			if v.way != drop && v.from == nil || (v.way == toPeer) != (v.to != nil) && v.way != drop {
				t.Fatalf("%+v", v)
			}
		})
	}
}

// With an IPv6 address of its own, the server is reached by it, and the exit
// carries IPv6.
func TestClassify6(t *testing.T) {
	peer := func(name string, ips ...string) Peer {
		return Peer{Name: name, PublicKey: model.NewPrivateKey().Public(), AllowedIPs: prefixes(ips...)}
	}
	plain, isolated, gateway := peer("plain", "fd00:8::2/128"), peer("isolated", "fd00:8::3/128"), peer("gateway", "fd00:8::4/128", "fd01::/64")
	isolated.Isolated, gateway.ServerPorts = true, []uint16{80}
	odd := peer("odd", "fe80::7/128")
	self := self{addr: testAddr, subnet: testSubnet, addr6: testAddr6, subnet6: testSubnet6}
	table, err := newTable(Config{Peers: []Peer{plain, isolated, gateway, odd}}, self, nil)
	if err != nil {
		t.Fatal(err)
	}
	const server, internet = "fd00:8::1", "2606:4700::1111"
	udp := func(src, dst string) []byte { return packet6(src, dst, protoUDP, 5000) }
	icmp := func(dst string, typ uint8) []byte {
		return message6("fd00:8::2", dst, protoICMPv6, []byte{typ, 0, 0, 0, 0, 0, 0, 0})
	}
	large := message6("fd00:8::2", "fd00:8::4", protoUDP, make([]byte, 4000))
	for _, c := range []struct {
		name   string
		packet []byte
		want   way
	}{
		{"to the server", udp("fd00:8::2", server), toServer},
		{"isolated to the server", udp("fd00:8::3", server), toServer},
		{"ping to the server", icmp(server, icmp6Echo), toServer},
		{"error about a packet to its sender", told6(server, icmp6TooBig, 1280, "fd00:8::2"), toServer},
		{"about one to another peer", told6(server, icmp6TooBig, 1280, "fd00:8::4"), drop},
		{"that asks for single bytes", told6(server, icmp6TooBig, 1279, "fd00:8::2"), drop},
		{"without what it is about", icmp(server, icmp6TooBig), drop},
		{"fragment of a ping", fragmentOf6(message6("fd00:8::2", server, protoICMPv6, append([]byte{icmp6Echo}, make([]byte, 3000)...)), 1, 0, 1400), toServer},
		{"rest of a ping", fragmentOf6(message6("fd00:8::2", server, protoICMPv6, make([]byte, 3000)), 1, 1400, 2800), toServer},
		{"error in fragments", fragmentOf6(told6(server, icmp6TooBig, 1280, "fd00:8::4"), 1, 0, 40), drop},
		{"router advertisement to the server", icmp(server, 134), drop},
		{"neighbour solicitation to the server", icmp(server, 135), drop},
		{"other protocol to the server", packet6("fd00:8::2", server, 47, 0), drop},
		{"to a peer", udp("fd00:8::2", "fd00:8::4"), toPeer},
		{"to a peer's network", udp("fd00:8::2", "fd01::77"), toPeer},
		{"from a peer's network", udp("fd01::77", "fd00:8::2"), toPeer},
		{"ping to a peer", icmp("fd00:8::4", icmp6Echo), toPeer},
		{"gateway's port", packet6("fd00:8::2", "fd00:8::4", protoUDP, 80), drop},
		{"gateway's port on its network", packet6("fd00:8::2", "fd01::1", protoUDP, 80), drop},
		{"to itself", udp("fd00:8::2", "fd00:8::2"), drop},
		{"from an isolated peer", udp("fd00:8::3", "fd00:8::2"), toFlow},
		{"to an isolated peer", udp("fd00:8::2", "fd00:8::3"), toFlow},
		{"to the internet", udp("fd00:8::2", internet), toFlow},
		{"to nobody in the tunnel", udp("fd00:8::2", "fd00:8::99"), toFlow},
		{"connection to the internet", message6("fd00:8::2", internet, protoTCP, make([]byte, tcpHeader)), toExit},
		{"fragment to the internet", fragmentOf6(message6("fd00:8::2", internet, protoUDP, make([]byte, 4000)), 1, 0, 1400), toExit},
		{"ping to the internet", icmp(internet, icmp6Echo), toEcho},
		{"error to the internet about a packet to its sender", told6(internet, icmp6Unreachable, 0, "fd00:8::2"), toExit},
		{"to the internet about one to another peer", told6(internet, icmp6Unreachable, 0, "fd00:8::4"), drop},
		{"echo reply to the internet", icmp(internet, icmp6EchoReply), drop},
		{"redirect to the internet", icmp(internet, icmp6Redirect), drop},
		{"fragment of a ping to the internet", fragmentOf6(message6("fd00:8::2", internet, protoICMPv6, append([]byte{icmp6Echo}, make([]byte, 3000)...)), 1, 0, 1400), toEcho},
		{"rest of it", fragmentOf6(message6("fd00:8::2", internet, protoICMPv6, make([]byte, 3000)), 1, 1400, 2800), toEcho},
		{"fragment of another message", fragmentOf6(message6("fd00:8::2", internet, protoICMPv6, make([]byte, 3000)), 1, 0, 1400), drop},
		{"empty ICMP to the internet", message6("fd00:8::2", internet, protoICMPv6, nil), drop},

		{"from nobody", udp("fd00:8::99", server), drop},
		{"from the server's address", udp(server, "fd00:8::2"), drop},
		{"from a link", udp("fe80::7", server), drop},
		{"to a link", udp("fd00:8::2", "fe80::7"), drop},
		{"to all nodes", udp("fd00:8::2", "ff02::1"), drop},
		{"to loopback", udp("fd00:8::2", "::1"), drop},
		{"IPv4 in disguise", udp("fd00:8::2", "::ffff:10.8.0.2"), drop},
		{"hop-by-hop options", packet6("fd00:8::2", server, 0, 0), drop},
		{"routing header", packet6("fd00:8::2", server, 43, 0), drop},

		{"first fragment", fragmentOf6(large, 1, 0, 1400), toPeer},
		{"last fragment", fragmentOf6(large, 1, 2800, 4000), toPeer},
		{"fragment to the server", fragmentOf6(message6("fd00:8::2", server, protoUDP, make([]byte, 4000)), 1, 0, 1400), toServer},
		{"fragment of odd size", fragmentOf6(large, 1, 0, 1401), drop},
		{"fragment without data", fragmentOf6(large, 1, 8, 8), drop},
		{"fragment beyond the end", edited(fragmentOf6(large, 1, 2800, 4000), func(p []byte) { binary.BigEndian.PutUint16(p[ipv6Header+2:], 0xfff8) }), drop},
		{"fragment with options inside", edited(fragmentOf6(large, 1, 0, 1400), func(p []byte) { p[ipv6Header] = 60 }), drop},
		{"half a fragment header", message6("fd00:8::2", server, extFragment, make([]byte, 7)), drop},
		{"longer than it is", edited(udp("fd00:8::2", server), func(p []byte) { p[4] = 0xff }), drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := table.classify(c.packet)
			if v.way != c.want {
				t.Fatalf("way %d instead of %d", v.way, c.want)
			}
			if v.way != drop && (v.from == nil || (v.way == toPeer) != (v.to != nil)) {
				t.Fatalf("%+v", v)
			}
		})
	}
}

// told is an ICMP error about a packet to about.
func told(src, dst netip.Addr, typ, code byte, mtu uint16, about netip.Addr) []byte {
	m := append([]byte{typ, code, 0, 0, 0, 0}, byte(mtu>>8), byte(mtu))
	return packet(src, dst, protoICMP, append(m, udpDatagram(dst, about, 5000, 0)...))
}

// told6 is the same over IPv6, from fd00:8::2.
func told6(dst string, typ byte, mtu uint32, about string) []byte {
	m := binary.BigEndian.AppendUint32([]byte{typ, 0, 0, 0}, mtu)
	return message6("fd00:8::2", dst, protoICMPv6, append(m, packet6(dst, about, protoUDP, 5000)...))
}

func edited(p []byte, change func([]byte)) []byte { change(p); return p }

func packet6(src, dst string, proto uint8, port uint16) []byte {
	p := make([]byte, ipv6Header+udpHeader)
	p[0], p[5], p[6], p[7] = 0x60, udpHeader, proto, 64
	copy(p[8:], netip.MustParseAddr(src).AsSlice())
	copy(p[24:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[ipv6Header+2:], port)
	return p
}

// Whatever bytes come, the filter does not fail, and what it lets through
// belongs to the peers that it names.
func FuzzClassify(f *testing.F) {
	ip := netip.MustParseAddr
	f.Add(udpDatagram(ip("10.8.0.2"), ip("10.8.0.4"), 80, 10))
	f.Add(tcpSYN(ip("10.8.0.2"), ip("10.8.0.4"), 80))
	f.Add(tcpSYN(ip("10.8.0.2"), ip("1.1.1.1"), 80))
	f.Add(fragmentOf(udpDatagram(ip("10.8.0.2"), ip("10.8.0.4"), 80, 100), 1, 8, 64))
	f.Add(packet6("fd00::2", "fd00::4", protoUDP, 80))
	f.Add(packet(ip("10.8.0.2"), testAddr, protoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0}))
	table := filterTable(f)
	dual := *table
	dual.self.addr6, dual.self.subnet6 = netip.MustParseAddr("fd00::1"), netip.MustParsePrefix("fd00::/64")
	dual.server6 = dual.self.addr6.As16()
	f.Add(packet6("fd00::2", "fd00::1", protoUDP, 80))
	f.Add(packet6("fd00::2", "2606:4700::1111", protoICMPv6, 80))
	f.Add(fragmentOf6(message6("fd00::2", "fd00::4", protoUDP, make([]byte, 100)), 7, 0, 64))
	f.Fuzz(func(t *testing.T, p []byte) {
		classified(t, table, p)
		classified(t, &dual, p)
	})
}

// classified checks what a table says of a packet.
func classified(t *testing.T, table *table, p []byte) {
	v := table.classify(p)
	if v.way == drop {
		return
	}
	var src, dst netip.Addr
	if p[0]>>4 == 6 {
		src, dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	} else {
		src, dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	}
	if src.IsLoopback() || src.IsMulticast() || src.IsUnspecified() || table.self.is(src) || table.lookup(src) != v.from {
		t.Fatalf("from %s", src)
	}
	if dst.IsLoopback() || dst.IsMulticast() || dst.IsUnspecified() {
		t.Fatalf("to %s", dst)
	}
	switch v.way {
	case toServer:
		if !table.self.is(dst) {
			t.Fatalf("to the server: %s", dst)
		}
	case toPeer:
		if table.lookup(dst) != v.to || v.to == v.from || v.from.Isolated || v.to.Isolated {
			t.Fatalf("from %s to peer %s", src, dst)
		}
	case toExit, toEcho, toFlow:
		if table.self.is(dst) || dst.Is6() && !table.self.addr6.IsValid() {
			t.Fatalf("to the exit: %s", dst)
		}
	}
	_ = mayAnswer(p)
}

// The table against a slow, obvious model.
func TestLookupAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		var config Config
		for i := range 30 {
			addr := netip.AddrFrom4([4]byte{172, 16, byte(r.IntN(4)), byte(r.IntN(256))})
			prefix, _ := addr.Prefix(20 + r.IntN(13))
			config.Peers = append(config.Peers, Peer{Name: string(rune('a' + i)), PublicKey: model.PublicKey{byte(i + 1)}, AllowedIPs: []netip.Prefix{prefix}})
		}
		overlapping := func() bool {
			for i, a := range config.Peers {
				for _, b := range config.Peers[:i] {
					if a.AllowedIPs[0].Overlaps(b.AllowedIPs[0]) {
						return true
					}
				}
			}
			return false
		}
		for overlapping() {
			if _, err := newTable(config, self{addr: testAddr, subnet: testSubnet}, nil); model.KindOf(err) != model.KindConflict {
				t.Fatalf("overlap is not refused: %v in %+v", err, config)
			}
			config.Peers = slices.Delete(config.Peers, 0, 1)
		}
		table, err := newTable(config, self{addr: testAddr, subnet: testSubnet}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			addr := netip.AddrFrom4([4]byte{172, 16, byte(r.IntN(5)), byte(r.IntN(256))})
			var want model.PublicKey
			for _, p := range config.Peers {
				if p.AllowedIPs[0].Contains(addr) {
					want = p.PublicKey
				}
			}
			var got model.PublicKey
			if p := table.lookup(addr); p != nil {
				got = p.PublicKey
			}
			if got != want {
				t.Fatalf("%s belongs to %v, not %v", addr, want, got)
			}
		}
	}
}
