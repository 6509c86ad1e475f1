package proxy

import (
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"
)

// client is what the pipeline may know and ask of the connection that a request
// came in on, whatever the HTTP version: ctx.Conn() implements it.
type client interface {
	net.Conn
	// Version is the HTTP version that the client speaks.
	Version() httpVersion
	// Address is the peer's address, IPv4 never mapped.
	Address() netip.Addr
	// LocalPort is the port that the connection was accepted on.
	LocalPort() uint16
	// Secure reports whether the connection is TLS.
	Secure() bool
	// ServerName is the normalised SNI, empty if the client sent none.
	ServerName() string
	// Born is when the TLS handshake of the connection began, or a time before.
	Born() time.Time
	// Tally is what the client has open and holds, on all its connections.
	Tally() *tally
	// Watch calls gone, from another goroutine, when the client goes away. It
	// is for the time when no body is being read; Unwatch ends it and waits.
	Watch(gone func())
	Unwatch()
	// Cork keeps back what is written, Uncork returns it to be sent in one
	// piece with what follows.
	Cork()
	Uncork() []byte
	// Inform sends head, which is a 1xx and not a 101, before the answer.
	Inform(head []byte) error
	// Keep holds bc, on which the client is logged in, for the next requests of its
	// connection. It reports false if that is not theirs alone. Kept is where it
	// leads, nil if there is none; TakeKept gives it back, nil if it has ended.
	Keep(bc *backendConn) bool
	Kept() *pool
	TakeKept() *backendConn
	// TakeOver has run own the connection, or the stream of it, once the handler
	// has returned; no answer is written for the request. run closes the client.
	TakeOver(ctx *fasthttp.RequestCtx, run func())
	// Upgrade ends HTTP on the connection with head, which is a 101: from now on
	// Read and Write carry the bytes of the new protocol.
	Upgrade(head []byte) error
	CloseWrite() error
	// Cut ends what an upgrade sends, because its other side has failed: what was
	// written before arrives, and behind it, where there is such a thing, an error.
	Cut()
	// Kill ends the connection at once, from any goroutine; Reset does, too, so
	// that the client sees an error.
	Kill()
	Reset()
}

// requestBody is what a front door gives the pipeline as body stream.
type requestBody interface {
	// Read never returns bytes and an error at once. io.EOF is the clean end.
	io.Reader
	// Continue tells a client that waits for it to send the body.
	Continue() error
	// Take returns a body of known length if it has been received already and is
	// not longer than limit.
	Take(limit int) ([]byte, bool)
	// Stop makes Read fail, now and later, from another goroutine.
	Stop()
	// Stopped ends a Stop once no goroutine reads any more.
	Stopped()
	// Trailer returns the field lines behind the body after io.EOF.
	Trailer() []byte
}

var (
	_ client      = (*conn)(nil)
	_ requestBody = (*clientBody)(nil)
)

// httpVersion is a version of HTTP.
type httpVersion uint8

const (
	version10 httpVersion = iota
	version11
	version2
	version3
)

func (v httpVersion) String() string { return "HTTP/" + v.number() }

// number is the version as Via has it (RFC 9110, section 7.6.3).
func (v httpVersion) number() string { return [...]string{"1.0", "1.1", "2.0", "3.0"}[v] }

func (c *conn) Version() httpVersion {
	if c.head.http10 {
		return version10
	}
	return version11
}

func (c *conn) Address() netip.Addr { return c.addr }
func (c *conn) LocalPort() uint16   { return c.port }
func (c *conn) Secure() bool        { return c.secure }
func (c *conn) ServerName() string  { return c.name }
func (c *conn) Born() time.Time     { return c.born }
func (c *conn) Tally() *tally       { return c.tally }

func (c *conn) Cork() { c.corked, c.held = true, c.held[:0] }

func (c *conn) Uncork() []byte {
	c.corked = false
	return c.held
}

func (c *conn) TakeOver(ctx *fasthttp.RequestCtx, run func()) {
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(net.Conn) { run() })
}

func (c *conn) Upgrade(head []byte) error {
	c.wait = c.srv.limits.upgradeIdle
	c.phase.Store(upgraded)
	_, err := c.Write(head)
	return err
}

// Cut ends the sending direction below TLS, whose own end would be a clean one. A
// reset would be an error on plain connections, too, but takes along what has not
// arrived.
func (c *conn) Cut() { _ = closeWrite(c.sock) }

// Watch reads ahead: the bytes of a pipelined request are kept for nextHead.
func (c *conn) Watch(gone func()) {
	done := make(chan struct{})
	c.watching = done
	c.wait, c.readBy = 0, time.Time{}
	_ = c.Conn.SetReadDeadline(time.Time{})
	go func() { // ended and awaited by Unwatch
		defer close(done)
		defer c.srv.survive("watch", c.Kill)
		for {
			switch err := c.in.fill(firstBuffer); {
			case err == nil:
			case err == errFull || isTimeout(err):
				return
			default:
				gone()
				return
			}
		}
	}()
}

func (c *conn) Unwatch() {
	if c.watching == nil {
		return
	}
	_ = c.Conn.SetReadDeadline(past)
	<-c.watching
	c.watching, c.readBy, c.wait = nil, past, c.srv.limits.stall
}

// past is a deadline that has gone by.
var past = time.Unix(1, 0)

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}

// clientBody is a conn as the body of its current request.
type clientBody conn

func (b *clientBody) Read(p []byte) (int, error) { return b.body.Read(p) }
func (b *clientBody) Trailer() []byte            { return b.body.Trailer() }

// Close does nothing. fasthttp closes body streams that can be closed, before the
// connection; the socket would be gone before the answer arrived.
func (b *clientBody) Close() error { return nil }

// Continue is called before an answer is begun, so its bytes come in order.
func (b *clientBody) Continue() error {
	if !b.pending {
		return nil
	}
	b.pending = false
	if len(b.in.buffered()) > 0 {
		return nil // it did not wait (RFC 9110, section 10.1.1)
	}
	_, err := b.Conn.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	return err
}

func (b *clientBody) Take(limit int) ([]byte, bool) {
	if b.body.framing != fixedBody {
		return nil, false // chunks go on as chunks
	}
	return b.body.take(limit)
}

// Stop interrupts a Read that waits, by its deadline.
func (b *clientBody) Stop() {
	b.stopped.Store(true)
	_ = b.Conn.SetReadDeadline(past)
}

func (b *clientBody) Stopped() {
	b.stopped.Store(false)
	b.readBy = past
	if isTimeout(b.body.err) {
		b.body.err = nil // only interrupted: the rest can still be discarded
	}
}
