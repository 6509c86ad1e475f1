package reconcile

import (
	"slices"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// prepareAll prepares the stored state, leaving out what cannot be read or
// applied: one bad record must not keep the rest from serving.
func (r *Reconciler) prepareAll(tx *store.Tx, current *Plan) (store.Pending, error) {
	s := load(tx, r.DB.Sealer())
	for _, err := range s.unreadable {
		r.Log.Error("a stored record is left out", "err", err)
	}
	now := r.Now()
	skip := s.orphans()
	p, err := r.preparePlan(current, s, compile(s, &r.Facts, skip, now), skip)
	if err == nil {
		return p, nil
	}
	r.Log.Warn("the stored state cannot be applied as a whole; looking for the records at fault", "err", err)
	good, skip := r.sift(s, now)
	return r.preparePlan(current, good, compile(good, &r.Facts, skip, now), skip)
}

// orphans returns the routes whose peer is left out, and says so. Without it
// they would lead to whoever has its address now.
func (s *state) orphans() map[model.RouteID]error {
	skip := make(map[model.RouteID]error)
	for _, r := range s.routes {
		if s.orphaned(r) {
			skip[r.ID] = model.Failure(model.KindUnavailable, "its %s cannot be used", targetName(r))
		}
	}
	return skip
}

// sift returns s without the peers that the planes refuse, and the routes that
// they refuse beside the other peers, or that led to one of those.
func (r *Reconciler) sift(s *state, now time.Time) (good *state, skip map[model.RouteID]error) {
	try := func(current *Plan, c scope, s *state) error {
		p, err := r.preparePlan(current, s, recompile(current, c, s, &r.Facts, nil, now), nil)
		if err == nil {
			p.Abort()
		}
		return err
	}
	nothing := compile(new(state), &r.Facts, nil, now)
	good = &state{
		revision: s.revision, groups: s.groups, routes: s.routes, exit: s.exit, block: s.block, monitoring: s.monitoring,
		unreadable: s.unreadable, leftOut: make(map[model.PeerID]leftOut),
	}
	good.peers = accepted(s.peers, func(list []*peer) error {
		return try(nothing, everything, &state{peers: list})
	}, func(p *peer, err error) {
		good.leftOut[p.ID] = leftOut{p.Name, err}
		r.Log.Error("a peer is left out until it can be applied", "peer", p.ID, "name", p.Name, "err", err)
	})

	skip = good.orphans()
	alone := compile(&state{peers: good.peers}, &r.Facts, nil, now)
	accepted(enabledRoutes(good, skip), func(list []*model.Route) error {
		return try(alone, scope{dns: true, l4: true, proxy: true}, &state{peers: good.peers, routes: list, block: s.block})
	}, func(route *model.Route, err error) {
		skip[route.ID] = err
		r.Log.Error("a route is left out until it can be applied", "route", route.ID, "domain", route.Domain, "err", err)
	})
	return good, skip
}

// accepted returns the elements of list that try takes beside those before them,
// and tells refused of the others. Halving finds one among 10,000 in some 30
// tries.
func accepted[E any](list []E, try func([]E) error, refused func(E, error)) (good []E) {
	var walk func(part []E)
	walk = func(part []E) {
		if len(part) == 0 {
			return
		}
		err := try(slices.Concat(good, part))
		switch half := len(part) / 2; {
		case err == nil:
			good = append(good, part...)
		case half == 0:
			refused(part[0], err)
		default:
			walk(part[:half])
			walk(part[half:])
		}
	}
	walk(list)
	return good
}
