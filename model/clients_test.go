package model

import (
	"net/netip"
	"testing"
)

func TestClientsKey(t *testing.T) {
	c := Clients{Tunnel: netip.MustParsePrefix("fd00:8::/64")}
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"2001:db8::1", "2001:db8::ffff:2", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"fd00:8::2", "fd00:8::3", false}, // peers
		{"fd00:9::2", "fd00:9::3", true},
	} {
		a, b := netip.MustParseAddr(test.a), netip.MustParseAddr(test.b)
		if got := c.Key(a) == c.Key(b); got != test.same {
			t.Errorf("%s and %s are the same: %v", a, b, got)
		}
	}
	if key := c.Key(netip.Addr{}); key.IsValid() {
		t.Errorf("nobody is %s", key)
	}
	if (Clients{}).Key(netip.MustParseAddr("fd00:8::2")) != netip.MustParseAddr("fd00:8::") {
		t.Error("without a tunnel its network is like others")
	}
}
