package proxy

import (
	"sync"
	"time"
)

// upgrades is the register of those that are open.
type upgrades struct {
	mu     sync.Mutex
	open   map[*upgrade]struct{}
	closed bool
}

func (r *upgrades) add(u *upgrade) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.open) >= maxUpgrades {
		return false
	}
	r.open[u] = struct{}{}
	return true
}

func (r *upgrades) remove(u *upgrade) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, u)
	if u.doom != nil {
		u.doom.Stop()
	}
}

// judge gives upgrades whose route is gone, leads elsewhere, or lets their client
// in no more, their time of grace. A route that is back by then has saved them.
func (r *upgrades) judge(s *Server) {
	snap := s.snapshot.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	for u := range r.open {
		if u.doom == nil && !snap.has(u) {
			u.doom = time.AfterFunc(s.limits.grace, func() { r.execute(s, u) })
		}
	}
}

func (r *upgrades) execute(s *Server, u *upgrade) {
	r.mu.Lock()
	_, open := r.open[u]
	u.doom = nil
	r.mu.Unlock()
	if open && !s.snapshot.Load().has(u) {
		u.kill()
	}
}

// has reports whether requests can still go where u went.
func (s *snapshot) has(u *upgrade) bool {
	now := s.hosts[u.route.host]
	return now != nil && now.id == u.route.id && now.leadsTo(u.key) && now.admits(u.addr)
}

// closeAll ends all upgrades, and those to come.
func (r *upgrades) closeAll() {
	r.mu.Lock()
	r.closed = true
	all := make([]*upgrade, 0, len(r.open))
	for u := range r.open {
		all = append(all, u)
	}
	r.mu.Unlock()
	for _, u := range all {
		u.kill()
	}
}
