package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/valyala/fasthttp"
)

// stream is what a door of HTTP/2 or HTTP/3 does for the bridge of one of its
// streams. It must not be an io.Closer: fasthttp would close it as body stream.
type stream interface {
	// Read gives the bytes of the client as they arrive: never bytes and an error
	// at once, io.EOF at the clean end. It waits as long as the stall limit allows,
	// after Upgraded as long as that of upgrades.
	Read(p []byte) (int, error)
	// Take returns all that is still to be read if it has been received, with its
	// clean end and without trailers, and is not longer than limit.
	Take(limit int) ([]byte, bool)
	// Received reports whether anything of the body, or its end, is here.
	Received() bool
	// Stop, Stopped and Trailer are those of requestBody, Watch and Unwatch those
	// of client.
	Stop()
	Stopped()
	Trailer() []byte
	Watch(gone func())
	Unwatch()

	// WriteHead sends a head, and with end the end behind it. Names are in lower
	// case, and no field is specific to a connection. A head of 1xx comes before
	// that of the answer. With flush nothing may follow for long.
	WriteHead(status int, fields []field, end, flush bool) error
	// WriteBody sends bytes of a body at once, as fast as the client takes them,
	// and with end the end of the stream, for which p may be empty.
	WriteBody(p []byte, end bool) error
	// WriteTrailer sends the fields behind the body, and the end of the stream.
	WriteTrailer(fields []field) error
	// Upgraded makes the stream one of an upgrade: DATA is all that may come on it, and
	// CANCEL what it is reset with (RFC 8441, section 5; RFC 9220, section 3).
	Upgraded()
	// Cut resets the stream behind what was written, if that can be.
	Cut()
	// FallBack ends the stream so that the client asks again over HTTP/1.1.
	FallBack()
	// Reset ends the stream with an error, from any goroutine, unless it has come
	// to its clean end on both sides.
	Reset()
}

// origin is what the streams of one connection have in common.
type origin struct {
	version       httpVersion
	local, remote net.Addr
	addr          netip.Addr // of the client, never mapped
	port          uint16     // local
	name          string     // of the SNI, normalised; empty without
	born          time.Time  // when the handshake began
	tally         *tally
}

// bridge is one stream of HTTP/2 or HTTP/3 as a request context of the pipeline,
// with the client that stands behind the context. A door fills in head, field by
// field, has serve run in a goroutine of the stream's own, and releases the
// bridge when that has returned. It is pooled, so none may be kept.
type bridge struct {
	srv    *Server
	origin *origin
	stream stream
	ctx    fasthttp.RequestCtx
	head   streamHead

	src    bytes.Reader
	reader *bufio.Reader // of src, for fasthttp's parser
	text   []byte        // the head as HTTP/1.1 has it
	fields []field       // of the answer
	arena  []byte        // their names and values
	takes  func()        // what TakeOver was given
	left   int64         // bytes that the answer still has, by its length; -1 if it has none
	begun  bool          // the answer's head was written
	ended  bool          // the answer's end was written
	waits  bool          // the client waits for 100 (Continue)
	unread int64         // of the body, by its length; below 0 if it has none
	corked bool
}

var (
	_ client      = (*bridge)(nil)
	_ requestBody = (*streamBody)(nil)
)

func (s *Server) newBridge(o *origin, st stream) *bridge {
	b := s.bridges.Get().(*bridge)
	b.srv, b.origin, b.stream, b.left = s, o, st, -1
	return b
}

// release gives the bridge back. Buffers that one long head made grow go. After an
// upgrade it is left to the collector: whoever ends upgrades may be about to kill
// the client that it was, and must not meet another.
func (b *bridge) release() {
	if b.takes != nil {
		return
	}
	b.ctx.Request.Reset()
	b.ctx.Response.Reset()
	b.ctx.ResetUserValues()
	b.head.reset()
	srv := b.srv
	b.srv, b.origin, b.stream = nil, nil, nil
	b.begun, b.ended, b.waits, b.corked = false, false, false, false
	if cap(b.text) > maxInlineBody {
		b.text, b.reader = nil, nil
	}
	if cap(b.arena) > maxInlineBody {
		b.arena = nil
	}
	b.fields = b.fields[:0]
	srv.bridges.Put(b)
}

// serve runs the request through the pipeline and sends its answer. A head that
// may not be served is answered here. status is what head.finish returned, and
// not malformed.
func (b *bridge) serve(status int) {
	defer b.srv.survive("stream", b.stream.Reset)
	if status == 0 {
		status = b.enter()
	}
	if status != 0 {
		b.refuse(status)
		return
	}
	b.srv.serve(&b.ctx, b.srv.snapshot.Load())
	if b.takes != nil {
		b.takes()
		return
	}
	if code := b.ctx.Response.StatusCode(); b.head.protocol && code >= 200 && code < 300 {
		// To a client that wants a WebSocket, success would be one.
		b.srv.page(&b.ctx, fasthttp.StatusBadGateway, nil)
	}
	b.answer()
}

