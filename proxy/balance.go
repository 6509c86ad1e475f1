package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatecontrol/model"
)

// upstream is one target that requests can be sent to.
type upstream struct {
	target Target
	pool   *pool
	fields string // complete field lines that only a home gateway gets
	weight int    // among the backends of its route
	mark   string // names it in a sticky cookie
}

// balance chooses among the backends of a route. It outlives snapshots for as long
// as the list stays the same, so that a change elsewhere does not start a new round.
type balance struct {
	backends []Backend // as they were asked for
	members  []upstream

	mu    sync.Mutex
	turns []int // smooth weighted round robin: who is highest is next
}

// balance returns the balance of the backends of r, nil if it has none.
func (s *Server) balance(snap, prev *snapshot, r *route) (*balance, error) {
	backends := r.options.Backends
	if len(backends) == 0 {
		return nil, nil
	}
	if len(backends) > model.MaxBackends {
		return nil, model.Invalid("backends", "more than %d", model.MaxBackends)
	}
	b := &balance{backends: backends, members: make([]upstream, len(backends)), turns: make([]int, len(backends))}
	for i, in := range backends {
		field := fmt.Sprintf("backends[%d]", i)
		if err := checkTarget(field, r.host, in.Target); err != nil {
			return nil, err
		}
		if in.Weight < 1 || in.Weight > model.MaxWeight {
			return nil, model.Invalid(field+".weight", "not between 1 and %d", model.MaxWeight)
		}
		b.members[i] = s.upstream(snap, prev, r, in.Target)
		b.members[i].weight = in.Weight
		b.members[i].mark = s.mark(r.id, &b.members[i])
	}
	if prev != nil {
		if was := prev.routes[r.id]; was != nil && was.balance != nil && slices.Equal(was.balance.backends, backends) &&
			slices.EqualFunc(was.balance.members, b.members, func(x, y upstream) bool { return x.pool == y.pool }) {
			return was.balance, nil
		}
	}
	return b, nil
}

// mark is what stands for a backend in the cookies of a route. Without the key,
// nobody can tell an address from it, or make one.
func (s *Server) mark(id model.RouteID, up *upstream) string {
	h := hmac.New(sha256.New, s.stickyKey)
	text, _ := up.pool.key.addr.MarshalBinary() // never fails
	_, _ = h.Write(append(binary.BigEndian.AppendUint64(nil, uint64(id)), text...))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// next is whose turn it is, among those of which tried has no bit.
func (b *balance) next(now time.Duration, tried uint32) int {
	for skip := tried; ; {
		i := b.turn(now, skip)
		if i < 0 {
			return b.leastRecentlyFailed(tried)
		}
		if b.members[i].pool.claim(now) {
			return i
		}
		skip |= 1 << i // another request was faster to try it
	}
}

func (b *balance) turn(now time.Duration, skip uint32) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	best, total := -1, 0
	for i := range b.members {
		m := &b.members[i]
		if skip>>i&1 != 0 || !m.pool.usable(now) {
			continue
		}
		b.turns[i] += m.weight
		total += m.weight
		if best < 0 || b.turns[i] > b.turns[best] {
			best = i
		}
	}
	if best >= 0 {
		b.turns[best] -= total
	}
	return best
}

// random picks by weight alone, among those of which tried has no bit.
func (b *balance) random(now time.Duration, tried uint32) int {
	for skip := tried; ; {
		total := 0
		for i := range b.members {
			if skip>>i&1 == 0 && b.members[i].pool.usable(now) {
				total += b.members[i].weight
			}
		}
		if total == 0 {
			return b.leastRecentlyFailed(tried)
		}
		left, chosen := rand.IntN(total), -1
		for i := range b.members {
			if skip>>i&1 == 0 && b.members[i].pool.usable(now) {
				chosen = i
				if left -= b.members[i].weight; left < 0 {
					break
				}
			}
		}
		// chosen is -1 if all have failed in this very moment.
		if chosen >= 0 && b.members[chosen].pool.claim(now) {
			return chosen
		}
		if chosen >= 0 {
			skip |= 1 << chosen
		}
	}
}

// leastRecentlyFailed is the last resort when all backends failed. Those of tried
// are taken only if nothing else is left.
func (b *balance) leastRecentlyFailed(tried uint32) int {
	best := -1
	for i := range b.members {
		if tried>>i&1 == 0 && (best < 0 || b.members[i].pool.restAt() < b.members[best].pool.restAt()) {
			best = i
		}
	}
	if best < 0 {
		return b.leastRecentlyFailed(0)
	}
	return best
}

// marked is the backend that a cookie names, -1 if it names none.
func (b *balance) marked(mark []byte) int {
	for i := range b.members {
		if string(mark) == b.members[i].mark {
			return i
		}
	}
	return -1
}

// leadsTo reports whether requests of r may go where key leads.
func (r *route) leadsTo(key poolKey) bool {
	return r.some(func(up *upstream) bool { return up.pool.key == key })
}

// uses reports whether requests of r may go to addr.
func (r *route) uses(addr netip.AddrPort) bool {
	return r.some(func(up *upstream) bool { return up.pool.key.addr == addr })
}

func (r *route) some(is func(*upstream) bool) bool {
	for i := range r.paths {
		if up := r.paths[i].upstream; up != nil && is(up) {
			return true
		}
	}
	if r.balance == nil {
		return is(&r.upstream)
	}
	for i := range r.balance.members {
		if is(&r.balance.members[i]) {
			return true
		}
	}
	return false
}

// choose decides where the next attempt of the exchange goes.
func (ex *exchange) choose() {
	r := ex.route
	b := r.balance
	if ex.path != nil && ex.path.upstream != nil {
		ex.up = ex.path.upstream
		return
	}
	if b == nil {
		ex.up = &r.upstream
		return
	}
	if ex.tried == 1<<len(b.members)-1 {
		ex.tried = 0
	}
	now := ex.srv.elapsed()
	i := ex.loggedIn(b)
	if i >= 0 {
		ex.mark = ""
	} else if st := r.options.Sticky; st == nil {
		i = b.next(now, ex.tried)
	} else if i = b.marked(ex.request.cookie(st.Cookie)); i >= 0 && ex.tried>>i&1 == 0 && b.members[i].pool.claim(now) {
		ex.mark = ""
	} else {
		i = b.random(now, ex.tried)
		ex.mark = b.members[i].mark
	}
	ex.tried |= 1 << i
	ex.up = &b.members[i]
}
