package proxy

import (
	"net/netip"
	"strconv"
	"sync/atomic"

	"github.com/valyala/fasthttp"
)

// handle is the HTTP/1.1 door of the pipeline.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	c := ctx.Conn().(*conn)
	c.attach(ctx)
	s.serve(ctx, s.snapshot.Load())
	// While an answer streams, the body may still be read: nextHead decides then.
	streams := ctx.Response.IsBodyStream() || ctx.Hijacked()
	if s.draining.Load() || !streams && !c.keeps() {
		ctx.SetConnectionClose()
	}
}

// pipeline is what may stand between a request and its backend, in this order:
// what tells outsiders least comes first, what costs most comes late, and what
// counts comes after what refuses. Only what is on for a route becomes one of its
// gates, so a route without options has none to pass.
var pipeline = []struct {
	name    string                     // for logs and explanations
	compile func(*draft) (gate, error) // nil: off
}{
	{"force_https", newHTTPSGate},
	{"access_window", newWindowGate},
	{"client_certificate", newCertificateGate},
	{"external", newInsideGate},
	{"peer_acl", newACLGate},
	{"circuit_breaker", newBreakerGate},
	{"bot_blocker", newBotGate},
	{"trace", newTraceGate},
	{"ip_filter", newIPFilter},
	{"basic_auth", newBasicAuth},
	{"rate_limit", newRateLimit},
}

// gates compiles the steps of a route that are on.
func (d *draft) gates() ([]namedGate, error) {
	if d.in.Options == noOptions && !d.in.ForceHTTPS {
		return nil, nil
	}
	var list []namedGate
	for i, step := range pipeline {
		g, err := step.compile(d)
		if err != nil {
			return nil, err
		}
		if g != nil {
			list = append(list, namedGate{g, step.name, &d.srv.refused[i]})
		}
	}
	return list, nil
}

type namedGate struct {
	gate
	name    string
	refused *atomic.Int64 // requests, of all routes
}

// serve is the pipeline: one request of any HTTP version, on one snapshot, from
// its gates to its answer. ctx.Conn() is a client; the body stream, if there is
// one, a requestBody.
func (s *Server) serve(ctx *fasthttp.RequestCtx, snap *snapshot) {
	v := s.arrive(ctx)
	defer v.leave()
	defer v.survive("request", func() {
		s.page(ctx, fasthttp.StatusInternalServerError, nil)
		ctx.SetConnectionClose()
	})
	if !v.client.Secure() && s.answerChallenge(ctx) {
		return
	}
	m := snap.match(ctx.Request.Header.Host(), v.client.ServerName())
	switch {
	case m.other:
		s.page(ctx, fasthttp.StatusMisdirectedRequest, nil)
		return
	case m.route == nil:
		s.page(ctx, fasthttp.StatusNotFound, nil)
		return
	}
	v.route = m.route
	for _, g := range v.route.gates {
		if d := g.check(v); d != nil {
			v.record.Refused, v.record.Reason = g.name, d.reason
			g.refused.Add(1)
			d.answer(v, d)
			return
		}
	}
	s.forward(ctx, v.client, snap, v.route)
}

// redirectToHTTPS keeps method, path and query. The host is the stored one, so
// that nothing of the request decides where the browser goes.
func (s *Server) redirectToHTTPS(ctx *fasthttp.RequestCtx, r *route) {
	loc := append(make([]byte, 0, 256), "https://"...)
	if addr, err := netip.ParseAddr(r.host); err == nil && addr.Is6() {
		loc = append(append(append(loc, '['), r.host...), ']')
	} else {
		loc = append(loc, r.host...)
	}
	if p := s.opts.HTTPSPort; p != 0 && p != 443 {
		loc = strconv.AppendUint(append(loc, ':'), uint64(p), 10)
	}
	if target := ctx.Request.Header.RequestURI(); target[0] == '/' {
		loc = append(loc, target...)
	} else {
		loc = append(loc, '/')
	}
	s.reply(ctx, fasthttp.StatusPermanentRedirect, ownFields+"Location: "+string(loc)+"\r\n", nil)
}

// parserFailed answers what fasthttp's parser refuses after our checks passed.
func (s *Server) parserFailed(ctx *fasthttp.RequestCtx, _ error) {
	s.page(ctx, fasthttp.StatusBadRequest, nil)
	ctx.SetConnectionClose()
}
