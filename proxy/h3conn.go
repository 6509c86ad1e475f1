package proxy

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"gatecontrol/model"
)

// Error codes of HTTP/3 (RFC 9114, section 8.1; RFC 9204, section 8.3).
const (
	h3NoError              = 0x100
	h3InternalError        = 0x102
	h3StreamCreationError  = 0x103
	h3ClosedCriticalStream = 0x104
	h3FrameUnexpected      = 0x105
	h3FrameError           = 0x106
	h3ExcessiveLoad        = 0x107
	h3IDError              = 0x108
	h3SettingsError        = 0x109
	h3MissingSettings      = 0x10a
	h3RequestRejected      = 0x10b
	h3RequestCancelled     = 0x10c
	h3RequestIncomplete    = 0x10d
	h3MessageError         = 0x10e
	h3VersionFallback      = 0x110
	h3DecompressionFailed  = 0x200
	h3EncoderStreamError   = 0x201
)

// h3Conn is one HTTP/3 connection. We speak the framing ourselves, on quic-go's
// streams, rather than through its http3.Server: that one hands over a map of
// canonical names and a parsed URL, which loses the order of fields and the bytes
// of the target, has no limit on the number of fields, and resets what the other
// versions answer with a status.
type h3Conn struct {
	srv   *Server
	qc    *quic.Conn
	tally *tally
	host  bool // not through the tunnel
	slots chan struct{}
	tasks sync.WaitGroup // requests, and readers of unidirectional streams

	control  *quic.SendStream // nil until run has opened it
	critical [3]bool          // unidirectional streams that were seen; guarded by mu

	mu       sync.Mutex
	from     *origin       // of new streams
	active   int           // requests that are being served
	accepted quic.StreamID // the first one that was not accepted yet
	draining bool
	said     bool        // GOAWAY was sent
	goodbye  *time.Timer // closes a drained connection
	idle     *time.Timer // drains one without requests, whatever else comes on it
	since    time.Time   // when the last request ended
}

func newH3Conn(s *Server, qc *quic.Conn, v *visitor) *h3Conn {
	c := &h3Conn{srv: s, qc: qc, tally: v.tally, host: v.door.host, slots: make(chan struct{}, maxStreams)}
	local, remote := qc.LocalAddr(), qc.RemoteAddr()
	c.from = &origin{
		version: version3, local: local, remote: remote,
		addr: addrPort(remote).Addr(), port: addrPort(local).Port(), born: v.born, tally: v.tally,
	}
	c.from.name, _ = model.NormalizeHost(qc.ConnectionState().TLS.ServerName)
	return c
}

// run serves the connection until it ends, and waits for its requests.
func (c *h3Conn) run() {
	defer func() {
		c.tasks.Wait()
		c.mu.Lock()
		for _, t := range []*time.Timer{c.goodbye, c.idle} {
			if t != nil {
				t.Stop()
			}
		}
		c.mu.Unlock()
	}()
	if !c.greet() {
		c.fail(h3InternalError)
		return
	}
	c.mu.Lock()
	c.restLocked()
	c.mu.Unlock()
	c.tasks.Go(c.acceptUni)
	ctx := c.qc.Context()
	for {
		// A stream that was reset makes room for the next one at once, but its
		// handler may still run: it counts until it has ended.
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		str, err := c.qc.AcceptStream(ctx)
		if err != nil {
			return
		}
		if !c.enter(str) {
			<-c.slots
			str.CancelRead(h3RequestRejected)
			str.CancelWrite(h3RequestRejected)
			continue
		}
		c.tasks.Go(func() {
			defer c.leave()
			defer c.srv.survive("request", func() {
				str.CancelRead(h3InternalError)
				str.CancelWrite(h3InternalError)
			})
			c.serve(str)
		})
	}
}

// greet opens our control stream with our settings: limits of a head, extended
// CONNECT (RFC 9220), and by silence no dynamic table for QPACK.
func (c *h3Conn) greet() bool {
	control, err := c.qc.OpenUniStream()
	if err != nil {
		return false
	}
	var settings []byte
	settings = quicvarint.Append(settings, settingMaxFieldSection)
	settings = quicvarint.Append(settings, maxFieldBlock)
	settings = quicvarint.Append(settings, settingConnectProtocol)
	settings = quicvarint.Append(settings, 1)
	b := quicvarint.Append(nil, controlStream)
	b = appendFrameHead(b, settingsFrame, len(settings))
	if _, err := control.Write(append(b, settings...)); err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control = control
	if c.draining {
		c.sayGoodbye()
	}
	return true
}

// enter counts a request, unless the client was told to open no more, or has as many
// as it may have on all its connections.
func (c *h3Conn) enter(str *quic.Stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining && str.StreamID() >= c.accepted {
		return false
	}
	if !c.tally.ask(&c.srv.limits) {
		c.srv.hits.at(limitStreams)
		return false
	}
	c.accepted = max(c.accepted, str.StreamID()+4)
	c.active++
	return true
}

func (c *h3Conn) leave() {
	c.tally.answered()
	c.mu.Lock()
	c.active--
	if c.active == 0 {
		c.restLocked()
		if c.draining {
			c.sayGoodbye()
		}
	}
	c.mu.Unlock()
	<-c.slots
}

