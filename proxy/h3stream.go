package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/valyala/fasthttp"
)

const (
	// maxIdleFrames bounds the frames in a row that carry nothing: they cost us
	// more than their sender.
	maxIdleFrames = 1000

	// finPause is how long the end of a request that is otherwise complete may be
	// late: some clients send it in a packet of its own, right behind.
	finPause = 2 * time.Millisecond
)

var (
	errLength    = errors.New("body is not as long as its Content-Length")
	errMalformed = errors.New("malformed field section")
)

// h3Stream is one request of HTTP/3 as the bridge sees it. It is pooled with its
// buffers.
type h3Stream struct {
	conn *h3Conn
	str  *quic.Stream
	in   source // r is an h3Input

	wait     time.Duration // a read may take
	readBy   time.Time     // the read deadline that is set
	writeBy  time.Time
	fin      bool   // the client's end was received, and nothing comes behind in
	left     uint64 // bytes of the current DATA frame
	declared int64  // bytes that the body still has, by its length; unknownLength without
	idle     int    // frames in a row that carried nothing
	trailed  bool   // the trailer section was read
	err      error  // of the body; io.EOF after its clean end
	trailer  streamTrailer
	stopped  atomic.Bool
	watching chan struct{}
	unwatch  func() bool

	upgraded atomic.Bool
	sent     atomic.Bool // our end was sent
	read     atomic.Bool // the client's end was read
	out      []byte      // what waits to be sent in one piece with what follows
	block    h3Block
	encoder  *qpack.Encoder // into block
}

var _ stream = (*h3Stream)(nil)

// h3Block is a buffer as a qpack.Encoder writes to it.
type h3Block []byte

func (b *h3Block) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func newH3Stream() *h3Stream {
	st := new(h3Stream)
	st.in.r = (*h3Input)(st)
	st.encoder = qpack.NewEncoder(&st.block)
	return st
}

// release gives the stream back, without buffers that one long head made grow.
func (st *h3Stream) release() {
	s := st.conn.srv
	st.in.off, st.in.end, st.in.err = 0, 0, nil
	st.in.shrink()
	st.conn, st.str = nil, nil
	st.wait, st.readBy, st.writeBy = 0, time.Time{}, time.Time{}
	st.fin, st.left, st.declared, st.idle, st.trailed, st.err = false, 0, 0, 0, false, nil
	st.trailer = streamTrailer{lines: st.trailer.lines[:0]}
	st.stopped.Store(false)
	st.upgraded.Store(false)
	st.sent.Store(false)
	st.read.Store(false)
	st.out, st.block = st.out[:0], st.block[:0]
	if cap(st.out)+cap(st.block) > 2*firstBuffer {
		st.out, st.block = nil, nil
	}
	s.h3streams.Put(st)
}

// serve answers one request.
func (c *h3Conn) serve(str *quic.Stream) {
	st := c.srv.h3streams.Get().(*h3Stream)
	st.conn, st.str = c, str
	b := c.srv.newBridge(c.origin(), st)
	defer func() {
		if b.takes == nil { // see release of the bridge
			st.release()
		}
		b.release()
	}()
	status, err := st.readHead(&b.head)
	var code h3Error
	switch {
	case errors.As(err, &code):
		c.fail(quic.ApplicationErrorCode(code))
	case err == io.EOF:
		st.abort(h3RequestIncomplete)
	case err != nil:
		st.abort(h3RequestCancelled)
	case status == malformed:
		st.abort(h3MessageError)
	default:
		b.serve(status)
		st.end()
		if r := &b.ctx.Response; r.StatusCode() == fasthttp.StatusMisdirectedRequest && r.ConnectionClose() {
			c.drain() // the request is for a new connection
		}
	}
}

// readHead reads the field section of the request into h. What it returns is what
// finish of h does; an h3Error ends the connection, any other error the stream.
func (st *h3Stream) readHead(h *streamHead) (status int, err error) {
	st.arm(st.conn.srv.limits.head)
	var length uint64
	for {
		var kind uint64
		if kind, length, err = nextFrame(&st.in); err != nil {
			return 0, err
		}
		if kind == headersFrame {
			break
		}
		if err := st.skip(kind, length); err != nil {
			return 0, err
		}
	}
	if length > maxFieldBlock {
		// Compressed it is never longer than as its size is defined.
		return 431, nil
	}
	section, err := readPayload(&st.in, length, maxFieldBlock)
	if err != nil {
		return 0, err
	}
	for next := st.conn.srv.qpack.Decode(section); h.status == 0; {
		f, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, h3Error(h3DecompressionFailed)
		}
		h.add(f.Name, f.Value)
	}
	ended := false
	if !h.hasLength && !h.protocol && h.status == 0 {
		ended = st.endsHere(!takesBody(h.method))
	}
	st.wait, st.readBy = st.conn.srv.limits.stall, time.Time{}
	status = h.finish(ended)
	st.declared = h.length
	return status, nil
}

