package proxy

import (
	"sync"
	"sync/atomic"

	"gatecontrol/model"
)

// counters are numbers by route. One lives as long as its route is served, and
// until what it counted is stored.
type counters struct {
	mu sync.Mutex
	m  map[model.RouteID]*atomic.Uint64
}

// of returns the counter of a route, a new one if there is none. It is among them
// once keep has seen the snapshot that it is for.
func (c *counters) of(id model.RouteID) *atomic.Uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.m[id]; n != nil {
		return n
	}
	return new(atomic.Uint64)
}

// keep takes the counters of snap, and drops what nothing was counted in otherwise.
func (c *counters) keep(snap *snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.m {
		if n.Load() == 0 {
			delete(c.m, id)
		}
	}
	for id, r := range snap.routes {
		if r.blocked == nil {
			continue
		}
		if c.m == nil {
			c.m = make(map[model.RouteID]*atomic.Uint64)
		}
		c.m[id] = r.blocked
	}
}

// BotCounts returns how many requests the bot blocker of each route has refused since
// the start; routes without any are left out. Until BotsCounted drops one, the numbers
// only grow.
func (s *Server) BotCounts() map[model.RouteID]uint64 {
	s.blocked.mu.Lock()
	defer s.blocked.mu.Unlock()
	counts := make(map[model.RouteID]uint64)
	for id, n := range s.blocked.m {
		if n := n.Load(); n > 0 {
			counts[id] = n
		}
	}
	return counts
}

// BotsCounted says that these counts are stored. Counters of routes that are not served
// any more are dropped, unless they have grown since; it returns which. They begin at
// zero if their routes come back.
func (s *Server) BotsCounted(counts map[model.RouteID]uint64) (dropped []model.RouteID) {
	s.blocked.mu.Lock()
	defer s.blocked.mu.Unlock()
	served := s.snapshot.Load().routes
	for id, stored := range counts {
		n := s.blocked.m[id]
		if r := served[id]; n == nil || r != nil && r.blocked == n {
			continue
		}
		// A Config that is prepared may hold it.
		if n.CompareAndSwap(stored, 0) {
			delete(s.blocked.m, id)
			dropped = append(dropped, id)
		}
	}
	return dropped
}
