package reconcile

import (
	"net/netip"
	"time"

	"gatecontrol/dns"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
	"gatecontrol/telemetry"
)

// Plan is what every plane shall run, for one revision of intent. A share that
// did not change is the same pointer in the next plan.
type Plan struct {
	Revision model.Revision
	Netstack *netstack.Config
	DNS      *dns.Config
	L4       *l4.Config
	Proxy    *proxy.Config
	Monitor  *telemetry.MonitorConfig
}

// Facts are what a plan depends on besides intent. They do not change while the
// process runs.
type Facts struct {
	Gateway        netip.Addr     // this server's tunnel address
	Subnets        model.Subnets  // of the tunnel
	AdminHosts     []string       // normalised names of the admin host
	TrustedProxies []netip.Prefix // whose X-Forwarded-* is believed
	Exit           model.Exit     // where no setting says otherwise
}

// staticNames are the labels of the internal zone that mean this server.
var staticNames = []string{"gateway", "server", "gc-server"}

// compile makes the plan of a state at the time now, all of it. It is pure: the same
// state gives an equal plan. The location of now is that of access windows.
func compile(s *state, f *Facts, skip map[model.RouteID]error, now time.Time) *Plan {
	return recompile(new(Plan), everything, s, f, skip, now)
}

// recompile makes the plan of a state that differs within c from the one that
// last is the plan of. Routes in skip are left out.
func recompile(last *Plan, c scope, s *state, f *Facts, skip map[model.RouteID]error, now time.Time) *Plan {
	plan := *last
	plan.Revision = s.revision
	if c.netstack {
		plan.Netstack = compileNetstack(s, f, now)
	}
	if !c.dns && !c.l4 && !c.proxy && !c.monitor {
		return &plan
	}
	routes := enabledRoutes(s, skip)
	if c.dns {
		plan.DNS = compileDNS(s, f, routes)
	}
	if c.l4 {
		plan.L4 = compileL4(s, routes, now)
	}
	if c.proxy {
		plan.Proxy = compileProxy(s, f, routes, now)
	}
	if c.monitor {
		plan.Monitor = compileMonitor(s, routes)
	}
	return &plan
}

func enabledRoutes(s *state, skip map[model.RouteID]error) []*model.Route {
	list := make([]*model.Route, 0, len(s.routes))
	for _, r := range s.routes {
		if r.Enabled && skip[r.ID] == nil {
			list = append(list, r)
		}
	}
	return list
}

func compileNetstack(s *state, f *Facts, now time.Time) *netstack.Config {
	exit := f.Exit
	for _, row := range s.exit {
		exit = exit.With(row.Key, row.Value)
	}
	c := &netstack.Config{Exit: netstack.Exit{Enabled: exit.Enabled, Private: exit.PrivateNetworks, RedirectDNS: exit.RedirectDNS}}
	c.Peers = make([]netstack.Peer, 0, len(s.peers))
	var prefixes []netip.Prefix // of all peers, in one piece
	if f.Subnets.V6.IsValid() {
		prefixes = make([]netip.Prefix, 0, 2*len(s.peers))
	}
	for _, p := range s.peers {
		if p.Live(now) {
			allowed := p.AllowedIPs
			if pair := f.Subnets.Pair(p.Address()); pair.IsValid() {
				start := len(prefixes)
				prefixes = append(append(prefixes, allowed...), netip.PrefixFrom(pair, 128))
				allowed = prefixes[start:len(prefixes):len(prefixes)]
			}
			isolated, noExit := s.switches(p)
			c.Peers = append(c.Peers, netstack.Peer{
				Name: p.Name, PublicKey: p.PublicKey, PresharedKey: p.psk,
				AllowedIPs: allowed, Keepalive: p.Keepalive, ServerPorts: companionPorts(p.Gateway),
				Isolated: isolated, NoExit: noExit, Trusted: p.Trusted,
				ReceiveLimit: p.RateLimitUp / 8, SendLimit: p.RateLimitDown / 8,
			})
		}
	}
	return c
}

