package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// h2stream is one request on an HTTP/2 connection. The goroutine that reads holds
// it while it is in h.streams, its handler until run returns.
type h2stream struct {
	h      *h2conn
	id     uint32
	bridge *bridge
	status int    // of the head
	block  []byte // field section of the answer, encoded

	trailers streamTrailer // written before inEnd

	// Guarded by h.mu:

	in      []byte // in[off:] was received and not yet read
	off     int
	inEnd   bool  // the client has sent its end
	expects int64 // bytes that its length still promises; below 0 if it has none
	window  int64 // bytes that it may send
	credit  int64 // read, and not yet given back

	sendable    int64 // bytes that the client takes
	outEnd      bool  // our end was sent
	counted     bool  // no longer in h.open
	lost        error // nothing can be read or written: reset, or the connection is gone
	reset       bool  // by either side
	stopped     bool  // reads are to fail
	upgraded    bool
	waits       int       // goroutines that wait
	waitsSince  time.Time // since when no byte has gone either way; zero: none was waited for
	wantsWindow bool
	blocked     time.Time // since when an answer waits for a window; zero: it does not
	wake        sync.Cond

	watch sync.Mutex // held while gone runs
	gone  func()
}

var (
	_ stream = (*h2stream)(nil)

	errStreamReset = errors.New("stream reset")
	errStalled     = os.ErrDeadlineExceeded
)

func (h *h2conn) newStream(id uint32) *h2stream {
	st := h.srv.h2streams.Get().(*h2stream)
	st.h, st.id, st.window = h, id, h2StreamWindow
	st.wake.L = &h.mu
	st.bridge = h.srv.newBridge(&h.origin, st)
	return st
}

// run serves a request, in a goroutine of its own.
func (st *h2stream) run() {
	h := st.h
	defer h.workers.Done()
	defer h.conn.tally.answered()
	defer h.srv.survive("stream", h.conn.Kill)
	st.bridge.serve(st.status)
	h.mu.Lock()
	if !st.reset {
		switch {
		case !st.outEnd:
			st.resetLocked(http2.ErrCodeInternal)
		case !st.inEnd: // the client may stop sending (RFC 9113, section 8.1)
			st.resetLocked(http2.ErrCodeNo)
		}
	}
	h.srv.kept(h.conn.tally).give(st.unread())
	h.creditLocked(nil, st.unread())
	h.removeLocked(st)
	h.flushLocked()
	h.mu.Unlock()
	st.release()
}

// removeLocked forgets a stream.
func (h *h2conn) removeLocked(st *h2stream) {
	delete(h.streams, st.id)
	h.noteEndLocked(st.id, ended)
	st.uncountLocked()
	if len(h.streams) == 0 {
		h.idle = time.Now()
		h.finishLocked()
	}
}

// uncountLocked makes room for another stream.
func (st *h2stream) uncountLocked() {
	if !st.counted {
		st.counted = true
		st.h.open--
	}
}

// release gives the stream back, once nobody can reach it.
func (st *h2stream) release() {
	st.watch.Lock() // a callback may be running
	st.gone = nil
	st.watch.Unlock()
	srv := st.h.srv
	st.bridge.release()
	if st.upgraded {
		return // whoever ends upgrades may still be about to reset it, in vain
	}
	in, block, lines := st.in[:0], st.block[:0], st.trailers.lines[:0]
	if cap(in) > maxInlineBody {
		in = nil
	}
	if cap(block) > maxInlineBody {
		block = nil
	}
	*st = h2stream{in: in, block: block, trailers: streamTrailer{lines: lines}}
	srv.h2streams.Put(st)
}

// loseLocked makes everything on the stream fail, and tells who watches. It
// unlocks h.mu, for which the callback must not wait.
func (st *h2stream) loseLocked(err error) {
	if st.lost == nil {
		st.lost = err
	}
	st.wake.Broadcast()
	st.watch.Lock()
	defer st.watch.Unlock()
	st.h.mu.Unlock()
	if st.gone != nil {
		st.gone()
	}
}

