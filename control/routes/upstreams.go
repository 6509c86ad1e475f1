package routes

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
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

// PathInput is one element of paths.
type PathInput struct {
	Prefix   model.Field[string] `json:"prefix" doc:"Segments of the path, each after a slash"`
	Strip    model.Field[bool]   `json:"strip" doc:"The prefix is taken off"`
	Peer     model.Field[int64]  `json:"peer_id" doc:"null is where the route leads"`
	Port     model.Field[int64]  `json:"port"`
	Redirect model.Field[string] `json:"redirect" doc:"URL or path, instead of a port"`
	Status   model.Field[int64]  `json:"status" doc:"Of the redirect: 301, 302, 307 or 308; null is 302"`
}

// UnmarshalJSON reads an object.
func (in *BackendInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// UnmarshalJSON reads an object.
func (in *MirrorInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// UnmarshalJSON reads an object.
func (in *PathInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Upstreams) apply(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	in.applyBackends(w, known, bad)
	in.applySticky(&w.Sticky, bad)
	in.applyPaths(w, r, known, bad)
	in.applyMirror(w, r, known, bad)
}

// Bounds of lists. Each backend and path has a pool of connections; each mirror
// doubles what a route sends.
const (
	maxBackends = 20
	maxMirrors  = 5
	maxPaths    = 50
	maxWeight   = 1000
)

func (in *Upstreams) applyBackends(w *model.Web, known roster, bad *model.Invalids) {
	if !in.Backends.Set {
		return
	}
	w.Backends = nil
	if len(in.Backends.Value) > maxBackends {
		bad.Add("backends", "must be at most %d", maxBackends)
		return
	}
	for i, e := range in.Backends.Value {
		field := fmt.Sprintf("backends[%d]", i)
		b := model.Backend{Peer: model.PeerID(e.Peer.Value), Weight: 1}
		b.Port = known.target(e.Peer, e.Port, field, bad)
		number(&b.Weight, e.Weight, field, 1, maxWeight, bad)
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
		if len(in.MirrorTargets.Value) > maxMirrors {
			bad.Add("mirror_targets", "must be at most %d", maxMirrors)
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

func (in *Upstreams) applyPaths(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	if in.Paths.Set {
		w.Paths = nil
		if len(in.Paths.Value) > maxPaths {
			bad.Add("paths", "must be at most %d", maxPaths)
			return
		}
		for i, e := range in.Paths.Value {
			p, err := e.path(known)
			if err != nil {
				bad.Add(fmt.Sprintf("paths[%d]", i), "%s", err)
			}
			w.Paths = append(w.Paths, p)
		}
	}
	for i, p := range w.Paths {
		field := fmt.Sprintf("paths[%d]", i)
		if slices.ContainsFunc(w.Paths[:i], func(o model.Path) bool { return o.Prefix == p.Prefix }) {
			bad.Add(field, "the prefix is there twice")
		}
		if p.Redirect != "" && redirectsBelow(p, r.Domain) {
			bad.Add(field, "the redirect must not lead back below its prefix")
		}
	}
}

// path reads an element. Its error is for people.
func (in *PathInput) path(known roster) (p model.Path, err error) {
	p = model.Path{Strip: in.Strip.Value, Peer: model.PeerID(in.Peer.Value), Redirect: strings.TrimSpace(in.Redirect.Value)}
	if p.Prefix, err = pathPrefix(in.Prefix.Value); err != nil {
		return p, err
	}
	if p.Redirect == "" {
		var ok bool
		switch p.Port, ok = portOf(in.Port); {
		case !ok:
			return p, fmt.Errorf("needs a port of 1 to 65535, or a redirect")
		case p.Peer != 0 && !known[p.Peer]:
			return p, fmt.Errorf("there is no peer %d", p.Peer)
		case in.Status.Value != 0:
			return p, fmt.Errorf("a status is for a redirect")
		}
		return p, nil
	}
	p.Status = int(in.Status.Or(302))
	switch {
	case p.Peer != 0 || in.Port.Value != 0:
		return p, fmt.Errorf("leads to a port or to a redirect, not both")
	case !slices.Contains([]int{301, 302, 307, 308}, p.Status):
		return p, fmt.Errorf("status must be 301, 302, 307 or 308")
	case strings.HasPrefix(p.Redirect, "/"):
		return p, checkOwnPath(p.Redirect)
	}
	_, err = model.ParseRedirect(p.Redirect)
	return p, err
}

// maxPrefix bounds a prefix; each request is held against all of a route.
const maxPrefix = 512

// pathPrefix reads a prefix, without the slash at its end. It is compared with
// the path as it arrives, so it must not have a second spelling: no empty segment,
// no dots, no escapes of what needs none.
func pathPrefix(s string) (string, error) {
	bad := fmt.Errorf("prefix must be a path such as /app")
	s = strings.TrimSpace(s)
	if len(s) > maxPrefix || !strings.HasPrefix(s, "/") {
		return "", bad
	}
	if s = strings.TrimSuffix(s, "/"); s == "" {
		return "/", nil
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || segment == "" || plain == "." || plain == ".." || plain != segment && url.PathEscape(plain) != segment ||
			strings.ContainsFunc(segment, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`?#\"<>`, c) }) {
			return "", bad
		}
	}
	if s == ownPrefix || strings.HasPrefix(s, ownPrefix+"/") {
		return "", fmt.Errorf("%s belongs to the server itself", ownPrefix)
	}
	return s, nil
}

// ownPrefix is where the sign-in pages of routes are.
const ownPrefix = "/route-auth"

// checkOwnPath refuses what browsers would take for another host.
func checkOwnPath(s string) error {
	if len(s) > maxPrefix || len(s) > 1 && (s[1] == '/' || s[1] == '\\') ||
		strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' }) {
		return fmt.Errorf("redirect must be a URL or a path such as /app")
	}
	return nil
}

// redirectsBelow reports whether a browser that follows the redirect of p meets
// it again.
func redirectsBelow(p model.Path, domain string) bool {
	target := p.Redirect
	if !strings.HasPrefix(target, "/") {
		if !model.LeadsTo(target, domain) {
			return false
		}
		u, err := url.Parse(target)
		if err != nil {
			return true
		}
		target = u.EscapedPath()
	}
	target, _, _ = strings.Cut(target, "?")
	target, _, _ = strings.Cut(target, "#")
	return p.Prefix == "/" || target == p.Prefix || strings.HasPrefix(target, p.Prefix+"/")
}
