package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// orphanText tells of a route whose peer was deleted. Its last address is still
// there to be seen, but belongs to whoever gets it next.
const orphanText = "the peer behind this route is gone; choose another one or an address"

// check notes every rule that r breaks as a whole, whichever of its fields were
// sent. retarget says whether the target was sent.
func (s *Service) check(tx *store.Tx, r *model.Route, retarget bool, bad *model.Invalids) error {
	if r.Domain != "" {
		if r.Type == model.RouteHTTP && r.Domain == s.o.AdminHost {
			bad.Add("domain", "%s is the address of the administration", r.Domain)
		}
		if err := s.checkZone(tx, r.Domain, bad); err != nil {
			return err
		}
	}
	if r.L4 != nil {
		s.checkPorts(r.L4.Ports, bad)
	}
	switch {
	case r.Target.Gateway != nil:
		return s.checkGateway(tx, r, retarget, bad)
	case r.Target.Peer != 0:
		return nil
	}
	own := s.isOwn(r.Target.Addr)
	for i, p := range r.Options().Paths {
		if p.Peer == 0 && own && p.Redirect == "" {
			if err := s.checkOwnPort(tx, fmt.Sprintf("paths[%d]", i), r, p.Port, bad); err != nil {
				return err
			}
		}
	}
	if a := r.Target.Addr; (r.Enabled || retarget) && a != defaultTarget {
		if s.orphan(r) {
			bad.Add("target_ip", orphanText)
		} else if _, err := model.ParseTargetIP(a.String()); err != nil {
			bad.AddError(err)
		}
	}
	if own {
		return s.checkOwnPort(tx, "target_port", r, r.Target.Port, bad)
	}
	return nil
}

// checkOwnPort refuses ports of this host behind which this server is: what went
// there would come round.
func (s *Service) checkOwnPort(tx *store.Tx, field string, r *model.Route, port uint16, bad *model.Invalids) error {
	if s.blocked[port] {
		bad.Add(field, "port %d of this host is reserved", port)
		return nil
	}
	network := "tcp"
	if r.L4 != nil {
		network = r.L4.Network
		if r.L4.Ports.Contains(port) {
			bad.Add(field, "port %d of this host is the one that the route listens on", port)
			return nil
		}
	}
	for other, err := range store.Routes.All(tx) {
		if err != nil {
			return err
		}
		if other.ID != r.ID && r.Enabled && other.Enabled && other.L4 != nil && other.L4.Network == network && other.L4.Ports.Contains(port) {
			bad.Add(field, "port %d of this host is the one that route %d listens on", port, other.ID)
			return nil
		}
	}
	return nil
}

// orphan reports whether r leads directly to a tunnel address.
func (s *Service) orphan(r *model.Route) bool {
	return r.Target.Peer == 0 && s.o.Tunnel.Contains(r.Target.Addr)
}

// isOwn reports whether a is this host.
func (s *Service) isOwn(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(s.o.HostAddrs(), func(h netip.Addr) bool { return h.Unmap() == a })
}

// staticNames are the labels of the internal zone that mean this server.
var staticNames = []string{"gateway", "server", "gc-server"}

// checkZone refuses names of the internal zone that belong to something else: its
// head, this server and its peers. The domain of a port route is resolved, too.
func (s *Service) checkZone(tx *store.Tx, domain string, bad *model.Invalids) error {
	if s.o.ZoneDomain == "" {
		return nil
	}
	if domain == s.o.ZoneDomain {
		bad.Add("domain", "%s is the internal zone itself", domain)
	}
	label, in := strings.CutSuffix(domain, "."+s.o.ZoneDomain)
	if !in {
		return nil
	}
	if slices.Contains(staticNames, label) {
		bad.Add("domain", "%s is a name of this server", domain)
	}
	p, err := store.Peers.Find(tx, "hostname", label)
	if err == nil && p != nil {
		bad.Add("domain", "%s is the name of the peer %q", domain, p.Name)
	}
	return err
}

func (s *Service) checkPorts(r model.PortRange, bad *model.Invalids) {
	if r.First == 0 { // told already
		return
	}
	if r.Len() > s.o.MaxRange {
		bad.Add("l4_listen_port", "must be at most %d ports", s.o.MaxRange)
		return
	}
	for _, p := range s.o.Blocked {
		if r.Contains(p) {
			bad.Add("l4_listen_port", "port %d is reserved", p)
			return
		}
	}
}

// clash refuses what only other routes stand against: a domain or a port that is
// taken.
func (s *Service) clash(tx *store.Tx, r *model.Route) error {
	if r.Type == model.RouteHTTP {
		other, err := store.Routes.Find(tx, "domain", r.Domain)
		if err != nil {
			return err
		}
		if other != nil && other.ID != r.ID {
			return domainTaken(r.Domain)
		}
	}
	if r.L4 != nil && r.Enabled {
		return s.portClash(tx, r)
	}
	return nil
}

func domainTaken(domain string) error {
	return model.Conflict("domain", "another route has the domain %s", domain)
}

// put names the field of an index that refused.
func put(err error) error {
	if dup, ok := errors.AsType[*store.DuplicateError](err); ok {
		return domainTaken(dup.Key)
	}
	return err
}
