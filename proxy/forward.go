package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// piece is the buffer of one direction of one exchange.
type piece [pieceSize]byte

// exchange is one request on its way to one backend, and the answer on its way
// back. The handler's goroutine owns it; after the handler it lives on as the
// body stream of the answer, until fasthttp closes that.
type exchange struct {
	srv    *Server
	visit  *visit
	client client
	route  *route
	path   *pathRule // of route, for this request; mostly nil
	up     *upstream // where the current attempt goes
	bc     *backendConn

	request request
	answer  answer
	out     []byte // the head of the request, later that of the answer
	heads   headReader
	header  *fasthttp.ResponseHeader // of the answer that streams, for its trailers

	body      requestBody // nil without
	uploading bool        // upload was started and not yet awaited
	uploaded  chan struct{}
	uploadErr error       // set before uploaded is closed
	stopping  atomic.Bool // upload is asked to end
	watching  bool
	left      atomic.Bool // the client has gone away
	// ownsClient says that the client's connection is that of one client.
	ownsClient bool
	direct     bool // the answer has its length and goes to the client as it is

	tried   uint32       // backends of the route that were chosen
	mark    string       // for a new sticky cookie
	interim int          // 1xx of all attempts
	copy    *requestCopy // for mirrors, until the body is complete; mostly nil
	encoder *encoder     // the answer goes through it; nil if it goes as it is
	kept    spool        // the beginning of the body, where it may have to be sent again
	held    bool         // all of the body is in out or kept
}

var errPanic = errors.New("panic")

func newExchange(s *Server) *exchange { return &exchange{srv: s} }

// release gives the exchange back. Its buffers stay with it.
func (ex *exchange) release() {
	ex.giveBack()
	ex.visit, ex.client, ex.route, ex.path, ex.up, ex.bc, ex.header = nil, nil, nil, nil, nil, nil, nil
	ex.body, ex.uploading, ex.uploaded, ex.uploadErr = nil, false, nil, nil
	ex.watching, ex.direct, ex.held = false, false, false
	ex.tried, ex.mark, ex.interim = 0, "", 0
	ex.stopping.Store(false)
	ex.left.Store(false)
	if cap(ex.out) > maxInlineBody+firstBuffer {
		ex.out = nil
	}
	ex.srv.exchanges.Put(ex)
}

// giveBack returns what is taken from a bounded store.
func (ex *exchange) giveBack() {
	if len(ex.kept.pieces) > 0 {
		ex.kept.release(&ex.srv.pieces, ex.keeps())
	}
	if ex.encoder != nil {
		ex.encoder.release(ex.srv)
		ex.encoder = nil
	}
	if ex.copy != nil {
		ex.copy.abandon()
		ex.copy = nil
	}
}

// forward sends a request to the target of its route and makes its answer that
// of the context.
func (s *Server) forward(ctx *fasthttp.RequestCtx, cl client, snap *snapshot, r *route) {
	path := r.path(ctx.Request.Header.RequestURI())
	if path != nil && path.redirect != "" {
		s.redirect(ctx, path)
		return
	}
	ex := s.exchanges.Get().(*exchange)
	ex.visit, ex.client, ex.route, ex.path = visitOf(ctx), cl, r, path
	settled := false
	defer func() {
		if !settled { // a panic, which must not leave anything open
			ex.drop()
			ex.giveBack()
		}
	}()
	if ctx.Request.IsBodyStream() {
		ex.body, _ = ctx.Request.BodyStream().(requestBody)
	}
	ex.request.read(ctx)
	ex.ownsClient = !ex.request.bound || !snap.trusts(cl.Address())
	if path != nil && path.strip {
		ex.request.strip = len(path.prefix)
	}
	ex.choose()
	ex.out = ex.request.appendHead(ex.out[:0], ctx, cl, r, ex.up, snap)
	if len(r.mirrors) > 0 && ex.request.upgrade == nil {
		ex.copyRequest(ctx, snap)
	}
	err := ex.ask(ctx.Request.Header.IsHead())
	ex.visit.record.Upstream = ex.up.target.Addr
	if err == nil {
		ex.letGo()
		if err = ex.relay(ctx); err != nil {
			ex.drop()
		}
	}
	settled = true
	if err != nil {
		ex.fail(ctx, err)
		ex.release()
	}
}

// attempt sends the request and reads the head of the final answer. A kept
// connection that turns out to be dead before it has answered anything is replaced
// once, if the request may be sent twice.
func (ex *exchange) attempt(head bool) error {
	q := &ex.request
	if ex.srv.spared(ex.up) {
		return errGatewayAway
	}
	// What could not be connected to has to prove that it can.
	for fresh := q.upgrade != nil || ex.up.pool.rest.Load() != 0; ; fresh = true {
		var bc *backendConn
		var err error
		if ex.client.Kept() == ex.up.pool {
			bc = ex.client.TakeKept()
		}
		switch {
		case bc != nil:
		case q.grpc && !ex.route.admin && ex.up.target.Behind == "": // home gateways speak HTTP/1.1
			bc, err = ex.up.pool.getGRPC()
		default:
			bc, err = ex.up.pool.get(fresh, !q.replayable)
		}
		if err != nil {
			return err
		}
		ex.bc, bc.ex = bc, ex
		interim := ex.interim
		if err = ex.send(); err == nil || ex.body != nil && !ex.left.Load() {
			// A backend may answer a request that it does not want to read.
			if err = ex.receive(head); err == nil {
				if q.grpc {
					ex.up.pool.rest.Store(0) // all go over the one connection
				}
				return nil
			}
		}
		silent := len(bc.in.buffered()) == 0 && ex.interim == interim
		again := bc.reused && q.replayable && silent && !ex.left.Load() && !errors.Is(err, errAnswer)
		ex.drop()
		if !again {
			return err
		}
	}
}

