package proxy

import (
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// phase says whether a connection may be closed without breaking a request.
type phase = int32

const (
	idle     phase = iota // between requests
	active                // a request was begun
	upgraded              // no longer HTTP
	closed
)

// conn is the connection of one HTTP/1.1 client, as fasthttp's server loop and
// the pipeline see it. It stands between the loop and the socket for three
// reasons: a head reaches fasthttp's parser only after the strict checks of
// requestHead; bodies are read by our own reader, so that nothing is taken from
// the client before a request has passed its gates; and every wait has a limit.
// The loop gets one head per request and no byte more, so it never holds input
// back, and its output is flushed before the next head is read.
//
// The goroutine of the connection uses it, except that Close, Upgrade's copy and
// a watcher may come from others, as noted.
type conn struct {
	net.Conn // the socket, or TLS over it
	sock     *socket
	records  *recordWriter // between TLS and sock; nil without TLS
	srv      *Server
	tally    *tally
	addr     netip.Addr
	port     uint16 // local
	name     string // of the SNI, normalised; empty without
	secure   bool
	born     time.Time // when its TLS handshake began

	phase     atomic.Int32
	h2        atomic.Pointer[h2conn] // set by the handshake if the client speaks HTTP/2
	closeOnce sync.Once
	in        source
	readBy    time.Time // the read deadline that is set
	wait      time.Duration

	head     requestHead
	unread   []byte // of the head, by fasthttp
	body     body
	pending  bool        // the client still waits for 100 (Continue)
	stopped  atomic.Bool // the body is read no further
	lingers  bool        // the client may be sending; closing at once could lose the answer
	corked   bool        // writes are kept back in held
	held     []byte
	watching chan struct{}
	login    atomic.Pointer[backendConn] // kept for this client; see Keep
}

// input is a conn as the io.Reader below its source.
type input conn

func (i *input) Read(p []byte) (int, error) {
	c := (*conn)(i)
	if c.wait > 0 {
		c.arm(c.wait)
	}
	if c.stopped.Load() { // after arm, which may have undone the deadline of Stop
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Read(p)
}

// arm lets reads wait for d, and up to an eighth longer: a deadline that is near
// enough stays, because setting one costs as much as a small read.
func (c *conn) arm(d time.Duration) {
	now := time.Now()
	if left := c.readBy.Sub(now); left < d || left > d+d/8 {
		c.readBy = now.Add(d + d/8)
		_ = c.Conn.SetReadDeadline(c.readBy)
	}
}

// Read gives fasthttp the next head, in as many pieces as it asks for. After an
// upgrade it gives the bytes of the client.
func (c *conn) Read(p []byte) (int, error) {
	if c.phase.Load() == upgraded {
		return c.in.Read(p)
	}
	if len(c.unread) == 0 {
		if err := c.nextHead(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// nextHead ends the last request, and waits for a head that may be served. A
// head that may not is answered here, and fasthttp hears of the end alone.
func (c *conn) nextHead() error {
	if !c.settle() || !c.phase.CompareAndSwap(active, idle) || c.srv.draining.Load() {
		return io.EOF
	}
	c.in.shrink()
	if c.body.src != nil {
		// A client on the same host asks again at once, and its backend there answers
		// at once, so that nothing here ever waits: such a connection would hold its
		// processor until it is preempted (10 ms), and others behind it with it.
		runtime.Gosched()
	}
	c.wait = c.srv.limits.idle
	for range 4 { // empty lines before a request line are ignored, within reason
		if len(c.in.buffered()) == 0 {
			if err := c.in.fill(firstBuffer); err != nil {
				return io.EOF
			}
		}
		if b := c.in.buffered(); b[0] != '\r' && b[0] != '\n' {
			break
		} else if b[0] == '\r' && len(b) > 1 && b[1] == '\n' {
			c.in.discard(2)
		} else if len(b) == 1 && b[0] == '\r' {
			if err := c.in.fill(firstBuffer); err != nil {
				return io.EOF
			}
		} else {
			break
		}
	}
	if !c.phase.CompareAndSwap(idle, active) {
		return io.EOF // Shutdown was faster
	}
	var scan headScan
	begun := false
	for {
		b := c.in.buffered()
		if len(b) > 0 && !tokenBytes[b[0]] {
			return c.refuse(400)
		}
		n, status := scan.next(b)
		if status == 0 && n > 0 {
			status = c.head.parse(b[:n])
		}
		if status != 0 {
			return c.refuse(status)
		}
		if n > 0 {
			c.unread = b[:n]
			c.in.discard(n)
			break
		}
		if !begun { // the limit is absolute, so it is set once
			begun = true
			c.wait, c.readBy = 0, time.Now().Add(c.srv.limits.head)
			_ = c.Conn.SetReadDeadline(c.readBy)
		}
		if err := c.in.fill(maxRequestLine + maxFieldBlock + 2); err != nil {
			return io.EOF
		}
	}
	c.wait = c.srv.limits.stall
	c.pending = c.head.expects
	switch {
	case c.head.length == unknownLength:
		c.body.reset(&c.in, chunkedBody, 0)
	case c.head.length > 0:
		c.body.reset(&c.in, fixedBody, c.head.length)
	default:
		c.body.reset(&c.in, noBody, 0)
	}
	return nil
}

// headRead is fasthttp's hook behind its parser. The parser is to see a request
// without body at a path that needs no parsing: target and body come from attach.
func headRead(h *fasthttp.RequestHeader) (rc fasthttp.RequestConfig) {
	h.SetRequestURIBytes(root)
	h.Del(fasthttp.HeaderExpect)
	if h.ContentLength() != -2 { // neither length nor chunked
		h.SetContentLength(0)
	}
	return rc
}

var root = []byte{'/'}

// attach gives a request its target and body.
func (c *conn) attach(ctx *fasthttp.RequestCtx) {
	if len(c.head.target) != 1 || c.head.target[0] != '/' {
		ctx.Request.SetRequestURIBytes(c.head.target)
	}
	if c.body.framing != noBody {
		ctx.Request.SetBodyStream((*clientBody)(c), int(c.head.length))
	}
}

// keeps reports whether the connection can serve another request after this
// one, as far as the unread rest of the body tells.
func (c *conn) keeps() bool {
	return !c.pending && c.body.remaining() <= maxDiscard && (c.body.err == nil || c.body.complete())
}

// settle throws away the rest of the last request's body, so that no byte of it
// becomes a request line. It reports whether the connection is still in step.
func (c *conn) settle() bool {
	if c.body.complete() || c.body.src == nil {
		return true
	}
	if !c.keeps() {
		c.lingers = true
		return false
	}
	c.wait, c.readBy = 0, time.Now().Add(c.srv.limits.discard)
	_ = c.Conn.SetReadDeadline(c.readBy)
	_, err := io.CopyN(io.Discard, &c.body, maxDiscard+1)
	c.lingers = err != io.EOF
	return err == io.EOF
}

// refuse answers a head that nobody may see. The text is fixed: nothing of the
// request is repeated.
func (c *conn) refuse(status int) error {
	c.lingers = true
	_, _ = c.Write(c.srv.refusal(c, status))
	return io.EOF
}

// Write sends bytes of an answer, or keeps them until Uncork.
func (c *conn) Write(p []byte) (int, error) {
	if c.corked {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.send(p)
}

// The loop sets deadlines only to clear them before an upgrade; ours stay.

func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// closeIdle closes a connection that is between requests, from any goroutine. One
// of HTTP/2 takes no more, and closes when it has answered.
func (c *conn) closeIdle() {
	if c.phase.CompareAndSwap(idle, closed) {
		_ = c.sock.Close()
	} else if h := c.h2.Load(); h != nil {
		h.drain()
	}
}

// Kill closes the connection at once, from any goroutine. Whoever serves it
// meets an error and calls Close.
func (c *conn) Kill() { _ = c.sock.Close() }

// Close ends the connection. If the client may still be sending, the answer is
// given time to arrive: closing a socket that has unread input resets it, and a
// reset takes the answer with it (RFC 9112, section 9.6).
func (c *conn) Close() error {
	c.closeOnce.Do(func() {
		unread := c.lingers || c.body.src != nil && !c.body.complete()
		if c.phase.Swap(closed) == active && unread && c.CloseWrite() == nil {
			_ = c.sock.SetReadDeadline(time.Now().Add(c.srv.limits.discard))
			_, _ = io.CopyN(io.Discard, c.sock, maxDiscard)
		}
		c.dropLogin()
		_ = c.Conn.Close() // on TLS with the alert that tells this from a cut
		c.srv.gone(c)
	})
	return nil
}

// CloseWrite tells the client that nothing more comes.
func (c *conn) CloseWrite() error { return closeWrite(c.Conn) }

// Reset makes sure that the client does not take the end for a clean one, where
// only the end of the connection marks the end of the answer.
func (c *conn) Reset() { abort(c.sock) }
