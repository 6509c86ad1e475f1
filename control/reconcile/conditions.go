package reconcile

import (
	"fmt"
	"maps"

	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// leftOut is a stored peer that no plane would take.
type leftOut struct {
	name string
	err  error
}

// Conditions tells which stored records are not served, and why. Run tries them
// again.
func (r *Reconciler) Conditions() []telemetry.Condition {
	r.mu.Lock()
	s, skipped := r.state, r.skipped // neither is written any more
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	const again = ". It is tried again by itself, and after each change of it."
	var list []telemetry.Condition
	if n := len(s.unreadable); n > 0 {
		list = append(list, telemetry.Condition{
			Code: "records_unreadable", Severity: model.SeverityError,
			Text: fmt.Sprintf("%d stored records cannot be read and are left out, the first because of this: %v. A backup may have them.", n, s.unreadable[0]),
		})
	}
	for id, out := range s.leftOut {
		list = append(list, telemetry.Condition{
			Code: "peer_left_out", Subject: out.name, Peer: id, Severity: model.SeverityError,
			Text: "The peer is not in the tunnel: " + telemetry.Plain(out.err) + again,
		})
	}
	for id, err := range skipped {
		if route := s.route(id); route != nil && route.Enabled {
			list = append(list, telemetry.Condition{
				Code: "route_left_out", Subject: title(route), Route: id, Severity: model.SeverityError,
				Text: "The route does not serve: " + telemetry.Plain(err) + again,
			})
		}
	}
	return list
}

// title is what people know a route by.
func title(r *model.Route) string {
	if r.Type == model.RouteL4 && r.L4 != nil {
		return fmt.Sprintf("%s port %s", r.L4.Network, r.L4.Ports)
	}
	return r.Domain
}

// without returns m without a peer that is written anew.
func without(m map[model.PeerID]leftOut, id model.PeerID) map[model.PeerID]leftOut {
	if _, found := m[id]; !found {
		return m
	}
	m = maps.Clone(m)
	delete(m, id)
	return m
}