// receive reads the head of the final answer, and passes interim ones on.
func (ex *exchange) receive(head bool) error {
	in := &ex.bc.in
	for {
		n, err := readAnswerHead(in)
		if err != nil {
			return err
		}
		if err := ex.answer.parse(in.buffered()[:n], head); err != nil {
			return err
		}
		in.discard(n) // the bytes stay until the source is filled again
		if s := ex.answer.status; s >= 200 || s == fasthttp.StatusSwitchingProtocols {
			return nil
		}
		if err := ex.inform(); err != nil {
			return err
		}
	}
}

// readAnswerHead waits for a complete head and returns its length.
func readAnswerHead(in *source) (int, error) {
	for seen := 0; ; {
		b := in.buffered()
		if n := answerEnd(b, max(0, seen-3)); n > 0 {
			return n, nil
		}
		seen = len(b)
		switch err := in.fill(maxAnswerHead); {
		case err == errFull:
			return 0, errAnswer
		case err == io.EOF && seen > 0:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
	}
}

// relay makes the answer that was received the answer of the context. What is
// here already is copied, and the exchange is over; the rest streams.
func (ex *exchange) relay(ctx *fasthttp.RequestCtx) error {
	a, bc := &ex.answer, ex.bc
	if a.status == fasthttp.StatusSwitchingProtocols {
		return ex.switchProtocols(ctx)
	}
	bc.body.reset(&bc.in, a.framing, a.length)
	small, whole := bc.body.take(maxAnswerHead)
	if ex.route.compress {
		small = ex.encode(ctx.Request.Header.IsHead(), small, whole)
	}
	framed := ex.client.Version() != version10 // an end of its own can mark the end of a body
	ex.out = ex.appendSticky(a.appendHead(ex.out[:0], ex.route, !whole && framed))
	ex.out = ex.srv.appendAltSvc(ex.out, ex.client, ctx.Request.Header.Host())
	if err := ex.heads.read(&ctx.Response.Header, append(ex.out, "\r\n"...)); err != nil {
		return err
	}
	switch {
	case whole:
		if a.framing != noBody {
			ctx.Response.SetBody(small)
		}
		ex.finish()
		ex.release()
	case a.framing != fixedBody && !framed:
		ex.relayUnframed(ctx)
	default:
		ex.stream(ctx, len(bc.in.buffered()) > 0)
	}
	return nil
}

// watch has the client watched while the backend is silent. It reports false
// while the upload reads from the client, and so would notice by itself.
func (ex *exchange) watch() bool {
	if ex.uploading && !ex.held {
		select {
		case <-ex.uploaded:
		default:
			return false
		}
	}
	ex.watching = true
	bc := ex.bc
	ex.client.Watch(func() {
		ex.left.Store(true)
		_ = bc.Close()
	})
	return true
}

// finish ends an exchange whose answer was read as far as it will be. The
// backend connection is kept if both messages were complete, and it is nobody's.
func (ex *exchange) finish() {
	bc := ex.bc
	clean := bc.body.complete() && ex.answer.keepAlive && len(bc.in.buffered()) == 0
	clean = ex.endUpload() && clean
	ex.endWatch()
	if clean && !ex.left.Load() {
		ex.keep(bc)
	} else {
		_ = bc.Close()
	}
	ex.bc = nil
}

// drop ends an exchange that failed.
func (ex *exchange) drop() {
	if ex.bc != nil {
		_ = ex.bc.Close()
	}
	ex.endUpload()
	ex.endWatch()
	ex.bc = nil
}

func (ex *exchange) endWatch() {
	if ex.watching {
		ex.client.Unwatch()
		ex.watching = false
	}
}

// fail answers a request that the backend did not.
func (ex *exchange) fail(ctx *fasthttp.RequestCtx, err error) {
	if ex.left.Load() {
		// The client, not the backend: it left, or broke the framing.
		ex.visit.left = true
		ex.srv.reply(ctx, fasthttp.StatusBadRequest, "", nil)
		ctx.SetConnectionClose()
		return
	}
	status := fasthttp.StatusBadGateway
	switch {
	case errors.Is(err, errTooManyUpgrades), errors.Is(err, errTooManyStreams):
		status = fasthttp.StatusServiceUnavailable
	case errors.Is(err, errUnreachable): // also if it took too long: a peer that is away is silent
	case isTimeout(err):
		status = fasthttp.StatusGatewayTimeout
	}
	id := ex.srv.show(ctx, notice{status: status, route: ex.route, target: &ex.up.target})
	if skipped, log := ex.up.pool.failed.next(time.Now()); log {
		ex.srv.opts.Log.Warn("backend failed", "host", ex.route.host, "addr", ex.up.target.Addr,
			"peer", ex.up.target.PeerName, "err", err, "request", id, "skipped", skipped)
	}
}
