package proxy

import (
	"io"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// stream leaves the body to fasthttp as it comes. The head waits for the first
// piece if that is here, and for nothing else.
func (ex *exchange) stream(ctx *fasthttp.RequestCtx, begun bool) {
	size := -1
	if ex.answer.framing == fixedBody && ex.encoder == nil {
		size = int(ex.answer.length)
		ex.direct = true
	}
	ex.visit.goOn()
	ctx.Response.SetBodyStream((*answerStream)(ex), size)
	ctx.Response.ImmediateHeaderFlush = ex.direct || !begun
	if ex.direct && begun {
		ex.client.Cork()
	}
	ex.header = &ctx.Response.Header
}

// relayUnframed answers an HTTP/1.0 client, which knows no chunks: the end of the
// connection ends the body.
func (ex *exchange) relayUnframed(ctx *fasthttp.RequestCtx) {
	ctx.SetConnectionClose()
	head := append([]byte(nil), ctx.Response.Header.Header()...)
	cl := ex.client
	ex.visit.goOn()
	ex.srv.running.Add(1)
	cl.TakeOver(ctx, func() {
		defer ex.srv.running.Done()
		defer cl.Close()
		defer ex.srv.survive("answer", cl.Reset)
		st := (*answerStream)(ex)
		defer st.Close()
		if _, err := cl.Write(head); err != nil {
			return
		}
		if _, err := st.WriteTo(cl); err != nil {
			cl.Reset()
		}
	})
}

// answerStream is an exchange as the body stream of its answer.
type answerStream exchange

var _ fasthttp.BodyWriterTo = (*answerStream)(nil)

// SupportsBodyWriteTo has fasthttp use WriteTo, which moves larger pieces.
func (st *answerStream) SupportsBodyWriteTo() bool { return true }

func (st *answerStream) Read(p []byte) (int, error) {
	n, err := st.bc.body.Read(p)
	if st.encoder == nil { // else what leaves it is counted
		st.visit.record.Size += int64(n)
	}
	switch {
	case err == io.EOF:
		lines := st.bc.body.Trailer()
		if set := st.route.toClient; len(set) > 0 {
			lines = appendTrailers(nil, lines, set)
		}
		setTrailers(st.header, lines, st.client.Version() >= version2)
	case err != nil && !st.left.Load():
		st.visit.record.Cut = model.CutByBackend
	}
	return n, err
}

// WriteTo writes the body to w as it arrives. A body with a length goes past
// fasthttp's writer, which would keep the end of a piece until the next one is
// there. An error, here or from w, ends the connection of the client without
// the end of the body.
func (st *answerStream) WriteTo(w io.Writer) (total int64, err error) {
	defer st.visit.survive("answer", func() { // Close ends the exchange
		st.visit.record.Cut = model.CutByProxy
		err = errPanic
	})
	if st.encoder != nil {
		return st.encodeTo(w)
	}
	buf := st.srv.pieces.Get().(*piece)
	defer st.srv.pieces.Put(buf)
	kept := 0
	if st.direct {
		w = st.client
		held := st.client.Uncork()
		if kept = len(held); kept > pieceSize/2 {
			if _, err := w.Write(held); err != nil {
				return 0, err
			}
			kept = 0
		}
		copy(buf[:kept], held)
	}
	for {
		n, err := st.Read(buf[kept:])
		if n > 0 {
			if _, err := w.Write(buf[:kept+n]); err != nil {
				st.visit.record.Cut = model.CutByClient
				return total, err
			}
			kept = 0
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close ends the exchange. fasthttp calls it once, whatever happened.
func (st *answerStream) Close() error {
	ex := (*exchange)(st)
	v := ex.visit
	defer v.end()
	if v.record.Cut == "" && !ex.bc.body.complete() {
		v.record.Cut = model.CutByClient
	}
	ex.client.Uncork()
	ex.finish()
	ex.release()
	return nil
}