func (st *h2stream) Watch(gone func()) {
	st.watch.Lock()
	st.gone = gone
	st.watch.Unlock()
	st.h.mu.Lock()
	lost := st.lost
	st.h.mu.Unlock()
	if lost != nil {
		gone()
	}
}

func (st *h2stream) Unwatch() {
	st.watch.Lock()
	st.gone = nil
	st.watch.Unlock()
}

// answered reports whether the answer has been sent to its end, after which the
// body is thrown away.
func (st *h2stream) answered() bool { return st.outEnd && !st.upgraded }

// waitLocked waits until something has changed, which need not be what is waited
// for: the time goes on until movedLocked says so.
func (st *h2stream) waitLocked() {
	if st.waitsSince.IsZero() {
		st.waitsSince = time.Now()
	}
	st.waits++
	st.wake.Wait()
	st.waits--
}

// movedLocked says that bytes have gone, or that none are to come.
func (st *h2stream) movedLocked() { st.waitsSince = time.Time{} }

// tidyLocked ends a wait that has lasted too long.
func (st *h2stream) tidyLocked(now time.Time) {
	limit := st.h.srv.limits.stall
	if st.upgraded {
		limit = st.h.srv.limits.upgradeIdle
	}
	switch {
	case st.waits == 0 || st.lost != nil:
	case !st.blocked.IsZero() && now.Sub(st.blocked) >= st.h.srv.limits.stall:
		st.lost = errStalled // what the client sends is no sign that it reads
		st.wake.Broadcast()
	case st.waitsSince.IsZero(): // the other direction has moved
		st.waitsSince = now
	case now.Sub(st.waitsSince) >= limit:
		st.lost = errStalled
		st.wake.Broadcast()
	}
}

func (st *h2stream) Read(p []byte) (int, error) {
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case st.stopped:
			return 0, os.ErrDeadlineExceeded
		case st.lost != nil:
			return 0, st.lost
		case st.off < len(st.in):
			st.movedLocked()
			n := copy(p, st.in[st.off:])
			st.off += n
			st.shrink()
			h.srv.kept(h.conn.tally).give(int64(n))
			h.creditLocked(st, int64(n))
			h.flushLocked()
			return n, nil
		case st.inEnd:
			st.movedLocked()
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		st.waitLocked()
	}
}

// unread is how much is kept of a body. The lock of the connection is held.
func (st *h2stream) unread() int64 { return int64(len(st.in) - st.off) }

// shrink gives back a buffer that little is left in: a body may pause for hours.
func (st *h2stream) shrink() {
	rest := st.in[st.off:]
	switch large := cap(st.in) > h2KeptBuffer; {
	case large && len(rest) <= cap(st.in)/4:
		st.in, st.off = append(make([]byte, 0, 2*len(rest)), rest...), 0
	case len(rest) == 0:
		st.in, st.off = st.in[:0], 0
	}
}

// keepLocked keeps bytes of the body until they are read. What was read before makes
// room for them: a client that always has more to send than a backend takes never
// lets the buffer run empty. The move pays for itself, as it is of no more than twice
// what was read: the buffer is at most half as large again as the window.
func (st *h2stream) keepLocked(data []byte) {
	fits := func() bool { return len(st.in)+len(data) <= cap(st.in) }
	const most = h2StreamWindow * 3 / 2
	unread := len(st.in) - st.off
	if !fits() && (st.off > unread || cap(st.in) >= most) {
		st.in, st.off = st.in[:copy(st.in, st.in[st.off:])], 0
	}
	if !fits() {
		grown := make([]byte, unread, max(unread+len(data), min(2*cap(st.in), most)))
		copy(grown, st.in[st.off:])
		st.in, st.off = grown, 0
	}
	st.in = append(st.in, data...)
}

