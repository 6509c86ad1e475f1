package proxy

import (
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of HTTP/2 connections. What is not a setting of ours is not announced,
// and so has its default (RFC 9113, section 6.5.2).
const (
	h2MaxStreams    = 100       // concurrent, by clients' count and by that of running handlers
	h2StreamWindow  = 256 << 10 // bytes of a body that wait for a slow backend, per stream
	h2ConnWindow    = 512 << 10 // and for all streams of a connection
	h2KeptBuffer    = 32 << 10  // buffer of a body that stays although little is in it
	h2MaxFrame      = 16 << 10  // the default, both ways: larger frames save nothing
	h2MaxBlock      = 64 << 10  // a compressed field section, which mostly is smaller than the plain one
	h2MaxPieces     = 16        // CONTINUATION frames of a section: four full ones hold h2MaxBlock
	h2MaxQueue      = 47 << 10  // bytes that wait to be written; beyond it, answers wait: one frame more fits a h2queue
	h2MaxSettings   = 64        // in a frame: each can change the window of every stream
	h2EndsKept      = 64        // last streams that ended, of which frames may still be on their way
	h2DefaultWindow = 65535
)

// h2queue is the buffer of what waits to be written.
type h2queue [64 << 10]byte

// h2Preface is what a client begins with (RFC 9113, section 3.4).
const h2Preface = http2.ClientPreface

// h2conn is an HTTP/2 connection: the second door of the pipeline. Its own
// goroutine reads frames, decodes field sections into bridges and has a goroutine
// run each request; nothing that it does waits for a handler or for the client to
// read. Everybody appends frames to one queue, and who finds nobody writing,
// writes all that has gathered, so that under load many answers leave at once.
type h2conn struct {
	conn   *conn
	srv    *Server
	origin origin

	// Of the goroutine that reads:

	in       source
	framer   *http2.Framer
	decoder  *hpack.Decoder
	section  h2section
	deferred []*h2stream // not started: the rest of a small body may be here
	greeted  bool        // the preface was read
	waitFor  h2wait

	mu       sync.Mutex
	streams  map[uint32]*h2stream
	open     int    // streams that count against h2MaxStreams
	maxID    uint32 // the highest one of the client
	served   uint32 // the highest one that was not ignored
	patience calm
	ends     [h2EndsKept]h2end
	endAt    int
	idle     time.Time // since when there has been no stream
	janitor  *time.Timer

	out      []byte // frames that wait to be written
	writing  bool   // somebody writes, and will look at out again
	room     sync.Cond
	cleared  bool  // the encoder's empty table was announced
	sendable int64 // what the client takes on all streams together
	initial  int64 // what it takes on a new one
	window   int64 // what we take on all streams together
	credit   int64 // used of window and not yet given back

	draining bool // a GOAWAY was sent: no new streams
	dead     bool // nothing can be read or written any more
	// workers counts handlers and writers. Additions happen under mu while dead
	// is false, from something that is counted, or by who reads and awaits them.
	workers sync.WaitGroup
}

var errH2Closed = errors.New("connection closed")

func newH2conn(c *conn) *h2conn {
	h := &h2conn{
		conn: c, srv: c.srv,
		origin: origin{
			version: version2, local: c.LocalAddr(), remote: c.RemoteAddr(),
			addr: c.addr, port: c.port, name: c.name, born: c.born, tally: c.tally,
		},
		streams:  make(map[uint32]*h2stream),
		sendable: h2DefaultWindow,
		initial:  h2DefaultWindow,
		window:   h2ConnWindow,
	}
	h.room.L = &h.mu
	h.in.r = h.conn.Conn
	h.framer = http2.NewFramer(nil, &h.in)
	h.framer.SetReuseFrames()
	h.framer.SetMaxReadFrameSize(h2MaxFrame)
	h.decoder = hpack.NewDecoder(4096, h.section.emit)
	h.decoder.SetMaxStringLength(h2MaxBlock)
	return h
}

// serve runs the connection until its end, and waits for its handlers. The caller
// closes it.
func (h *h2conn) serve() {
	now := time.Now()
	h.mu.Lock()
	h.idle = now
	h.janitor = time.AfterFunc(h.tick(), h.tidy)
	h.out = appendSettings(h.queueLocked(),
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: h2MaxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2StreamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxFieldBlock},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
		http2.Setting{ID: http2.SettingNoRFC7540Priorities, Val: 1},
	)
	h.out = appendWindowUpdate(h.out, 0, h2ConnWindow-h2DefaultWindow)
	h.flushLocked() // cannot wait: the socket is empty
	h.mu.Unlock()

	sound := false
	defer func() {
		// A panic is met by the caller; handlers must not be left behind.
		if !sound && h.mu.TryLock() {
			h.mu.Unlock()
			h.end(errPanic)
		}
	}()
	err := h.preface()
	for err == nil {
		err = h.next()
	}
	sound = true
	h.end(err)
}

