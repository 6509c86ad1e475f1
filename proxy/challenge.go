package proxy

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// challengePath is where authorities ask whether a name is ours.
const challengePath = "/.well-known/acme-challenge/"

// answerChallenge answers an authority that asks for the token of a running
// order, before any gate and for any host (RFC 8555, section 8.3). It reports
// false for everything else, which is the route's own matter: a backend may hold
// certificates, too.
func (s *Server) answerChallenge(ctx *fasthttp.RequestCtx) bool {
	token, ok := bytes.CutPrefix(ctx.Request.Header.RequestURI(), []byte(challengePath))
	if !ok || s.opts.Challenge == nil || !ctx.IsGet() {
		return false
	}
	var buf [model.MaxHostname]byte
	host, ok := model.AppendHost(buf[:0], ctx.Request.Header.Host())
	if !ok {
		return false
	}
	answer, ok := s.opts.Challenge(string(host), string(token))
	if ok {
		s.reply(ctx, fasthttp.StatusOK, "Content-Type: application/octet-stream\r\nCache-Control: no-store\r\n", []byte(answer))
	}
	return ok
}
