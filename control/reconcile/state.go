package reconcile

import (
	"cmp"
	"fmt"
	"slices"

	"gatecontrol/model"
	"gatecontrol/store"
)

// state is intent, decoded. Its lists are in the order of ids. It is never
// written once it is the current one: a transaction gets lists of its own that
// share the records which it left alone, so that one change among 10,000 records
// costs a copy of pointers.
type state struct {
	revision   model.Revision
	peers      []*peer
	groups     []*model.Group
	routes     []*model.Route
	exit       []*store.Setting // of model.ExitKeys, those that are stored
	block      []*store.Setting // of model.BlockKeys
	monitoring []*store.Setting // of model.MonitoringKeys

	unreadable []error                  // why records are left out, at the last Apply
	leftOut    map[model.PeerID]leftOut // peers that no plane would take
}

// peer is a stored peer and its preshared key, unsealed once.
type peer struct {
	*model.Peer
	psk model.PrivateKey
}

func (p *peer) compare(id model.PeerID) int { return cmp.Compare(p.ID, id) }

func compareGroup(g *model.Group, id model.GroupID) int { return cmp.Compare(g.ID, id) }

func compareRoute(r *model.Route, id model.RouteID) int { return cmp.Compare(r.ID, id) }

// peer returns a peer, nil if there is none.
func (s *state) peer(id model.PeerID) *peer { return find(s.peers, id, (*peer).compare) }

// group returns a group, nil if there is none.
func (s *state) group(id model.GroupID) *model.Group { return find(s.groups, id, compareGroup) }

// switches reports whether a peer is isolated and whether it has no exit, by
// itself or by its group. A group that cannot be read may have said either.
func (s *state) switches(p *peer) (isolated, noExit bool) {
	if p.Group == 0 {
		return p.Isolated, p.NoExit
	}
	g := s.group(p.Group)
	return p.Isolated || g == nil || g.Isolated, p.NoExit || g == nil || g.NoExit
}

// route returns a route, nil if there is none.
func (s *state) route(id model.RouteID) *model.Route { return find(s.routes, id, compareRoute) }

func find[E, K any](list []*E, key K, compare func(*E, K) int) *E {
	if i, ok := slices.BinarySearchFunc(list, key, compare); ok {
		return list[i]
	}
	return nil
}

// replace puts e where key belongs, in place of what was there; nil takes that out.
func replace[E, K any](list []*E, key K, e *E, compare func(*E, K) int) []*E {
	i, found := slices.BinarySearchFunc(list, key, compare)
	switch {
	case found && e == nil:
		return slices.Delete(list, i, i+1)
	case found:
		list[i] = e
	case e != nil:
		return slices.Insert(list, i, e)
	}
	return list
}

// load reads everything. Records that cannot be read are left out; one of them
// must not keep the rest from serving.
func load(tx *store.Tx, sealer *store.Sealer) *state {
	s := &state{revision: tx.Revision()}
	for stored, err := range store.Peers.All(tx) {
		var p *peer
		if err == nil {
			p, err = open(stored, sealer)
		}
		if err != nil {
			s.unreadable = append(s.unreadable, err)
			continue
		}
		s.peers = append(s.peers, p)
	}
	for g, err := range store.Groups.All(tx) {
		if err != nil {
			s.unreadable = append(s.unreadable, err)
			continue
		}
		s.groups = append(s.groups, g)
	}
	for r, err := range store.Routes.All(tx) {
		if err != nil {
			s.unreadable = append(s.unreadable, err)
			continue
		}
		s.routes = append(s.routes, r)
	}
	var err error
	if s.exit, err = settings(tx, model.ExitKeys()); err != nil {
		s.unreadable = append(s.unreadable, err)
	}
	if s.block, err = settings(tx, model.BlockKeys()); err != nil {
		s.unreadable = append(s.unreadable, err)
	}
	if s.monitoring, err = settings(tx, model.MonitoringKeys()); err != nil {
		s.unreadable = append(s.unreadable, err)
	}
	return s
}

// settings reads those that are stored. One that cannot be read is empty, which
// says no.
func settings(tx *store.Tx, keys []string) (list []*store.Setting, err error) {
	for _, key := range keys {
		row, failed := store.Settings.Get(tx, key)
		if failed != nil {
			row, err = &store.Setting{Key: key}, failed
		}
		if row != nil {
			list = append(list, row)
		}
	}
	return list, err
}

func open(p *model.Peer, sealer *store.Sealer) (*peer, error) {
	psk, err := sealer.OpenKey(p.PresharedKey)
	if err != nil {
		return nil, fmt.Errorf("preshared key of peer %s (%d): %w", p.Name, p.ID, err)
	}
	return &peer{p, psk}, nil
}