// companionPorts are those of a home gateway that no other peer may open: it
// serves whoever reaches them.
func companionPorts(g *model.GatewayAccess) []uint16 {
	if g == nil {
		return nil
	}
	return []uint16{g.APIPort, g.ProxyPort}
}

func compileDNS(s *state, f *Facts, routes []*model.Route) *dns.Config {
	gateway6 := f.Subnets.Pair(f.Gateway)
	c := &dns.Config{Address: f.Gateway, Address6: gateway6}
	c.Records = make([]dns.Record, 0, len(staticNames)+len(s.peers))
	c.Domains = make([]string, 0, len(f.AdminHosts)+len(routes))
	for _, name := range staticNames {
		c.Records = append(c.Records, dns.Record{Name: name, Addr: f.Gateway, Addr6: gateway6})
	}
	for _, p := range s.peers {
		if p.Hostname != "" {
			c.Records = append(c.Records, dns.Record{Name: p.Hostname, Addr: p.Address(), Addr6: f.Subnets.Pair(p.Address())})
		}
	}
	// An admin host may be an address or localhost.
	for _, host := range f.AdminHosts {
		if d, err := model.ParseDomain(host); err == nil {
			c.Domains = append(c.Domains, d)
		}
	}
	for _, r := range routes {
		domain := r.Domain
		if r.Type != model.RouteHTTP { // may be a mere label for people
			var err error
			if domain, err = model.ParseDomain(domain); err != nil {
				continue
			}
		}
		c.Domains = append(c.Domains, domain)
	}
	return c
}

// compileL4 leaves out what is closed at the time now: nothing listens there then.
func compileL4(s *state, routes []*model.Route, now time.Time) *l4.Config {
	c := new(l4.Config)
	for _, r := range routes {
		if r.Type == model.RouteL4 && r.L4 != nil && r.Windows.Open(now) {
			addr, _ := s.target(r)
			c.Routes = append(c.Routes, l4.Route{
				ID: r.ID, Network: r.L4.Network, First: r.L4.Ports.First, Last: r.L4.Ports.Last, Target: addr,
			})
		}
	}
	return c
}

func compileProxy(s *state, f *Facts, routes []*model.Route, now time.Time) *proxy.Config {
	c := &proxy.Config{AdminHosts: f.AdminHosts, TrustedProxies: f.TrustedProxies, Tunnel: f.Subnets.Prefixes()}
	c.Routes = make([]proxy.Route, 0, len(routes))
	block := s.blockDefault()
	for _, r := range routes {
		if r.Type != model.RouteHTTP {
			continue
		}
		c.Routes = append(c.Routes, proxy.Route{ID: r.ID, Host: r.Domain, ForceHTTPS: r.ForceHTTPS, Target: s.webTarget(r), Options: s.options(r, f, block, now)})
	}
	return c
}

// webTarget is where a web route leads now. Through a home gateway it is never TLS:
// what is said of the backend is said of the gateway's own way to it.
func (s *state) webTarget(r *model.Route) proxy.Target {
	if g := r.Target.Gateway; g != nil {
		p := s.peer(g.Peer)
		if p == nil {
			return proxy.Target{} // which no plane takes
		}
		return proxy.Target{Addr: netip.AddrPortFrom(p.Address(), p.ProxyPort()), PeerName: p.Name, Behind: g.String()}
	}
	addr, name := s.target(r)
	return proxy.Target{Addr: addr, TLS: r.BackendHTTPS, PeerName: name}
}

// target is where a route leads now: the tunnel address that its peer has
// today, not the one it had when the route was written; and the peer's name.
func (s *state) target(r *model.Route) (addr netip.AddrPort, peer string) {
	if p := s.peer(r.Target.Peer); p != nil {
		return netip.AddrPortFrom(p.Address(), r.Target.Port), p.Name
	}
	return netip.AddrPortFrom(r.Target.Addr, r.Target.Port), ""
}