// enter makes the head that of the context, through fasthttp's parser, which is
// the only way that keeps the fields as they came.
func (b *bridge) enter() (status int) {
	h := &b.ctx.Request.Header
	b.ctx.Init2(b, silent{}, true)
	h.DisableNormalizing()
	b.ctx.Response.Header.DisableNormalizing()
	b.ctx.Response.Header.SetNoDefaultContentType(true)
	b.text = b.head.appendText(b.text[:0])
	b.src.Reset(b.text)
	if b.reader == nil || b.reader.Size() < len(b.text) {
		b.reader = bufio.NewReaderSize(&b.src, max(firstBuffer, len(b.text)))
	} else {
		b.reader.Reset(&b.src)
	}
	if h.Read(b.reader) != nil {
		return fasthttp.StatusBadRequest
	}
	h.SetRequestURIBytes(b.head.path)
	h.Del(fasthttp.HeaderExpect)
	if b.head.length != 0 && !b.head.protocol {
		b.waits, b.unread = b.head.expects, b.head.length
		b.ctx.Request.SetBodyStream((*streamBody)(b), int(b.head.length))
	}
	return 0
}

func (b *bridge) Version() httpVersion { return b.origin.version }
func (b *bridge) Address() netip.Addr  { return b.origin.addr }
func (b *bridge) LocalPort() uint16    { return b.origin.port }
func (b *bridge) Secure() bool         { return true }
func (b *bridge) ServerName() string   { return b.origin.name }
func (b *bridge) Born() time.Time      { return b.origin.born }
func (b *bridge) Tally() *tally        { return b.origin.tally }
func (b *bridge) LocalAddr() net.Addr  { return b.origin.local }
func (b *bridge) RemoteAddr() net.Addr { return b.origin.remote }

func (b *bridge) Watch(gone func()) { b.stream.Watch(gone) }
func (b *bridge) Unwatch()          { b.stream.Unwatch() }

// Cork has the head of the answer wait for what is written next.
func (b *bridge) Cork() { b.corked = true }

func (b *bridge) Uncork() []byte {
	b.corked = false
	return nil
}

func (b *bridge) TakeOver(_ *fasthttp.RequestCtx, run func()) { b.takes = run }

// errAccept says that a backend did not prove to have read the key of a WebSocket.
var errAccept = errors.New("backend does not speak WebSocket")

// Upgrade answers an extended CONNECT (RFC 8441, section 5) with 200 for the 101
// of the backend.
func (b *bridge) Upgrade(head []byte) error {
	b.stream.Upgraded()
	_, lines := cutLine(head)
	b.collectLines(lines)
	accepted := false
	b.fields = slices.DeleteFunc(b.fields, func(f field) bool {
		if string(f.name) != "sec-websocket-accept" {
			return false
		}
		accepted = b.head.accepts(f.value)
		return true
	})
	if !accepted {
		_ = b.writeHead(fasthttp.StatusBadGateway, nil, true, true)
		return errAccept
	}
	return b.writeHead(fasthttp.StatusOK, b.fields, false, true)
}

// Inform sends the fields of a head of 1xx as one of this version.
func (b *bridge) Inform(head []byte) error {
	line, lines := cutLine(head)
	status, _ := parseLength(line[len("HTTP/1.1 "):][:3])
	b.collectLines(lines)
	return b.stream.WriteHead(int(status), b.fields, false, true)
}

// Read and Write carry the bytes of an upgrade; Write also those of an answer
// that goes to the client as it comes.
func (b *bridge) Read(p []byte) (int, error) { return b.stream.Read(p) }

func (b *bridge) Write(p []byte) (int, error) {
	if err := b.writeBody(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *bridge) CloseWrite() error {
	err := b.stream.WriteBody(nil, true)
	b.ended = err == nil
	return err
}

// Close ends an upgrade. After a clean end of ours, the door deals with what the
// client still sends.
func (b *bridge) Close() error {
	if !b.ended {
		b.stream.Reset()
	}
	return nil
}

func (b *bridge) Cut() { b.stream.Cut() }

func (b *bridge) Kill()  { b.stream.Reset() }
func (b *bridge) Reset() { b.stream.Reset() }

// The limits of time are those of the door.

func (b *bridge) SetDeadline(time.Time) error      { return nil }
func (b *bridge) SetReadDeadline(time.Time) error  { return nil }
func (b *bridge) SetWriteDeadline(time.Time) error { return nil }

// streamBody is a bridge as the body of its request.
type streamBody bridge

func (b *streamBody) Trailer() []byte { return b.stream.Trailer() }
func (b *streamBody) Stop()           { b.stream.Stop() }
func (b *streamBody) Stopped()        { b.stream.Stopped() }

// Read ends a body of known length with its last byte. The end of the stream may
// be late, and a backend that has all may answer first: its answer would then look
// like one to a part.
func (b *streamBody) Read(p []byte) (int, error) {
	if b.unread == 0 {
		return 0, io.EOF
	}
	n, err := b.stream.Read(p)
	if b.unread > 0 {
		b.unread -= int64(n)
	}
	return n, err
}

// Continue is called before an answer is begun, so its head comes first.
func (b *streamBody) Continue() error {
	if !b.waits {
		return nil
	}
	if b.waits = false; b.stream.Received() {
		return nil // it did not wait (RFC 9110, section 10.1.1)
	}
	return b.stream.WriteHead(fasthttp.StatusContinue, nil, false, true)
}

func (b *streamBody) Take(limit int) ([]byte, bool) {
	if b.head.length == unknownLength {
		return nil, false // goes on in chunks
	}
	return b.stream.Take(limit)
}