// after returns the state that tx leads to from s, and what is different there.
// Routes in skip count as absent before: no plane has them.
func (s *state) after(tx *store.Tx, sealer *store.Sealer, skip map[model.RouteID]error) (*state, difference, error) {
	next := &state{tx.Revision(), slices.Clone(s.peers), slices.Clone(s.groups), slices.Clone(s.routes), s.exit, s.block, s.monitoring, s.unreadable, s.leftOut}
	var d difference
	var names map[model.PeerID]bool // found out at most once
	named := func(id model.PeerID) bool {
		if names == nil {
			names = s.named()
		}
		return names[id]
	}
	for _, c := range tx.Changes() {
		switch c.Table {
		case store.Peers.Name():
			id := store.Peers.Key(c.Key)
			var now *peer
			stored, err := store.Peers.Get(tx, id)
			if err == nil && stored != nil {
				now, err = open(stored, sealer)
			}
			if err != nil {
				return nil, d, err
			}
			d.addPeer(id, s.peer(id), now, named)
			next.peers = replace(next.peers, id, now, (*peer).compare)
			next.leftOut = without(next.leftOut, id)
		case store.Groups.Name():
			id := store.Groups.Key(c.Key)
			now, err := store.Groups.Get(tx, id)
			if err != nil {
				return nil, d, err
			}
			d.addGroup(id, s.group(id), now)
			next.groups = replace(next.groups, id, now, compareGroup)
		case store.Settings.Name():
			var err error
			switch key := store.Settings.Key(c.Key); {
			case slices.Contains(model.ExitKeys(), key):
				next.exit, err = settings(tx, model.ExitKeys())
				d.netstack = true
			case slices.Contains(model.BlockKeys(), key):
				next.block, err = settings(tx, model.BlockKeys())
				d.proxy = true
			case slices.Contains(model.MonitoringKeys(), key):
				next.monitoring, err = settings(tx, model.MonitoringKeys())
				d.monitor = true
			}
			if err != nil {
				return nil, d, err
			}
		case store.Routes.Name():
			id := store.Routes.Key(c.Key)
			now, err := store.Routes.Get(tx, id)
			if err != nil {
				return nil, d, err
			}
			was := s.route(id)
			if skip[id] != nil {
				was = nil
			}
			d.addRoute(id, was, now)
			next.routes = replace(next.routes, id, now, compareRoute)
		}
	}
	return next, d, next.check(d)
}

// check refuses what d makes dangle, whoever wrote it. A route that was left out
// because its peer cannot be read does not stand in the way of other changes, nor
// does a group that cannot be read in that of changes of its members.
func (s *state) check(d difference) error {
	for _, id := range d.routes {
		if r := s.route(id); r != nil && r.Enabled && s.orphaned(r) {
			return fmt.Errorf("route %d refers to %s, which does not exist", id, targetName(r))
		}
	}
	for _, id := range d.notGateways {
		if i := slices.IndexFunc(s.routes, func(r *model.Route) bool { return r.Target.Gateway != nil && r.LeadsTo(id) }); i >= 0 {
			return fmt.Errorf("route %d leads through peer %d, which would be no home gateway any more", s.routes[i].ID, id)
		}
	}
	for _, id := range d.gonePeers {
		if i := slices.IndexFunc(s.routes, func(r *model.Route) bool { return r.Names(id) }); i >= 0 {
			return fmt.Errorf("route %d refers to peer %d, which is being deleted", s.routes[i].ID, id)
		}
	}
	for _, p := range d.joined {
		if s.group(p.Group) == nil {
			return fmt.Errorf("peer %d refers to group %d, which does not exist", p.ID, p.Group)
		}
	}
	for _, id := range d.goneGroups {
		if i := slices.IndexFunc(s.peers, func(p *peer) bool { return p.Group == id }); i >= 0 {
			return fmt.Errorf("peer %d refers to group %d, which is being deleted", s.peers[i].ID, id)
		}
	}
	return nil
}

// named are the peers that options of routes name. The target does not count.
func (s *state) named() map[model.PeerID]bool {
	ids := make(map[model.PeerID]bool)
	for _, r := range s.routes {
		if r.Web != nil {
			for _, id := range r.Peers() {
				ids[id] = true
			}
		}
	}
	return ids
}

// orphaned reports whether r leads to a peer that is not there, or through what is
// no home gateway.
func (s *state) orphaned(r *model.Route) bool {
	if g := r.Target.Gateway; g != nil {
		p := s.peer(g.Peer)
		return p == nil || p.Type != model.PeerGateway
	}
	return r.Target.Peer != 0 && s.peer(r.Target.Peer) == nil
}

// targetName is the peer that r leads to, or the home gateway.
func targetName(r *model.Route) string {
	if g := r.Target.Gateway; g != nil {
		return fmt.Sprintf("home gateway %d", g.Peer)
	}
	return fmt.Sprintf("peer %d", r.Target.Peer)
}
