package app

import (
	"net/netip"
	"testing"
)

func TestClientNetworks(t *testing.T) {
	for _, test := range []struct{ name, allowed, subnet6, want string }{
		{"no IPv6", "0.0.0.0/0", "", "0.0.0.0/0"},
		{"all", "0.0.0.0/0", "fd00:8::/64", "0.0.0.0/0, ::/0"},
		{"all, in halves", "128.0.0.0/1,0.0.0.0/1", "fd00:8::/64", "128.0.0.0/1, 0.0.0.0/1, ::/0"},
		{"half", "128.0.0.0/1", "fd00:8::/64", "128.0.0.0/1, fd00:8::/64"},
		{"some", "10.8.0.0/24,192.168.1.0/24", "fd00:8::/64", "10.8.0.0/24, 192.168.1.0/24, fd00:8::/64"},
		{"as configured", "0.0.0.0/0,fd00:8::/64", "fd00:8::/64", "0.0.0.0/0, fd00:8::/64"},
		{"IPv6 outside alone", "0.0.0.0/0,::/0", "", "0.0.0.0/0, ::/0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{
				WGHost: "127.0.0.1", WGSubnet: netip.MustParsePrefix("10.8.0.0/24"), WGGateway: netip.MustParseAddr("10.8.0.1"),
				WGAllowedIPs: test.allowed, WGMTU: 1420, WGSubnet6: test.subnet6, DNSDomain: "gc.internal", BaseURL: "http://localhost", AdminUser: "admin",
				SessionMaxAge: 60_000, RateLimitLogin: 1, RateLimitAPI: 1, L4MaxPortRange: 1, TrafficInterval: 1000, MonitorHTTPTimeout: 1000, MonitorTCPTimeout: 1000,
			}
			s, err := o.check()
			if err != nil {
				t.Fatal(err)
			}
			n, err := s.subnets([32]byte{1})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.clientNetworks(n.V6); got != test.want {
				t.Errorf("%q instead of %q", got, test.want)
			}
		})
	}
}