func (st *h2stream) Take(limit int) ([]byte, bool) {
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	b := st.in[st.off:]
	if !st.inEnd || st.lost != nil || len(b) > limit || len(st.trailers.lines) > 0 {
		return nil, false
	}
	st.off = len(st.in) // nothing is received any more, so b stays
	h.srv.kept(h.conn.tally).give(int64(len(b)))
	h.creditLocked(nil, int64(len(b)))
	return b, true
}

func (st *h2stream) Received() bool {
	st.h.mu.Lock()
	defer st.h.mu.Unlock()
	return len(st.in) > 0 || st.inEnd
}

func (st *h2stream) Stop() { st.setStopped(true) }

func (st *h2stream) Stopped() { st.setStopped(false) }

func (st *h2stream) setStopped(on bool) {
	st.h.mu.Lock()
	defer st.h.mu.Unlock()
	st.stopped = on
	st.wake.Broadcast()
}

func (st *h2stream) Trailer() []byte { return st.trailers.lines }

func (st *h2stream) Upgraded() {
	st.h.mu.Lock()
	defer st.h.mu.Unlock()
	st.upgraded = true
}

// Retire has the client open another connection for its next request.
func (st *h2stream) Retire() { st.h.drain() }

// Cut resets in order: what was written is queued already.
func (st *h2stream) Cut() { st.Reset() }

func (st *h2stream) Reset() { st.abort(http2.ErrCodeInternal) }

func (st *h2stream) FallBack() { st.abort(http2.ErrCodeHTTP11Required) }

func (st *h2stream) abort(code http2.ErrCode) {
	h := st.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if st.reset || st.outEnd && st.inEnd {
		return
	}
	if st.upgraded {
		code = http2.ErrCodeCancel // RFC 8441, section 5
	}
	st.resetLocked(code)
	h.flushSoonLocked()
}

// resetLocked resets the stream. With ErrCodeNo only the client's part of it was
// still open.
func (st *h2stream) resetLocked(code http2.ErrCode) {
	st.h.resetLocked(st.id, code)
	st.reset = true
	if st.lost == nil {
		st.lost = errStreamReset
	}
	st.wake.Broadcast()
}

// refuse answers a stream error. A handler, if there is one, meets it.
func (h *h2conn) refuse(id uint32, code http2.ErrCode) error {
	h.mu.Lock()
	err := h.strikeLocked(1)
	if st := h.streams[id]; st != nil {
		if h.endLocked(id) != resetByUs {
			st.resetLocked(code)
		}
		st.loseLocked(errStreamReset) // unlocks
		return err
	}
	h.resetLocked(id, code)
	h.mu.Unlock()
	return err
}

// resetLocked resets a stream, and remembers it: frames may be on their way.
func (h *h2conn) resetLocked(id uint32, code http2.ErrCode) {
	h.out = appendReset(h.queueLocked(), id, code)
	h.noteEndLocked(id, resetByUs)
}

// h2end is how a stream ended.
type h2end struct {
	id  uint32
	how h2ending
}

type h2ending uint8

const (
	notKnown  h2ending = iota
	ended              // by both sides, or by a reset of the client
	resetByUs          // the client may not know yet
)

func (h *h2conn) endLocked(id uint32) h2ending {
	for i := range h.ends {
		if h.ends[i].id == id {
			return h.ends[i].how
		}
	}
	return notKnown
}

// knownLocked notes that the client has ended a stream, too: it sends nothing more.
func (h *h2conn) knownLocked(id uint32) {
	for i := range h.ends {
		if h.ends[i].id == id {
			h.ends[i].how = ended
		}
	}
}

func (h *h2conn) noteEndLocked(id uint32, how h2ending) {
	if how == ended && h.endLocked(id) != notKnown {
		return
	}
	h.ends[h.endAt] = h2end{id, how}
	h.endAt = (h.endAt + 1) % len(h.ends)
}