// endsHere reports whether nothing follows the head. Where a body is unusual, the
// end is waited for: it is on its way, and a backend would take a body without
// length for one that is there.
func (st *h3Stream) endsHere(patient bool) bool {
	if !patient && !st.fin && len(st.in.buffered()) == 0 {
		st.arm(finPause)
	}
	for len(st.in.buffered()) == 0 {
		if st.fin {
			return true
		}
		if err := st.in.fill(firstBuffer); err != nil {
			return err == io.EOF
		}
	}
	return false
}

// skip passes over a frame that is neither data nor fields.
func (st *h3Stream) skip(kind, length uint64) error {
	switch kind {
	case dataFrame, headersFrame, cancelPushFrame, settingsFrame, pushPromiseFrame, goawayFrame, maxPushFrame, 0x2, 0x6, 0x8, 0x9:
		return h3Error(h3FrameUnexpected)
	}
	if st.idle++; st.idle > maxIdleFrames {
		return h3Error(h3ExcessiveLoad)
	}
	return discardFrame(&st.in, length)
}

// h3Input is an h3Stream as the io.Reader below its source.
type h3Input h3Stream

func (i *h3Input) Read(p []byte) (int, error) {
	st := (*h3Stream)(i)
	if st.wait > 0 {
		st.armAbout(st.wait)
	}
	if st.stopped.Load() { // after that, which may have undone the deadline of Stop
		return 0, os.ErrDeadlineExceeded
	}
	n, err := st.str.Read(p)
	if err == io.EOF {
		st.fin = true
		st.read.Store(true)
	}
	return n, err
}

// arm lets reads take d from now on, absolute.
func (st *h3Stream) arm(d time.Duration) {
	st.wait, st.readBy = 0, time.Now().Add(d)
	_ = st.str.SetReadDeadline(st.readBy)
}

// armAbout lets the next read take d, and up to an eighth longer.
func (st *h3Stream) armAbout(d time.Duration) {
	now := time.Now()
	if left := st.readBy.Sub(now); left < d || left > d+d/8 {
		st.readBy = now.Add(d + d/8)
		_ = st.str.SetReadDeadline(st.readBy)
	}
}

func (st *h3Stream) Read(p []byte) (int, error) {
	if st.err != nil || len(p) == 0 {
		return 0, st.err
	}
	n, err := st.readBody(p)
	if err != nil {
		st.err = err
		var code h3Error
		if errors.As(err, &code) {
			st.conn.fail(quic.ApplicationErrorCode(code))
		}
	}
	return n, err
}

func (st *h3Stream) Stop() {
	st.stopped.Store(true)
	_ = st.str.SetReadDeadline(past)
}

func (st *h3Stream) Stopped() {
	st.stopped.Store(false)
	st.readBy = past
	if isTimeout(st.err) {
		st.err = nil
	}
}

// Watch notices that the client wants no answer any more, or that the connection
// is gone. Our own end looks the same.
func (st *h3Stream) Watch(gone func()) {
	done := make(chan struct{})
	st.watching = done
	st.unwatch = context.AfterFunc(st.str.Context(), func() {
		defer close(done)
		if !st.sent.Load() {
			gone()
		}
	})
}

func (st *h3Stream) Unwatch() {
	if st.unwatch != nil && !st.unwatch() {
		<-st.watching
	}
	st.watching, st.unwatch = nil, nil
}

func (st *h3Stream) Upgraded() {
	st.wait = st.conn.srv.limits.upgradeIdle
	st.upgraded.Store(true)
}

// Cut lets what was written arrive, with clients that do not know how a reset can
// leave it alone by giving it some time.
func (st *h3Stream) Cut() {
	st.str.SetReliableBoundary()
	if !st.conn.qc.ConnectionState().SupportsStreamResetPartialDelivery.Remote {
		patience := time.NewTimer(st.conn.srv.limits.goodbye)
		defer patience.Stop()
		select {
		case <-patience.C:
		case <-st.str.Context().Done():
		}
	}
	st.Reset()
}

// end leaves a stream whose request was answered. What the client still sends is
// not wanted (RFC 9114, section 4.1).
func (st *h3Stream) end() {
	if !st.sent.Load() {
		st.abort(h3InternalError)
		return
	}
	if whole := st.err == io.EOF || st.err == nil && st.declared == 0 && st.left == 0; whole && !st.read.Load() {
		// Only the end is missing, and most likely on its way.
		st.arm(finPause)
		for !st.fin && len(st.in.buffered()) < firstBuffer && st.in.fill(firstBuffer) == nil {
		}
	}
	if !st.read.Load() {
		st.str.CancelRead(h3NoError)
	}
}

// Reset ends the stream with an error where it has not ended yet.
func (st *h3Stream) Reset() {
	if st.upgraded.Load() {
		st.abort(h3RequestCancelled)
		return
	}
	st.abort(h3InternalError)
}

func (st *h3Stream) abort(code quic.StreamErrorCode) {
	if !st.sent.Load() {
		st.str.CancelWrite(code)
	}
	if !st.read.Load() {
		st.str.CancelRead(code)
	}
}
