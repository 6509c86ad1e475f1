package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// pathRule is a Path as requests meet it.
type pathRule struct {
	prefix   string
	strip    bool
	upstream *upstream // nil: where the route leads
	redirect string    // what the query is appended to
	fragment string    // of the redirect, behind the query
	status   int
}

// paths compiles the paths of r, the longest prefix first.
func (s *Server) paths(snap, prev *snapshot, r *route) ([]pathRule, error) {
	in := r.options.Paths
	if len(in) > model.MaxPaths {
		return nil, model.Invalid("paths", "more than %d", model.MaxPaths)
	}
	var rules []pathRule
	for i, p := range in {
		field := fmt.Sprintf("paths[%d]", i)
		if !isPrefix(p.Prefix) {
			return nil, model.Invalid(field+".prefix", "%q is not a path without a slash at its end", p.Prefix)
		}
		for _, other := range rules {
			if other.prefix == p.Prefix {
				return nil, model.Conflict(field+".prefix", "%q is there twice", p.Prefix)
			}
		}
		rule := pathRule{prefix: p.Prefix, strip: p.Strip && p.Prefix != "/"}
		switch {
		case p.Redirect != "":
			if !isLocation(p.Redirect) || p.Target != nil {
				return nil, model.Invalid(field+".redirect", "not an absolute URL or path")
			}
			if !slices.Contains([]int{301, 302, 307, 308}, p.Status) {
				return nil, model.Invalid(field+".status", "not 301, 302, 307 or 308")
			}
			at := strings.IndexByte(p.Redirect+"#", '#')
			rule.redirect, rule.fragment, rule.status = p.Redirect[:at], p.Redirect[at:], p.Status
		case p.Target != nil:
			if err := checkTarget(field+".target", r.host, *p.Target); err != nil {
				return nil, err
			}
			up := s.upstream(snap, prev, r, *p.Target)
			rule.upstream = &up
		}
		rules = append(rules, rule)
	}
	slices.SortFunc(rules, func(a, b pathRule) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return rules, nil
}

// isPrefix takes "/" and paths of whole segments, as clients send them.
func isPrefix(p string) bool {
	return len(p) <= maxRequestLine && strings.HasPrefix(p, "/") && validTarget([]byte(p)) && !strings.Contains(p, "?") &&
		(p == "/" || !strings.HasSuffix(p, "/"))
}

// isLocation takes what a browser cannot read as anything but what it looks like.
func isLocation(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return false
		}
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxRequestLine {
		return false
	}
	if strings.HasPrefix(text, "/") {
		return !strings.HasPrefix(text, "//")
	}
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// path is the rule for a raw target, nil if there is none. A prefix ends where a
// segment does.
func (r *route) path(target []byte) *pathRule {
	if len(r.paths) == 0 || target[0] != '/' {
		return nil
	}
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		target = target[:i]
	}
	for i := range r.paths {
		p := &r.paths[i]
		n := len(p.prefix)
		if n <= len(target) && string(target[:n]) == p.prefix && (n == 1 || n == len(target) || target[n] == '/') {
			return p
		}
	}
	return nil
}

// redirect leads a client to what was configured, with the query of the request.
// Nothing else of it is in the answer.
func (s *Server) redirect(ctx *fasthttp.RequestCtx, p *pathRule) {
	location := append(append(make([]byte, 0, 256), "Location: "...), p.redirect...)
	if _, query, ok := bytes.Cut(ctx.Request.Header.RequestURI(), []byte{'?'}); ok {
		if strings.Contains(p.redirect, "?") {
			location = append(location, '&')
		} else {
			location = append(location, '?')
		}
		location = append(location, query...)
	}
	location = append(append(location, p.fragment...), "\r\n"...)
	s.reply(ctx, p.status, ownFields+string(location), nil)
}

// appendTarget writes the target byte for byte, without a prefix that is taken off.
func (q *request) appendTarget(b, target []byte) []byte {
	if q.strip == 0 {
		return append(b, target...)
	}
	if target = target[q.strip:]; len(target) == 0 || target[0] != '/' {
		b = append(b, '/')
	}
	return append(b, target...)
}
