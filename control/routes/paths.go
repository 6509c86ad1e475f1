package routes

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"gatecontrol/model"
)

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
func (in *PathInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Upstreams) applyPaths(w *model.Web, r *model.Route, known roster, bad *model.Invalids) {
	if in.Paths.Set {
		w.Paths = nil
		if len(in.Paths.Value) > model.MaxPaths {
			bad.Add("paths", "must be at most %d", model.MaxPaths)
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
