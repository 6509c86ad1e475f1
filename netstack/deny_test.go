package netstack

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	rules := exitRules{
		tunnel:  testSubnet.Contains,
		private: prefixes("192.168.0.0/16", "100.64.0.0/10", "fd00:1::/32"),
		host: func(a netip.Addr) bool {
			return a == netip.MustParseAddr("5.6.7.8") || a == netip.MustParseAddr("192.168.1.10") || a == netip.MustParseAddr("2a00::10")
		},
		peers: func(a netip.Addr) bool { return netip.MustParsePrefix("192.168.50.0/24").Contains(a) },
	}
	for _, c := range []struct {
		want  ruling
		addrs string
	}{
		{allowed, "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 126.255.255.255 128.0.0.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 223.255.255.255"},
		{allowed, "192.168.1.11 192.168.49.1 100.64.0.1 100.127.255.255 fd00:1::5"}, // listed
		{allowed, "2606:4700::1111 2a00::11"},
		{allowed, "::ffff:1.1.1.1 ::ffff:192.168.1.11"},
		{refused, "0.0.0.0 0.1.2.3 127.0.0.1 127.255.255.255"},
		{refused, "169.254.0.1 169.254.169.254 169.254.255.255"},
		{refused, "192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7"},
		{refused, "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"},
		{refused, "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 fc00::1 fd00:2::1"}, // not listed
		{refused, "10.8.0.1 10.8.0.2 10.8.0.255"},                                        // the tunnel
		{refused, "192.168.50.7 ::ffff:192.168.50.7"},                                    // a peer's network
		{refused, "100.100.100.200 168.63.129.16 fd00:ec2::254 fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe"},
		{refused, ":: ::1 fe80::1 febf::1 fec0::1 ff02::1 2001:db8::1 100::1 3fff::1 5f00::1 2001:2::1 2001:20::1"},
		{refused, "::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::ffff:0.0.0.0"},
		{refused, "::127.0.0.1 ::169.254.169.254 ::10.0.0.1 ::1.1.1.1"},
		{refused, "2002:7f00:1:: 2002:a9fe:a9fe::1 2002:a00:1::5"},                              // 6to4
		{refused, "64:ff9b::127.0.0.1 64:ff9b::169.254.169.254 64:ff9b::10.0.0.1 64:ff9b:1::1"}, // NAT64
		{refused, "2001::80ff:fffe 2001:0:5:6:7:8:5601:5601"},                                   // Teredo: 127.0.0.1, 169.254.169.254
		{refused, "::ffff:0:127.0.0.1 ::ffff:0:10.0.0.1"},                                       // SIIT
		{allowed, "2002:808:808::1 64:ff9b::8.8.8.8"},
		{ourselves, "5.6.7.8 ::ffff:5.6.7.8 192.168.1.10 2a00::10 64:ff9b::5.6.7.8 2002:506:708::1"},
		{refused, "fe80::1%eth0 127.0.0.1"},
	} {
		for addr := range strings.FieldsSeq(c.addrs) {
			if got := rules.judge(netip.MustParseAddr(addr)); got != c.want {
				t.Errorf("%s: %d instead of %d", addr, got, c.want)
			}
		}
	}
	if rules.judge(netip.Addr{}) != refused {
		t.Error("an invalid address is allowed")
	}
}

func TestMetadataStaysClosedInListedRanges(t *testing.T) {
	everything := exitRules{
		private: prefixes("0.0.0.0/0", "::/0"),
		tunnel:  func(netip.Addr) bool { return false },
		host:    func(netip.Addr) bool { return false },
		peers:   func(netip.Addr) bool { return false },
	}
	for _, p := range never {
		if everything.judge(p.Addr()) != refused {
			t.Errorf("%s is reached", p)
		}
	}
	if everything.judge(netip.MustParseAddr("10.1.2.3")) != allowed {
		t.Error("a listed range is not reached")
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add(netip.MustParseAddr("64:ff9b::127.0.0.1").AsSlice())
	f.Add(netip.MustParseAddr("2001::80ff:fffe").AsSlice())
	rules := exitRules{tunnel: testSubnet.Contains, host: func(netip.Addr) bool { return false }, peers: func(netip.Addr) bool { return false }}
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		if rules.judge(addr) != allowed {
			return
		}
		// What is allowed is a plain public address in every reading of it.
		inner, _ := embedded(addr)
		for _, a := range []netip.Addr{addr, addr.Unmap(), inner} {
			if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || testSubnet.Contains(a) || rules.judge(a) != allowed {
				t.Fatalf("%s is allowed, which is %s", addr, a)
			}
		}
	})
}

func TestHostAddrs(t *testing.T) {
	local := []net.Addr{&net.IPNet{IP: net.IPv4(5, 6, 7, 8), Mask: net.CIDRMask(24, 32)}}
	var asked int
	var failure error
	h := newHostAddrs(slog.New(slog.DiscardHandler), []netip.Addr{netip.MustParseAddr("9.9.9.9")})
	h.list = func() ([]net.Addr, error) { asked++; return local, failure }

	for addr, want := range map[string]bool{"5.6.7.8": true, "9.9.9.9": true, "::ffff:5.6.7.8": true, "5.6.7.9": false} {
		if got := h.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times within a second", asked)
	}
	local = append(local, &net.IPNet{IP: net.ParseIP("5.6.7.9"), Mask: net.CIDRMask(24, 32)})
	h.current.Store(&hostAddrList{set: h.current.Load().set, asked: time.Now().Add(-2 * hostAddrsAge)})
	if !h.contains(netip.MustParseAddr("5.6.7.9")) {
		t.Error("a new address is not seen after a second")
	}
	failure = errors.New("no")
	h.current.Store(&hostAddrList{asked: time.Now().Add(-2 * hostAddrsAge)})
	if !h.contains(netip.MustParseAddr("1.1.1.1")) {
		t.Error("without a list, an address passes")
	}
}
