package model

import "slices"

// Peers lists every peer that r names, each once: as its target or the home
// gateway before that, a backend, a mirror or the target of a path, or in its ACL.
func (r *Route) Peers() []PeerID {
	var list []PeerID
	add := func(id PeerID) {
		if id != 0 {
			list = append(list, id)
		}
	}
	add(r.Target.Peer)
	if g := r.Target.Gateway; g != nil {
		add(g.Peer)
	}
	if w := r.Web; w != nil {
		for _, b := range w.Backends {
			add(b.Peer)
		}
		for _, m := range w.Mirror.Targets {
			add(m.Peer)
		}
		for _, p := range w.Paths {
			add(p.Peer)
		}
		list = append(list, w.ACL.Peers...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Names reports whether r names the peer. It makes no garbage.
func (r *Route) Names(id PeerID) bool {
	if r.LeadsTo(id) {
		return true
	}
	w := r.Web
	return w != nil && (slices.Contains(w.ACL.Peers, id) ||
		slices.ContainsFunc(w.Backends, func(b Backend) bool { return b.Peer == id }) ||
		slices.ContainsFunc(w.Mirror.Targets, func(m MirrorTarget) bool { return m.Peer == id }) ||
		slices.ContainsFunc(w.Paths, func(p Path) bool { return p.Peer == id }))
}

// LeadsTo reports whether the target of r is the peer, or behind it.
func (r *Route) LeadsTo(id PeerID) bool {
	return r.Target.Peer == id || r.Target.Gateway != nil && r.Target.Gateway.Peer == id
}

// Forget takes a peer out of the options of r, and reports whether that leaves a
// path without its target: requests for it must not go elsewhere. An ACL stays,
// if with nobody in it.
func (r *Route) Forget(id PeerID) (lostPath bool) {
	if r.Web == nil || !r.Names(id) {
		return false
	}
	w := *r.Web
	w.ACL.Peers = slices.DeleteFunc(slices.Clone(w.ACL.Peers), func(p PeerID) bool { return p == id })
	w.Backends = slices.DeleteFunc(slices.Clone(w.Backends), func(b Backend) bool { return b.Peer == id })
	if n := len(w.Mirror.Targets); n > 0 {
		w.Mirror.Targets = slices.DeleteFunc(slices.Clone(w.Mirror.Targets), func(m MirrorTarget) bool { return m.Peer == id })
		w.Mirror.Enabled = w.Mirror.Enabled && len(w.Mirror.Targets) > 0
	}
	n := len(w.Paths)
	w.Paths = slices.DeleteFunc(slices.Clone(w.Paths), func(p Path) bool { return p.Peer == id })
	r.Web = &w
	return len(w.Paths) < n
}