// preface reads what a client begins with.
func (h *h2conn) preface() error {
	_ = h.conn.Conn.SetReadDeadline(time.Now().Add(h.srv.limits.head))
	for len(h.in.buffered()) < len(h2Preface) {
		if b := h.in.buffered(); string(b) != h2Preface[:len(b)] {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if err := h.in.fill(firstBuffer); err != nil {
			return err
		}
	}
	if string(h.in.buffered()[:len(h2Preface)]) != h2Preface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	h.in.discard(len(h2Preface))
	f, err := h.readFrame()
	if err != nil {
		return err
	}
	if f, ok := f.(*http2.SettingsFrame); !ok || f.IsAck() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	h.greeted, h.waitFor = true, waitAgain
	return h.handle(f)
}

// h2wait is what a read waits for, and so has its deadline from.
type h2wait uint8

const (
	waitFrame h2wait = iota // the next frame: no deadline, since tidy closes what idles
	waitBody                // the rest of a DATA frame
	waitHead                // the rest of another frame, or of a field section: an absolute deadline
	waitAgain               // something new, while a deadline of before is still set
)

// frameHeader is the length of what stands before the payload of a frame.
const frameHeader = 9

// next reads one frame and does what it asks for. Stream errors are dealt with,
// others end the connection.
func (h *h2conn) next() error {
	f, err := h.readFrame()
	if err == nil {
		err = h.handle(f)
	}
	if h.waitFor == waitHead && !h.section.open {
		h.waitFor = waitAgain
	}
	if e, ok := err.(http2.StreamError); ok {
		return h.refuse(e.StreamID, e.Code)
	}
	return err
}

// readFrame returns the next frame, valid until the one after it is read. It waits
// for a whole frame in the buffer, so that each wait has the limit of what it is
// for: a client may be silent between frames, but not within.
func (h *h2conn) readFrame() (http2.Frame, error) {
	length := -1
	kind := http2.FrameSettings // anything but DATA, until it is known
	for {
		b := h.in.buffered()
		if length < 0 && len(b) >= frameHeader {
			length = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
			kind = http2.FrameType(b[3])
			if length > h2MaxFrame {
				return nil, http2.ConnectionError(http2.ErrCodeFrameSize)
			}
		}
		if length >= 0 && len(b) >= frameHeader+length {
			break
		}
		h.beforeWait(len(b) == 0, kind)
		if err := h.in.fill(frameHeader + h2MaxFrame); err != nil {
			return nil, err
		}
	}
	f, err := h.framer.ReadFrame()
	if e, ok := err.(http2.StreamError); ok && (kind == http2.FrameHeaders || kind == http2.FrameContinuation) {
		err = http2.ConnectionError(e.Code) // the tables of the decoder are lost with the frame
	}
	return f, err
}

// beforeWait starts what was put off while there was input, and sets the limit of
// the wait for more.
func (h *h2conn) beforeWait(between bool, kind http2.FrameType) {
	h.startDeferred()
	h.mu.Lock()
	h.flushSoonLocked()
	finished, busy := h.finishedLocked(), len(h.streams) > 0
	h.mu.Unlock()
	if between && !busy {
		h.in.shrink()
	}
	want := waitHead
	switch {
	case !h.greeted || finished:
		return // the deadline is set, and is to stay
	case h.section.open:
	case between:
		want = waitFrame
	case kind == http2.FrameData:
		want = waitBody
	}
	if want == h.waitFor && want != waitBody {
		return
	}
	h.waitFor = want
	switch limits := &h.srv.limits; want {
	case waitFrame:
		h.readUntil(0)
	case waitBody:
		h.readUntil(limits.stall)
	default:
		h.readUntil(limits.head)
	}
}

// readUntil lets reads wait for d from now on, or for ever if d is 0. If the
// connection came to its end meanwhile, the deadline of that stays.
func (h *h2conn) readUntil(d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.finishedLocked() {
		_ = h.conn.Conn.SetReadDeadline(t)
	}
}

// end tears the connection down: every stream is lost, and what can still be said
// is said. err is why.
func (h *h2conn) end(err error) {
	if st := h.section.request; st != nil {
		st.release()
	}
	h.mu.Lock()
	h.janitor.Stop()
	if e, ok := err.(http2.ConnectionError); ok {
		if http2.ErrCode(e) == http2.ErrCodeEnhanceYourCalm {
			h.srv.hits.at(limitFloodH2)
		}
		h.out = appendGoAway(h.queueLocked(), h.served, http2.ErrCode(e))
		h.conn.lingers = true
	}
	for _, st := range h.deferred {
		delete(h.streams, st.id)
		h.conn.tally.answered()
		h.workers.Done()
		h.srv.kept(h.conn.tally).give(st.unread())
		st.release()
	}
	h.draining = true
	for st := h.livingLocked(); st != nil; st = h.livingLocked() {
		st.loseLocked(errH2Closed) // unlocks, and handlers end meanwhile
		h.mu.Lock()
	}
	h.flushSoonLocked()
	h.dead = true
	h.room.Broadcast()
	h.mu.Unlock()
	h.workers.Wait()
}

// livingLocked returns a stream that is not lost, nil if there is none.
func (h *h2conn) livingLocked() *h2stream {
	for _, st := range h.streams {
		if st.lost == nil {
			return st
		}
	}
	return nil
}

// drain ends the connection once its streams have ended, at once if there is none;
// from any goroutine.
func (h *h2conn) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drainLocked(http2.ErrCodeNo)
}

