package proxy

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gatecontrol/model"
)

// filterOf compiles an address filter.
func filterOf(t testing.TB, country func(netip.Addr) (string, error), f *model.IPFilter) *ipFilter {
	t.Helper()
	d := &draft{srv: &Server{opts: Options{Country: country}}, snap: &snapshot{tunnel: testTunnel}, in: Route{Options: &RouteOptions{IPFilter: f}}}
	g, err := newIPFilter(d)
	if err != nil {
		t.Fatal(err)
	}
	return g.(*ipFilter)
}

func TestIPFilter(t *testing.T) {
	countries := func(a netip.Addr) (string, error) {
		switch a {
		case netip.MustParseAddr("81.2.69.160"), netip.MustParseAddr("2a02:cf40::1"):
			return "GB", nil
		case netip.MustParseAddr("89.160.20.112"):
			return "SE", nil
		}
		return "", errors.New("not known")
	}
	ip, cidr, country := model.RuleIP, model.RuleCIDR, model.RuleCountry
	for _, tt := range []struct {
		name         string
		mode         string
		rules        []model.IPRule
		noDatabase   bool
		pass, refuse []string
	}{
		{name: "white", mode: "whitelist", rules: []model.IPRule{{Type: ip, Value: "192.0.2.1"}, {Type: cidr, Value: "198.51.100.0/24"}, {Type: ip, Value: "2001:db8::1"}, {Type: cidr, Value: "2001:db8:1::/48"}},
			pass:   []string{"192.0.2.1", "198.51.100.0", "198.51.100.255", "2001:db8::1", "2001:db8:1:ffff::1"},
			refuse: []string{"192.0.2.2", "198.51.101.0", "2001:db8::2", "2001:db8:2::"}},
		{name: "host bits in a network", mode: "whitelist", rules: []model.IPRule{{Type: cidr, Value: "198.51.100.77/24"}}, pass: []string{"198.51.100.1"}, refuse: []string{"198.51.101.77"}},
		{name: "mapped rules", mode: "whitelist", rules: []model.IPRule{{Type: ip, Value: "::ffff:192.0.2.1"}, {Type: cidr, Value: "::ffff:198.51.100.0/120"}},
			pass: []string{"192.0.2.1", "198.51.100.9"}, refuse: []string{"192.0.2.2"}},
		{name: "all of IPv4", mode: "whitelist", rules: []model.IPRule{{Type: cidr, Value: "0.0.0.0/0"}}, pass: []string{"1.2.3.4"}, refuse: []string{"2001:db8::1"}},
		{name: "empty white", mode: "whitelist", refuse: []string{"192.0.2.1", "::1"}},
		{name: "black", mode: "blacklist", rules: []model.IPRule{{Type: cidr, Value: "198.51.100.0/24"}}, pass: []string{"192.0.2.1"}, refuse: []string{"198.51.100.4"}},
		{name: "empty black", mode: "blacklist", pass: []string{"192.0.2.1", "::1"}},
		{name: "white by country", mode: "whitelist", rules: []model.IPRule{{Type: country, Value: "gb"}, {Type: country, Value: "FR"}},
			pass: []string{"81.2.69.160", "2a02:cf40::1"}, refuse: []string{"89.160.20.112", "192.0.2.1", "10.1.2.3", "127.8.0.2"}},
		{name: "black by country", mode: "blacklist", rules: []model.IPRule{{Type: country, Value: "GB"}},
			pass: []string{"89.160.20.112", "10.1.2.3", "100.64.0.1", "fd00::1", "127.8.0.2"}, refuse: []string{"81.2.69.160", "192.0.2.1"}},
		{name: "no database, white", mode: "whitelist", noDatabase: true, rules: []model.IPRule{{Type: country, Value: "GB"}, {Type: ip, Value: "192.0.2.1"}},
			pass: []string{"192.0.2.1"}, refuse: []string{"81.2.69.160", "10.1.2.3"}},
		{name: "no database, black", mode: "blacklist", noDatabase: true, rules: []model.IPRule{{Type: country, Value: "GB"}},
			pass: []string{"10.1.2.3"}, refuse: []string{"81.2.69.160", "89.160.20.112"}},
		{name: "no database, no country rule", mode: "blacklist", noDatabase: true, rules: []model.IPRule{{Type: ip, Value: "192.0.2.1"}},
			pass: []string{"81.2.69.160"}, refuse: []string{"192.0.2.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lookup := countries
			if tt.noDatabase {
				lookup = nil
			}
			g := filterOf(t, lookup, &model.IPFilter{Mode: tt.mode, Rules: tt.rules})
			for _, list := range []struct {
				addrs []string
				pass  bool
			}{{tt.pass, true}, {tt.refuse, false}} {
				for _, a := range list.addrs {
					d := g.check(&visit{addr: netip.MustParseAddr(a)})
					if (d == nil) != list.pass {
						t.Errorf("%s: %+v, want it to pass: %v", a, d, list.pass)
					}
					if d != nil && d.status != 403 {
						t.Errorf("%s: status %d", a, d.status)
					}
				}
			}
		})
	}
}

// TestIPFilterAgainstModel compares large filters with a search through the list.
func TestIPFilterAgainstModel(t *testing.T) {
	for range 30 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 2))
		addr := func() netip.Addr { // close to each other, so that rules overlap and hit
			if rng.IntN(2) == 0 {
				return netip.AddrFrom4([4]byte{10, byte(rng.IntN(3)), byte(rng.IntN(4) * 64), byte(rng.IntN(256))})
			}
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(rng.IntN(3)), 14: byte(rng.IntN(3)), 15: byte(rng.IntN(256))})
		}
		f := &model.IPFilter{Mode: model.FilterBlacklist}
		var list []netip.Prefix
		for range rng.IntN(maxIPRules + 1) {
			a := addr()
			if rng.IntN(2) == 0 {
				f.Rules = append(f.Rules, model.IPRule{Type: model.RuleIP, Value: a.String()})
				list = append(list, netip.PrefixFrom(a, a.BitLen()))
				continue
			}
			p := netip.PrefixFrom(a, a.BitLen()-rng.IntN(6))
			f.Rules = append(f.Rules, model.IPRule{Type: model.RuleCIDR, Value: p.String()})
			list = append(list, p)
		}
		g := filterOf(t, nil, f)
		for range 2000 {
			a := addr()
			want := containsAddr(list, a)
			if got := g.check(&visit{addr: a}) != nil; got != want {
				t.Fatalf("seed %d: %s refused: %v, want %v", seed, a, got, want)
			}
		}
	}
}
