package reconcile

import (
	"fmt"
	"maps"

	"gatecontrol/model"
	"gatecontrol/store"
)

// state is intent, decoded. It is never written once it is the current one: a
// transaction gets a copy whose maps share the records that it left alone, so
// that one change among 10,000 records costs a copy of pointers.
type state struct {
	revision model.Revision
	peers    map[model.PeerID]*peer
	routes   map[model.RouteID]*model.Route
}

// peer is a stored peer and its preshared key, unsealed once.
type peer struct {
	*model.Peer
	psk model.PrivateKey
}

// load reads everything. Records that cannot be read are left out and returned
// as errors; one of them must not keep the rest from serving.
func load(tx *store.Tx, sealer *store.Sealer) (s *state, unreadable []error) {
	s = &state{
		revision: tx.Revision(),
		peers:    make(map[model.PeerID]*peer),
		routes:   make(map[model.RouteID]*model.Route),
	}
	for p, err := range store.Peers.All(tx) {
		if err == nil {
			err = s.addPeer(p, sealer)
		}
		if err != nil {
			unreadable = append(unreadable, err)
		}
	}
	for r, err := range store.Routes.All(tx) {
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		s.routes[r.ID] = r
	}
	return s, unreadable
}

// after returns the state that tx leads to from s, and the routes that it
// touched.
func (s *state) after(tx *store.Tx, sealer *store.Sealer) (next *state, touched []model.RouteID, err error) {
	next = &state{revision: tx.Revision(), peers: maps.Clone(s.peers), routes: maps.Clone(s.routes)}
	for _, c := range tx.Changes() {
		switch c.Table {
		case store.Peers.Name():
			id := store.Peers.Key(c.Key)
			delete(next.peers, id)
			p, err := store.Peers.Get(tx, id)
			if err == nil && p != nil {
				err = next.addPeer(p, sealer)
			}
			if err != nil {
				return nil, nil, err
			}
		case store.Routes.Name():
			id := store.Routes.Key(c.Key)
			touched = append(touched, id)
			delete(next.routes, id)
			r, err := store.Routes.Get(tx, id)
			if err != nil {
				return nil, nil, err
			}
			if r != nil {
				next.routes[id] = r
			}
		}
	}
	return next, touched, next.check()
}

func (s *state) addPeer(p *model.Peer, sealer *store.Sealer) error {
	psk, err := sealer.OpenKey(p.PresharedKey)
	if err != nil {
		return fmt.Errorf("preshared key of peer %s (%d): %w", p.Name, p.ID, err)
	}
	s.peers[p.ID] = &peer{p, psk}
	return nil
}

// check refuses a state whose references dangle, whoever wrote it.
func (s *state) check() error {
	for id, r := range s.routes {
		if ref := r.Target.Peer; ref != 0 && s.peers[ref] == nil {
			return fmt.Errorf("route %d refers to peer %d, which does not exist", id, ref)
		}
	}
	return nil
}
