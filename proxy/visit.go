package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// visit is one request from its arrival until its answer has ended: what gates
// decide by, and what is told of it afterwards. The client's address and the time
// are taken once, here; nothing later reads them from anywhere else.
type visit struct {
	srv    *Server
	ctx    *fasthttp.RequestCtx // until the handler returns
	client client
	addr   netip.Addr // of the connection
	at     time.Time
	id     requestID
	route  *route // nil until one matched

	authorized bool // Authorization was for the proxy, so it goes no further

	// dry says that the request is only looked at, for Explain: nothing may be
	// counted. Gates then leave in note why they let it pass.
	dry  bool
	note string

	// goesOn says that the answer ends after the handler: what sends it calls end.
	goesOn  bool
	left    bool // the client went away before there was an answer
	record  model.AccessRecord
	text    []byte // what record's slices point into
	tracing *traceRing
	traced  *model.TraceEntry // of tracing
}

// visitKey is under which the visit of a context is kept.
type visitKey struct{}

// arrive begins the visit of the request in ctx.
func (s *Server) arrive(ctx *fasthttp.RequestCtx) *visit {
	v := s.visits.Get().(*visit)
	cl := ctx.Conn().(client)
	v.srv, v.ctx, v.client = s, ctx, cl
	v.addr, v.at, v.id = cl.Address(), time.Now(), newRequestID()
	ctx.SetUserValue(visitKey{}, v)
	return v
}

// leave ends what the handler did of the visit, and the visit itself unless its
// answer goes on.
func (v *visit) leave() {
	if v.goesOn {
		v.ctx = nil
		return
	}
	r := &v.ctx.Response
	v.record.Status = r.StatusCode()
	if !v.ctx.Request.Header.IsHead() {
		v.record.Size = int64(len(r.Body()))
	}
	if v.watched() {
		h := &v.ctx.Request.Header
		v.describe(h.Method(), h.Host(), h.RequestURI(), h.UserAgent())
	}
	v.ctx.RemoveUserValue(visitKey{})
	v.end()
}

// goOn is called when the answer is about to end after the handler; then end has
// to be called.
func (v *visit) goOn() {
	v.goesOn = true
	v.record.Status = v.ctx.Response.StatusCode()
	if !v.watched() {
		return
	}
	// The context may be gone by then.
	h := &v.ctx.Request.Header
	b := v.text[:0]
	for _, part := range [...][]byte{h.Method(), h.Host(), h.RequestURI(), h.UserAgent()} {
		b = append(b, part...)
	}
	v.text = b
	cut := func(n int) (part []byte) {
		part, b = b[:n:n], b[n:]
		return part
	}
	v.describe(cut(len(h.Method())), cut(len(h.Host())), cut(len(h.RequestURI())), cut(len(h.UserAgent())))
}

// watched reports whether anyone wants to know of the visit when it ends.
func (v *visit) watched() bool { return v.srv.opts.Observe != nil }

func (v *visit) describe(method, host, target, agent []byte) {
	r := &v.record
	r.Method, r.Host, r.URI, r.UserAgent = method, host, target, agent
	if needsRedaction(target) {
		n := len(v.text)
		v.text = appendRedacted(v.text, target)
		r.URI = v.text[n:]
	}
	r.Proto, r.TLS = v.client.Version().String(), v.client.Secure()
}

// end tells of the visit and gives it back.
func (v *visit) end() {
	r := &v.record
	if v.left {
		r.Status, r.Size = model.StatusClientLeft, 0
	}
	if v.watched() {
		r.ID, r.At, r.Duration, r.Remote = v.id, v.at, time.Since(v.at), v.addr
		if v.route != nil {
			r.Route = v.route.id
		}
		v.srv.opts.Observe(r)
	}
	if v.traced != nil {
		v.tracing.finish(v.traced, r)
	}
	s, text := v.srv, v.text
	if cap(text) > maxRequestLine {
		text = nil
	}
	*v = visit{text: text[:0]}
	s.visits.Put(v)
}

// requestID names a request for people: on pages, in logs and traces. It is
// random, and never taken from the request.
type requestID [16]byte

func newRequestID() (id requestID) {
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	return id
}

func (id requestID) String() string { return hex.EncodeToString(id[:]) }

// visitOf is the visit of the request in ctx, nil for one that did not get as far
// as the pipeline.
func visitOf(ctx *fasthttp.RequestCtx) *visit {
	v, _ := ctx.UserValue(visitKey{}).(*visit)
	return v
}

// requestIDOf is the id of the request in ctx.
func requestIDOf(ctx *fasthttp.RequestCtx) requestID {
	if v := visitOf(ctx); v != nil {
		return v.id
	}
	return newRequestID()
}