func (h *h2conn) drainLocked(code http2.ErrCode) {
	if h.dead || h.draining {
		return
	}
	h.draining = true
	h.out = appendGoAway(h.queueLocked(), h.served, code)
	h.flushSoonLocked()
}

// finishedLocked reports whether everything is done on a connection that takes no
// more.
func (h *h2conn) finishedLocked() bool {
	return h.draining && !h.writing && len(h.out) == 0 && len(h.streams) == 0
}

// finishLocked then wakes the goroutine that reads, for the last time.
func (h *h2conn) finishLocked() {
	if h.finishedLocked() {
		_ = h.conn.Conn.SetReadDeadline(past)
	}
}

// tick is how often a connection is looked after: limits hold an eighth longer.
func (h *h2conn) tick() time.Duration {
	return max(min(h.srv.limits.idle, h.srv.limits.stall)/8, time.Millisecond)
}

// tidy closes the connection if it has idled for too long, and ends waits of
// streams for a client that does nothing.
func (h *h2conn) tidy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return
	}
	now := time.Now()
	if len(h.streams) == 0 && now.Sub(h.idle) >= h.srv.limits.idle {
		h.drainLocked(http2.ErrCodeNo)
		h.finishLocked()
	}
	for _, st := range h.streams {
		st.tidyLocked(now)
	}
	h.janitor.Reset(h.tick())
}

// calm counts what costs us work and the client nothing: frames that change
// nothing, and requests that it takes back. Answers make up for it, and so does
// time.
type calm struct {
	used  int
	since time.Time
}

const (
	calmBurst  = 512 // more than a browser does when a page with hundreds of images is left
	calmPerSec = 10  // clients that ping to measure do so with answers under way
	calmReset  = 2   // what the reset of an unfinished stream counts: it had a handler
	calmEarned = 4   // what an answer makes up for
)

// strikeLocked counts n and reports when it is too much.
func (h *h2conn) strikeLocked(n int) error {
	c := &h.patience
	if c.used += n; c.used <= calmBurst/2 {
		return nil
	}
	now := time.Now()
	if c.since.IsZero() {
		c.since = now
	}
	if back := int(min(now.Sub(c.since).Seconds(), math.MaxInt32) * calmPerSec); back > 0 {
		c.used, c.since = max(0, c.used-back), now
	}
	if c.used > calmBurst {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

func (h *h2conn) earnLocked(n int) { h.patience.used = max(0, h.patience.used-n) }
