package routes

import (
	"iter"
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// portSearch is how far above a taken port another one is looked for.
const portSearch = 2000

// portClash refuses a port route on ports that another enabled one of the same
// network listens on. It reads one index and decodes no record.
func (s *Service) portClash(tx *store.Tx, r *model.Route) error {
	for ports, id := range listening(tx, r.L4.Network) {
		if id == r.ID || !ports.Overlaps(r.L4.Ports) {
			continue
		}
		port := max(ports.First, r.L4.Ports.First)
		e := model.Conflict("l4_listen_port", "port %d is taken by route %d", port, id)
		e.Code = "PORT_CONFLICT"
		e.Detail = model.PortConflict{Port: port, ConflictRouteID: id, SuggestedPort: s.suggest(tx, r, port)}
		return e
	}
	return nil
}

// listening yields the ports of enabled routes in their order.
func listening(tx *store.Tx, network string) iter.Seq2[model.PortRange, model.RouteID] {
	prefix := network + "/"
	return func(yield func(model.PortRange, model.RouteID) bool) {
		for key, id := range store.Routes.Entries(tx, "listen", prefix) {
			if !strings.HasPrefix(key, prefix) {
				return
			}
			if _, ports, err := store.ListenPorts(key); err == nil && !yield(ports, id) {
				return
			}
		}
	}
}

// suggest returns the lowest port above taken from which on r could listen, 0 if
// there is none near.
func (s *Service) suggest(tx *store.Tx, r *model.Route, taken uint16) uint16 {
	var used [1 << 16]bool
	for ports, id := range listening(tx, r.L4.Network) {
		for p := int(ports.First); p <= int(ports.Last) && id != r.ID; p++ {
			used[p] = true
		}
	}
	free, need := 0, r.L4.Ports.Len()
	for p := int(taken) + 1; p < len(used) && p-need <= int(taken)+portSearch; p++ {
		if free++; used[p] || s.blocked[uint16(p)] {
			free = 0
		}
		if free == need {
			return uint16(p - need + 1)
		}
	}
	return 0
}
