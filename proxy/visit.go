package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"
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
}

// visitKey is under which the visit of a context is kept.
type visitKey struct{}

// arrive begins the visit of the request in ctx.
func (s *Server) arrive(ctx *fasthttp.RequestCtx) *visit {
	v := s.visits.Get().(*visit)
	cl := ctx.Conn().(client)
	*v = visit{srv: s, ctx: ctx, client: cl, addr: cl.Address(), at: time.Now(), id: newRequestID()}
	ctx.SetUserValue(visitKey{}, v)
	return v
}

// leave ends the visit once the answer is complete.
func (v *visit) leave() {
	v.ctx.RemoveUserValue(visitKey{})
	*v = visit{srv: v.srv}
	v.srv.visits.Put(v)
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
