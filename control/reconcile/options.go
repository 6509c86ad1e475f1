package reconcile

import (
	"net/netip"
	"time"

	"gatecontrol/model"
	"gatecontrol/proxy"
)

// options are what a web route does besides forwarding, with the addresses that
// its peers have today; nil if that is nothing. Peers that are disabled or not
// there are left out: an ACL without them lets nobody in, and a route without
// backends leads to its target.
func (s *state) options(r *model.Route, f *Facts, block model.BlockReply, now time.Time) *proxy.RouteOptions {
	shut := closed(&r.Windows, now)
	w := r.Web
	switch {
	case w != nil:
	case shut != nil:
		return &proxy.RouteOptions{Closed: shut}
	default:
		return nil
	}
	o := proxy.RouteOptions{Closed: shut, Trace: w.Trace, Compress: w.Compress}
	some := shut != nil || w.Trace || w.Compress
	if !w.External {
		reply := w.Block.For(r.Domain, block)
		o.Internal, some = &reply, true
	}
	if w.ACL.Enabled {
		o.ACL, some = &proxy.ACL{Addrs: s.addresses(w.ACL.Peers, f)}, true
	}
	if w.Breaker.Enabled && w.Breaker.Open {
		o.Breaker, some = &proxy.Breaker{RetryAfter: w.Breaker.Timeout}, true
	}
	if w.Bots.Enabled {
		o.Bots, some = &w.Bots, true
	}
	if w.IPFilter.Enabled {
		o.IPFilter, some = &w.IPFilter, true
	}
	if w.BasicAuth.Enabled {
		o.BasicAuth, some = &w.BasicAuth, true
	}
	if w.RateLimit.Enabled {
		o.RateLimit, some = &w.RateLimit, true
	}
	if w.ClientTLS.Enabled {
		o.ClientCA, some = w.ClientTLS.CA, true
	}
	if w.Headers != nil {
		o.Headers, some = w.Headers, true
	}
	if w.Retry.Enabled {
		o.Retry, some = &w.Retry, true
	}
	if r.Target.Gateway == nil { // which goes before them
		for _, b := range w.Backends {
			if t, ok := s.peerTarget(b.Peer, b.Port, r.BackendHTTPS); ok {
				o.Backends, some = append(o.Backends, proxy.Backend{Target: t, Weight: b.Weight}), true
			}
		}
	}
	if w.Sticky.Enabled && len(o.Backends) > 0 {
		o.Sticky = &w.Sticky
	}
	if w.Mirror.Enabled {
		for _, m := range w.Mirror.Targets {
			if t, ok := s.peerTarget(m.Peer, m.Port, false); ok {
				o.Mirrors, some = append(o.Mirrors, t), true
			}
		}
	}
	for _, p := range w.Paths {
		o.Paths, some = append(o.Paths, s.path(r, p)), true
	}
	if !some {
		return nil
	}
	return &o
}

// closed is what visitors are told of a route that its windows close at the time now,
// nil if they do not.
func closed(ws *model.Windows, now time.Time) *proxy.Closed {
	if ws.Open(now) {
		return nil
	}
	c := new(proxy.Closed)
	c.Zone, _ = now.Zone()
	today := now.Format(time.DateOnly)
	for _, w := range ws.List {
		schedule, err := w.Read()
		switch {
		case err != nil, w.Until != "" && w.Until < today:
		case w.Mode == model.WindowAllow:
			c.Open = append(c.Open, schedule...)
		default:
			c.Shut = append(c.Shut, schedule...)
		}
	}
	return c
}

// addresses are those that peers have in the tunnel, IPv4 and IPv6.
func (s *state) addresses(ids []model.PeerID, f *Facts) []netip.Addr {
	var list []netip.Addr
	for _, id := range ids {
		p := s.peer(id)
		if p == nil || !p.Enabled {
			continue
		}
		list = append(list, p.Address())
		if pair := f.Subnets.Pair(p.Address()); pair.IsValid() {
			list = append(list, pair)
		}
	}
	return list
}

// peerTarget is a port of a peer that is enabled.
func (s *state) peerTarget(id model.PeerID, port uint16, tls bool) (proxy.Target, bool) {
	p := s.peer(id)
	if p == nil || !p.Enabled {
		return proxy.Target{}, false
	}
	return proxy.Target{Addr: netip.AddrPortFrom(p.Address(), port), TLS: tls, PeerName: p.Name}, true
}

// path is a path with its target. A disabled peer stays one, as it does for a
// whole route: what is below the prefix must not go elsewhere. One that is not
// there, which only a damaged record can have, is nobody's address.
func (s *state) path(r *model.Route, p model.Path) proxy.Path {
	out := proxy.Path{Prefix: p.Prefix, Strip: p.Strip, Redirect: p.Redirect, Status: p.Status}
	if p.Redirect != "" {
		return out
	}
	target := model.Route{Target: model.Target{Peer: p.Peer, Port: p.Port}}
	if p.Peer == 0 {
		target.Target.Peer, target.Target.Addr = r.Target.Peer, r.Target.Addr
	}
	addr, name := s.target(&target)
	out.Target = &proxy.Target{Addr: addr, TLS: r.BackendHTTPS && r.Target.Gateway == nil, PeerName: name}
	return out
}

// blockDefault is what strangers get of a route that says nothing else of it.
func (s *state) blockDefault() model.BlockReply {
	b := model.DefaultBlock()
	for _, row := range s.block {
		b = b.With(row.Key, row.Value)
	}
	return b
}
