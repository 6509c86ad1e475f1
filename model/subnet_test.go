package model

import (
	"net/netip"
	"testing"
)

func TestPair(t *testing.T) {
	for _, test := range []struct{ name, v4, v6, addr, want string }{
		{"in a /24", "10.8.0.0/24", "fd00:8::/64", "10.8.0.5", "fd00:8::5"},
		{"in a /16", "10.8.0.0/16", "fd00:8::/64", "10.8.1.5", "fd00:8::105"},
		{"base with host bits set beyond the low octets", "10.8.4.0/22", "fd00:8::/64", "10.8.6.1", "fd00:8::201"},
		{"tight network", "10.8.0.0/24", "fd00::ab00/120", "10.8.0.254", "fd00::abfe"},
		{"outside", "10.8.0.0/24", "fd00:8::/64", "10.9.0.5", "invalid IP"},
		{"IPv6 already", "10.8.0.0/24", "fd00:8::/64", "fd00:8::5", "invalid IP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Subnets{netip.MustParsePrefix(test.v4), netip.MustParsePrefix(test.v6)}
			if got := s.Pair(netip.MustParseAddr(test.addr)); got.String() != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			s.V6 = netip.Prefix{}
			if got := s.Pair(netip.MustParseAddr(test.addr)); got.IsValid() {
				t.Errorf("without an IPv6 network: %s", got)
			}
		})
	}
}

func TestParseSubnet6(t *testing.T) {
	key := NewPrivateKey().Public()
	for _, test := range []struct{ in, want string }{
		{"fd12:3456:789a::/64", "fd12:3456:789a::/64"},
		{"fd12:3456:789a::5/64", "fd12:3456:789a::/64"},
		{"fd00::/48", "fd00::/48"},
		{"fd00::/120", "fd00::/120"},
		{"fd00::/121", ""}, // no room for a /24
		{"fd00::/47", ""},  // more than a site
		{"fc00::/64", ""},  // not assigned by anybody yet (RFC 4193 section 3.1)
		{"2001:db8::/64", ""},
		{"10.8.0.0/24", ""},
		{"::ffff:10.8.0.0/120", ""},
		{"fd00::", ""},
		{"", ""},
	} {
		got, err := ParseSubnet6("subnet6", test.in, netip.MustParsePrefix("10.8.0.0/24"), key)
		if (err != nil) != (test.want == "") || err == nil && got.String() != test.want {
			t.Errorf("%q: %s, %v; want %q", test.in, got, err, test.want)
		}
	}
	one, err := ParseSubnet6("subnet6", "auto", netip.MustParsePrefix("10.8.0.0/24"), key)
	if err != nil || one.Bits() != 64 || one.Addr().As16()[0] != 0xfd || one != one.Masked() {
		t.Errorf("auto: %s, %v", one, err)
	}
	if again, _ := ParseSubnet6("subnet6", "auto", netip.MustParsePrefix("10.8.0.0/24"), key); again != one {
		t.Errorf("auto is %s once and %s then", one, again)
	}
	if other, _ := ParseSubnet6("subnet6", "auto", netip.MustParsePrefix("10.8.0.0/24"), NewPrivateKey().Public()); other == one {
		t.Errorf("two servers have the same network %s", one)
	}
}
