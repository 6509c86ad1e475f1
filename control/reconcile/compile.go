package reconcile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"gatecontrol/dns"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
)

// Plan is what every plane shall run, for one revision of intent.
type Plan struct {
	Revision model.Revision
	Netstack netstack.Config
	DNS      dns.Config
	L4       l4.Config
	Proxy    proxy.Config
}

// Facts are what a plan depends on besides intent. They do not change while the
// process runs.
type Facts struct {
	Gateway        netip.Addr     // this server's tunnel address
	AdminHosts     []string       // normalised names of the admin host
	TrustedProxies []netip.Prefix // whose X-Forwarded-* is believed
	Exit           bool           // peers may reach the internet
	ExitPrivate    []netip.Prefix // and these private ranges
}

// staticNames are the labels of the internal zone that mean this server.
var staticNames = []string{"gateway", "server", "gc-server"}

// compile makes the plan of a state. Routes in skip are left out. It is pure:
// the same state gives an equal plan, whatever order its maps come in.
func compile(s *state, f *Facts, skip map[model.RouteID]error, now time.Time) *Plan {
	plan := &Plan{Revision: s.revision}
	plan.Netstack = compileNetstack(s, f, now)
	routes := enabledRoutes(s, skip)
	plan.DNS = compileDNS(s, f, routes)
	plan.L4 = compileL4(s, routes)
	plan.Proxy = compileProxy(s, f, routes)
	return plan
}

func enabledRoutes(s *state, skip map[model.RouteID]error) []*model.Route {
	list := make([]*model.Route, 0, len(s.routes))
	for id, r := range s.routes {
		if r.Enabled && skip[id] == nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *model.Route) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func sortedPeers(s *state) []*peer {
	return slices.SortedFunc(maps.Values(s.peers), func(a, b *peer) int { return cmp.Compare(a.ID, b.ID) })
}

func compileNetstack(s *state, f *Facts, now time.Time) netstack.Config {
	c := netstack.Config{Exit: netstack.Exit{Enabled: f.Exit, Private: f.ExitPrivate}}
	c.Peers = make([]netstack.Peer, 0, len(s.peers))
	for _, p := range sortedPeers(s) {
		if p.Live(now) {
			c.Peers = append(c.Peers, netstack.Peer{
				Name: p.Name, PublicKey: p.PublicKey, PresharedKey: p.psk,
				AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive,
			})
		}
	}
	return c
}

func compileDNS(s *state, f *Facts, routes []*model.Route) dns.Config {
	c := dns.Config{Address: f.Gateway}
	for _, name := range staticNames {
		c.Records = append(c.Records, dns.Record{Name: name, Addr: f.Gateway})
	}
	for _, p := range sortedPeers(s) {
		if p.Hostname != "" {
			c.Records = append(c.Records, dns.Record{Name: p.Hostname, Addr: p.Address()})
		}
	}
	// An admin host may be an address or localhost, the domain of a port route a
	// mere label for people.
	names := slices.Clone(f.AdminHosts)
	for _, r := range routes {
		names = append(names, r.Domain)
	}
	for _, name := range names {
		if d, err := model.ParseDomain(name); err == nil {
			c.Domains = append(c.Domains, d)
		}
	}
	slices.Sort(c.Domains)
	c.Domains = slices.Compact(c.Domains)
	return c
}

func compileL4(s *state, routes []*model.Route) l4.Config {
	var c l4.Config
	for _, r := range routes {
		if r.Type == model.RouteL4 && r.L4 != nil {
			c.Routes = append(c.Routes, l4.Route{
				ID: r.ID, Network: r.L4.Network, First: r.L4.Ports.First, Last: r.L4.Ports.Last, Target: s.target(r),
			})
		}
	}
	return c
}

func compileProxy(s *state, f *Facts, routes []*model.Route) proxy.Config {
	c := proxy.Config{AdminHosts: f.AdminHosts, TrustedProxies: f.TrustedProxies}
	for _, r := range routes {
		if r.Type != model.RouteHTTP {
			continue
		}
		t := proxy.Target{Addr: s.target(r), TLS: r.BackendHTTPS}
		if p := s.peers[r.Target.Peer]; p != nil {
			t.PeerName = p.Name
		}
		c.Routes = append(c.Routes, proxy.Route{ID: r.ID, Host: r.Domain, ForceHTTPS: r.ForceHTTPS, Target: t})
	}
	return c
}

// target is where a route leads now: the tunnel address that its peer has
// today, not the one it had when the route was written.
func (s *state) target(r *model.Route) netip.AddrPort {
	addr := r.Target.Addr
	if p := s.peers[r.Target.Peer]; p != nil {
		addr = p.Address()
	}
	return netip.AddrPortFrom(addr, r.Target.Port)
}
