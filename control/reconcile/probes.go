package reconcile

import (
	"strings"

	"gatecontrol/model"
	"gatecontrol/proxy"
	"gatecontrol/telemetry"
)

func compileMonitor(s *state, routes []*model.Route) *telemetry.MonitorConfig {
	m := model.DefaultMonitoring()
	for _, row := range s.monitoring {
		m = m.With(row.Key, row.Value)
	}
	c := &telemetry.MonitorConfig{Interval: m.Interval}
	for _, r := range routes {
		if !r.Monitored {
			continue
		}
		if p := s.probe(r); len(p.Backends) > 0 {
			c.Probes = append(c.Probes, p)
		}
	}
	return c
}

// Probe returns how a route is checked, monitored or not, and whether there is one.
// In a write transaction it is as that found it.
func (r *Reconciler) Probe(id model.RouteID) (model.Probe, bool) {
	r.mu.Lock()
	s := r.state // is not written any more
	skipped := r.skipped[id]
	r.mu.Unlock()
	if s == nil {
		return model.Probe{}, false
	}
	route := s.route(id)
	switch {
	case route == nil:
		return model.Probe{}, false
	case skipped != nil:
		return model.Probe{Route: id, Version: route.UpdatedAt, Reason: telemetry.Plain(skipped)}, true
	}
	return s.probe(route), true
}

// probe is where the requests of a route go, or the connections of its port.
func (s *state) probe(r *model.Route) model.Probe {
	p := model.Probe{Route: r.ID, Version: r.UpdatedAt, Reason: r.Untold()}
	switch {
	case p.Reason != "":
	case r.Type == model.RouteL4:
		s.probePort(&p, r)
	default:
		s.probeWeb(&p, r)
	}
	return p
}

func (s *state) probePort(p *model.Probe, r *model.Route) {
	p.Kind = model.ProbeTCP
	if s.orphaned(r) {
		p.Reason = orphanReason
		return
	}
	addr, _ := s.target(r)
	p.Backends = []model.ProbeTarget{{Addr: addr}}
}

const orphanReason = "the peer behind the route is not there"

// probeWeb asks for /, so where that leads elsewhere than the route does, it is asked
// there.
func (s *state) probeWeb(p *model.Probe, r *model.Route) {
	p.Kind, p.Host = model.ProbeHTTP, r.Domain
	add := func(t proxy.Target) {
		p.Backends = append(p.Backends, model.ProbeTarget{Addr: t.Addr, TLS: t.TLS})
		if t.Behind != "" { // a home gateway leads on by what the proxy tells it, too
			p.Fields = append(p.Fields, model.HeaderField{Name: "X-Gateway-Target-Domain", Value: r.Domain}, model.HeaderField{Name: "X-Gateway-Target", Value: t.Behind})
		}
	}
	w := r.Options()
	if h := w.Headers; h != nil {
		for _, f := range h.Request {
			if strings.EqualFold(f.Name, "Host") {
				p.Host = f.Value
			} else {
				p.Fields = append(p.Fields, f)
			}
		}
	}
	for _, path := range w.Paths {
		if path.Prefix != "/" {
			continue
		}
		add(*s.path(r, path).Target)
		return
	}
	if r.Target.Gateway == nil { // which goes before them
		for _, b := range w.Backends {
			if t, ok := s.peerTarget(b.Peer, b.Port, r.BackendHTTPS); ok {
				add(t)
			}
		}
	}
	switch {
	case len(p.Backends) > 0:
	case s.orphaned(r):
		p.Reason = orphanReason
	default:
		add(s.webTarget(r))
	}
}
