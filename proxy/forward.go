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
	client client
	route  *route
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
	direct    bool        // the answer has its length and goes to the client as it is
}

var errPanic = errors.New("panic")

func newExchange(s *Server) *exchange { return &exchange{srv: s} }

// release gives the exchange back. Its buffers stay with it.
func (ex *exchange) release() {
	ex.client, ex.route, ex.bc, ex.header = nil, nil, nil, nil
	ex.body, ex.uploading, ex.uploaded, ex.uploadErr = nil, false, nil, nil
	ex.watching, ex.direct = false, false
	ex.stopping.Store(false)
	ex.left.Store(false)
	if cap(ex.out) > maxInlineBody+firstBuffer {
		ex.out = nil
	}
	ex.srv.exchanges.Put(ex)
}

// forward sends a request to the target of its route and makes its answer that
// of the context.
func (s *Server) forward(ctx *fasthttp.RequestCtx, cl client, snap *snapshot, r *route) {
	ex := s.exchanges.Get().(*exchange)
	ex.client, ex.route = cl, r
	settled := false
	defer func() {
		if !settled { // a panic, which must not leave anything open
			ex.drop()
		}
	}()
	if ctx.Request.IsBodyStream() {
		ex.body, _ = ctx.Request.BodyStream().(requestBody)
	}
	ex.request.read(ctx)
	ex.out = ex.request.appendHead(ex.out[:0], ctx, cl, r, snap)
	err := ex.ask(ctx.Request.Header.IsHead())
	if err == nil {
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

// ask sends the request and reads the head of the final answer. A kept connection
// that turns out to be dead before it has answered anything is replaced once, if
// the request may be sent twice.
func (ex *exchange) ask(head bool) error {
	q := &ex.request
	for fresh := q.upgrade != nil; ; fresh = true {
		bc, err := ex.route.pool.get(fresh, !q.replayable)
		if err != nil {
			return err
		}
		ex.bc, bc.ex = bc, ex
		if err = ex.send(); err == nil || ex.body != nil && !ex.left.Load() {
			// A backend may answer a request that it does not want to read.
			if err = ex.receive(head); err == nil {
				return nil
			}
		}
		again := bc.reused && q.replayable && len(bc.in.buffered()) == 0 && !ex.left.Load() && !errors.Is(err, errAnswer)
		ex.drop()
		if !again {
			return err
		}
	}
}

// send writes the head, together with a small body that is here already. Any
// other body follows from a goroutine of its own, since a backend may answer
// before it has read it all.
func (ex *exchange) send() error {
	if ex.body == nil {
		_, err := ex.bc.Write(ex.out)
		return err
	}
	if small, ok := ex.body.Take(maxInlineBody); ok {
		ex.out = append(ex.out, small...)
		_, err := ex.bc.Write(ex.out)
		return err
	}
	if err := ex.body.Continue(); err != nil {
		ex.left.Store(true)
		return err
	}
	if _, err := ex.bc.Write(ex.out); err != nil {
		return err
	}
	ex.uploading, ex.uploaded = true, make(chan struct{})
	go ex.upload(ex.bc) // awaited by endUpload
	return nil
}

// upload sends the body. If the client fails, the backend must not take the
// part for the whole, so its connection is closed.
func (ex *exchange) upload(bc *backendConn) {
	defer close(ex.uploaded)
	defer ex.srv.survive("upload", func() {
		ex.uploadErr = errPanic
		_ = bc.Close()
	})
	buf := ex.srv.pieces.Get().(*piece)
	defer ex.srv.pieces.Put(buf)
	const frame = 10 // room for a chunk size and CRLF before the piece, CRLF behind
	for {
		n, err := ex.body.Read(buf[frame : pieceSize-2])
		if err != nil && err != io.EOF {
			ex.uploadErr = err
			if !ex.stopping.Load() {
				ex.left.Store(true)
			}
			_ = bc.Close()
			return
		}
		out := buf[frame : frame+n]
		if ex.request.chunked {
			out = frameChunk(buf[:], frame, n)
			if err == io.EOF {
				out = append(append(append(buf[:0], "0\r\n"...), ex.body.Trailer()...), "\r\n"...)
			}
		}
		if len(out) > 0 {
			if _, werr := bc.Write(out); werr != nil {
				ex.uploadErr = werr // the answer, if there is one, tells why
				return
			}
		}
		if err == io.EOF {
			return
		}
	}
}

// frameChunk writes the chunk frame around the n bytes at buf[at:] and returns
// the whole chunk.
func frameChunk(buf []byte, at, n int) []byte {
	const hex = "0123456789abcdef"
	buf[at-2], buf[at-1] = '\r', '\n'
	i := at - 2
	for v := n; v > 0; v >>= 4 {
		i--
		buf[i] = hex[v&15]
	}
	return append(buf[i:at+n], '\r', '\n')
}

// receive reads the head of the final answer. Interim answers are swallowed: the
// expectation of the client is met by Continue.
func (ex *exchange) receive(head bool) error {
	in := &ex.bc.in
	for range maxInterim {
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
	}
	return errAnswer
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
	http11 := ctx.Request.Header.IsHTTP11()
	ex.out = a.appendHead(ex.out[:0], ex.route, !whole && http11)
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
	case a.framing != fixedBody && !http11:
		ex.relayUnframed(ctx)
	default:
		ex.stream(ctx, len(bc.in.buffered()) > 0)
	}
	return nil
}

// watch has the client watched while the backend is silent. It reports false
// while the upload reads from the client, and so would notice by itself.
func (ex *exchange) watch() bool {
	if ex.uploading {
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
// backend connection is kept if both messages were complete.
func (ex *exchange) finish() {
	bc := ex.bc
	clean := bc.body.complete() && ex.answer.keepAlive && len(bc.in.buffered()) == 0
	clean = ex.endUpload() && clean
	ex.endWatch()
	if clean && !ex.left.Load() {
		ex.route.pool.put(bc)
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

// endUpload stops the upload and waits for it. It reports whether the backend
// has got the whole body.
func (ex *exchange) endUpload() bool {
	if !ex.uploading {
		return true
	}
	ex.uploading = false
	select {
	case <-ex.uploaded:
		return ex.uploadErr == nil
	default:
	}
	// Either the backend did not want the rest, or the last byte is just on its
	// way: then the goroutine ends by itself.
	ex.stopping.Store(true)
	ex.body.Stop()
	select {
	case <-ex.uploaded:
	case <-time.After(100 * time.Millisecond):
		_ = ex.bc.Close()
		<-ex.uploaded
	}
	ex.body.Stopped()
	return ex.uploadErr == nil
}

// fail answers a request that the backend did not.
func (ex *exchange) fail(ctx *fasthttp.RequestCtx, err error) {
	if ex.left.Load() {
		// The client, not the backend: it left, or broke the framing.
		ex.srv.reply(ctx, fasthttp.StatusBadRequest, "", nil)
		ctx.SetConnectionClose()
		return
	}
	status := fasthttp.StatusBadGateway
	switch {
	case errors.Is(err, errTooManyUpgrades):
		status = fasthttp.StatusServiceUnavailable
	case errors.Is(err, errUnreachable): // also if it took too long: a peer that is away is silent
	case isTimeout(err):
		status = fasthttp.StatusGatewayTimeout
	}
	id := ex.srv.page(ctx, status, ex.route)
	if skipped, log := ex.route.pool.failed.next(time.Now()); log {
		ex.srv.opts.Log.Warn("backend failed", "host", ex.route.host, "addr", ex.route.target.Addr,
			"peer", ex.route.target.PeerName, "err", err, "request", id, "skipped", skipped)
	}
}
