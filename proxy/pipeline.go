package proxy

import (
	"net/netip"
	"strconv"

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

// serve is the pipeline: one request of any HTTP version, on one snapshot, from
// its gates to its answer. ctx.Conn() is a client; the body stream, if there is
// one, a requestBody.
func (s *Server) serve(ctx *fasthttp.RequestCtx, snap *snapshot) {
	defer s.survive("request", func() {
		s.page(ctx, fasthttp.StatusInternalServerError, nil)
		ctx.SetConnectionClose()
	})
	cl := ctx.Conn().(client)
	if !cl.Secure() && s.answerChallenge(ctx) {
		return
	}
	m := snap.match(ctx.Request.Header.Host(), cl.ServerName())
	switch {
	case m.other:
		s.page(ctx, fasthttp.StatusMisdirectedRequest, nil)
	case m.route == nil:
		s.page(ctx, fasthttp.StatusNotFound, nil)
	case m.route.forceHTTPS && !cl.Secure():
		s.redirectToHTTPS(ctx, m.route)
	case m.route.clientAuth != nil && !m.route.clientAuth.passed(cl):
		s.page(ctx, fasthttp.StatusMisdirectedRequest, nil)
		ctx.SetConnectionClose()
	default:
		s.forward(ctx, cl, snap, m.route)
	}
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
	s.reply(ctx, fasthttp.StatusPermanentRedirect, "Location: "+string(loc)+"\r\n", nil)
}

// parserFailed answers what fasthttp's parser refuses after our checks passed.
func parserFailed(ctx *fasthttp.RequestCtx, _ error) {
	ctx.SetStatusCode(fasthttp.StatusBadRequest)
	ctx.SetConnectionClose()
}