// restLocked begins the time that a connection may be kept without a request. QUIC's
// own limit is of silence, and a client breaks that as often as it likes.
func (c *h3Conn) restLocked() {
	c.since = time.Now()
	if c.idle == nil {
		c.idle = time.AfterFunc(c.srv.limits.idle, c.tire)
	} else {
		c.idle.Reset(c.srv.limits.idle)
	}
}

// tire drains the connection if it has rested for too long.
func (c *h3Conn) tire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active > 0 || c.draining || c.qc.Context().Err() != nil {
		return // leave begins the time anew
	}
	if left := c.srv.limits.idle - time.Since(c.since); left > 0 {
		c.idle.Reset(left)
		return
	}
	c.draining = true
	c.sayGoodbye()
}

// drain asks the client to open no more streams, and has the connection end with
// its last request. It may be called from any goroutine.
func (c *h3Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining {
		c.draining = true
		c.sayGoodbye()
	}
}

// sayGoodbye sends GOAWAY, once, and closes the connection a moment after its last
// request: a client that heard closes it sooner, and one whose answer is still on
// its way gets it. mu is held.
func (c *h3Conn) sayGoodbye() {
	if c.control == nil {
		return // greet does it
	}
	if control := c.control; !c.said {
		c.said = true
		b := appendFrameHead(nil, goawayFrame, quicvarint.Len(uint64(c.accepted)))
		_ = control.TryWriteAll(quicvarint.Append(b, uint64(c.accepted)))
	}
	if c.active == 0 && c.goodbye == nil {
		c.goodbye = time.AfterFunc(c.srv.limits.goodbye, func() { c.fail(h3NoError) })
	}
}

// Kill ends the connection at once, from any goroutine.
func (c *h3Conn) Kill() { c.fail(h3NoError) }

// fail ends the connection with a code of HTTP/3.
func (c *h3Conn) fail(code quic.ApplicationErrorCode) {
	if code == h3ExcessiveLoad {
		c.srv.hits.at(limitFloodH3)
	}
	_ = c.qc.CloseWithError(code, "")
}

// origin is where the next request comes from: a client may move to another
// address, and proves that it is there when it does (RFC 9000, section 9).
func (c *h3Conn) origin() *origin {
	remote := c.qc.RemoteAddr()
	addr := addrPort(remote).Addr()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from.addr != addr && !(c.host && c.srv.inside(addr)) {
		moved := *c.from
		moved.remote, moved.addr = remote, addr
		c.from = &moved
	}
	return c.from
}

func (c *h3Conn) acceptUni() {
	ctx := c.qc.Context()
	for {
		str, err := c.qc.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		c.tasks.Go(func() {
			if code := c.readUni(str); code != 0 {
				c.fail(code)
			}
		})
	}
}

// readUni reads a unidirectional stream to its end. It returns the code that the
// connection ends with, 0 if it goes on.
func (c *h3Conn) readUni(str *quic.ReceiveStream) quic.ApplicationErrorCode {
	in := source{r: str, buf: make([]byte, uniBuffer)}
	kind, err := readVarint(&in)
	if err != nil {
		return 0 // it may end before it has said what it is (RFC 9114, section 6.2)
	}
	switch kind {
	case controlStream, encoderStream, decoderStream:
		if !c.first(kind) {
			return h3StreamCreationError
		}
	case pushStream:
		return h3StreamCreationError // clients cannot push
	default:
		str.CancelRead(h3StreamCreationError)
		return 0
	}
	switch kind {
	case controlStream:
		err = c.readControl(&in)
	case encoderStream:
		err = readEncoder(&in)
	default:
		_, err = io.Copy(io.Discard, struct{ io.Reader }{&in}) // nothing to cancel or acknowledge
		if err == nil {
			err = io.EOF
		}
	}
	var code h3Error
	var reset *quic.StreamError
	switch {
	case errors.As(err, &code):
		return quic.ApplicationErrorCode(code)
	case err == io.EOF, err == io.ErrUnexpectedEOF, errors.As(err, &reset):
		return h3ClosedCriticalStream
	}
	return 0 // the connection has ended
}

// first reports whether a stream of that kind, which there is one of, is new.
func (c *h3Conn) first(kind uint64) bool {
	i := 0
	switch kind {
	case encoderStream:
		i = 1
	case decoderStream:
		i = 2
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.critical[i]
	c.critical[i] = true
	return !seen
}

// readControl reads the client's control stream (RFC 9114, section 6.2.1). Its
// settings are limits on what we send that our answers stay below anyway, and
// priorities are left to the client, so it is only checked.
func (c *h3Conn) readControl(in *source) error {
	for first := true; ; first = false {
		kind, length, err := nextFrame(in)
		if err != nil {
			return err
		}
		if first != (kind == settingsFrame) {
			if first {
				return h3Error(h3MissingSettings)
			}
			return h3Error(h3FrameUnexpected)
		}
		switch kind {
		case settingsFrame:
			err = readSettings(in, length)
		case dataFrame, headersFrame, pushPromiseFrame, 0x2, 0x6, 0x8, 0x9:
			return h3Error(h3FrameUnexpected)
		case cancelPushFrame, goawayFrame, maxPushFrame:
			err = readID(in, length)
		default:
			err = discardFrame(in, length)
		}
		if err != nil {
			return err
		}
	}
}
