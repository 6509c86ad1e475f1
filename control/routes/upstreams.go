package routes

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"gatecontrol/model"
)

// Upstreams say where requests go besides the target.
type Upstreams struct {
	Backends model.Column[model.List[BackendInput]] `json:"backends" doc:"Instead of the target, at most 20"`

	StickyEnabled model.Field[bool]   `json:"sticky_enabled"`
	StickyCookie  model.Field[string] `json:"sticky_cookie_name"`
	StickyTTL     model.Field[int64]  `json:"sticky_cookie_ttl" doc:"Seconds"`

	MirrorEnabled model.Field[bool]                     `json:"mirror_enabled"`
	MirrorTargets model.Column[model.List[MirrorInput]] `json:"mirror_targets" doc:"At most 5"`
	Paths         model.Column[model.List[PathInput]]   `json:"paths" doc:"Prefixes that lead elsewhere, at most 50"`
}

// BackendInput is one element of backends.
type BackendInput struct {
	Peer   model.Field[int64] `json:"peer_id"`
	Port   model.Field[int64] `json:"port"`
	Weight model.Field[int64] `json:"weight" doc:"1 to 1000; null is 1"`
}

// MirrorInput is one element of mirror_targets.
type MirrorInput struct {
	Peer model.Field[int64] `json:"peer_id"`
	Port model.Field[int64] `json:"port"`
}

// UnmarshalJSON reads an object.
func (in *BackendInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// UnmarshalJSON reads an object.
func (in *MirrorInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Upstreams) apply(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	in.applyBackends(w, known, bad)
	in.applySticky(&w.Sticky, bad)
	in.applyPaths(w, r, known, bad)
	in.applyMirror(w, r, known, bad)
}

func (in *Upstreams) applyBackends(w *model.Web, known roster, bad *model.Invalids) {
	if !in.Backends.Set {
		return
	}
	w.Backends = nil
	if len(in.Backends.Value) > model.MaxBackends {
		bad.Add("backends", "must be at most %d", model.MaxBackends)
		return
	}
	for i, e := range in.Backends.Value {
		field := fmt.Sprintf("backends[%d]", i)
		b := model.Backend{Peer: model.PeerID(e.Peer.Value), Weight: 1}
		b.Port = known.target(e.Peer, e.Port, field, bad)
		number(&b.Weight, e.Weight, field, 1, model.MaxWeight, bad)
		if slices.ContainsFunc(w.Backends, func(o model.Backend) bool { return o.Peer == b.Peer && o.Port == b.Port }) {
			bad.Add(field, "is there twice")
		}
		w.Backends = append(w.Backends, b)
	}
}

// target reads a peer and a port of one element of a list.
func (known roster) target(peer, port model.Field[int64], field string, bad *model.Invalids) uint16 {
	switch {
	case peer.Value == 0:
		bad.Add(field, "needs a peer_id")
	case !known[model.PeerID(peer.Value)]:
		bad.Add(field, "there is no peer %d", peer.Value)
	}
	p, ok := portOf(port)
	if !ok {
		bad.Add(field, "port must be 1 to 65535")
	}
	return p
}

// stickyName is what a name of a cookie may be; another one is not used.
var stickyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// maxStickyTTL is as long as browsers keep a cookie.
const maxStickyTTL = 400 * 24 * 3600

func (in *Upstreams) applySticky(s *model.Sticky, bad *model.Invalids) {
	set(&s.Enabled, in.StickyEnabled)
	if in.StickyCookie.Set && !in.StickyCookie.Null {
		if s.Cookie = in.StickyCookie.Value; !stickyName.MatchString(s.Cookie) {
			s.Cookie = model.DefaultWeb().Sticky.Cookie
		}
	}
	seconds := int(s.TTL / time.Second)
	number(&seconds, in.StickyTTL, "sticky_cookie_ttl", 1, maxStickyTTL, bad)
	s.TTL = time.Duration(seconds) * time.Second
}

func (in *Upstreams) applyMirror(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	m := &w.Mirror
	set(&m.Enabled, in.MirrorEnabled)
	if in.MirrorTargets.Set {
		m.Targets = nil
		if len(in.MirrorTargets.Value) > model.MaxMirrors {
			bad.Add("mirror_targets", "must be at most %d", model.MaxMirrors)
			return
		}
		for i, e := range in.MirrorTargets.Value {
			t := model.MirrorTarget{Peer: model.PeerID(e.Peer.Value)}
			t.Port = known.target(e.Peer, e.Port, fmt.Sprintf("mirror_targets[%d]", i), bad)
			m.Targets = append(m.Targets, t)
		}
	}
	if !m.Enabled {
		return
	}
	if len(m.Targets) == 0 {
		bad.Add("mirror_targets", "must have at least one")
	}
	for i, t := range m.Targets {
		field := fmt.Sprintf("mirror_targets[%d]", i)
		if slices.Contains(m.Targets[:i], t) {
			bad.Add(field, "is there twice")
		}
		if goesTo(w, r, t) {
			bad.Add(field, "is where the requests go anyway")
		}
	}
}

// goesTo reports whether requests of r may go to a peer's port by themselves.
func goesTo(w *model.Web, r *model.Route, t model.MirrorTarget) bool {
	return t.Peer == r.Target.Peer && t.Port == r.Target.Port ||
		slices.ContainsFunc(w.Backends, func(b model.Backend) bool { return b.Peer == t.Peer && b.Port == t.Port }) ||
		slices.ContainsFunc(w.Paths, func(p model.Path) bool {
			return p.Port == t.Port && (p.Peer == t.Peer || p.Peer == 0 && r.Target.Peer == t.Peer)
		})
}
