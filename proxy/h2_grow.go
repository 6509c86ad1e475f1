package proxy

import (
	"time"

	"golang.org/x/net/http2"
)

// h2window is a receive window, of a stream or of a connection. The lock of the
// connection is held for all of it.
type h2window struct {
	left   int64 // bytes that the client may send
	size   int64 // left when nothing is under way
	credit int64 // read, and not yet given back
	taken  int64 // read since epoch
	epoch  time.Time
}

// fast reports whether all of the window has been read within two round trips: the
// client is then held up by the window, or soon will be, and the backend is not.
func (w *h2window) fast(now time.Time, trip time.Duration) bool {
	begun := !w.epoch.IsZero()
	if begun && w.taken < w.size {
		return false
	}
	within := now.Sub(w.epoch)
	w.epoch, w.taken = now, 0
	return begun && within < 2*trip
}

// h2trip is how long a round trip to a client takes, by a PING now and then while
// bodies come in.
type h2trip struct {
	asked    bool
	since    time.Time     // when
	next     time.Time     // not to be asked before
	shortest time.Duration // 0: not known yet
}

const (
	// shortTrip is a round trip for which the first windows are more than enough:
	// 256 KiB are 64 MB/s.
	shortTrip = 4 * time.Millisecond
	tripPause = time.Second
)

// tripData is what our PINGs carry; there is one at a time.
var tripData = [8]byte{'r', 'o', 'u', 'n', 'd'}

// askTripLocked sends a PING if it is time for one.
func (h *h2conn) askTripLocked(now time.Time) {
	if t := &h.trip; !t.asked && !now.Before(t.next) {
		t.asked, t.since, t.next = true, now, now.Add(tripPause)
		h.out = append(appendFrame(h.queueLocked(), len(tripData), http2.FramePing, 0, 0), tripData[:]...)
	}
}

// tripLocked takes the answer to a PING. It reports false if none was asked for.
func (h *h2conn) tripLocked(data [8]byte) bool {
	t := &h.trip
	if !t.asked || data != tripData {
		return false
	}
	t.asked = false
	// What waits behind bodies takes longer than the way.
	if took := max(time.Since(t.since), 1); t.shortest == 0 || took < t.shortest {
		t.shortest = took
	}
	return true
}

// giveLocked gives the credit of a window back, of the connection if st is nil, and
// more where it is too small for the way.
func (h *h2conn) giveLocked(st *h2stream) {
	now := time.Now()
	id, w, most := uint32(0), &h.window, int64(connWindowMost)
	if st != nil {
		// What was lent to the connection bounds the sum of its streams.
		id, w, most = st.id, &st.window, min(streamWindowMost, h.window.size)
		if w.size < streamWindowMost {
			h.askTripLocked(now)
		}
	}
	n := w.credit
	if h.trip.shortest >= shortTrip && w.fast(now, h.trip.shortest) {
		if add := min(w.size, most-w.size); add > 0 && (st != nil || h.srv.growth(h.conn.tally).take(add)) {
			w.size += add
			n += add
		}
	}
	w.credit = 0
	w.left += n
	h.out = appendWindowUpdate(h.queueLocked(), id, uint32(n))
}

// unread is how much is kept of a body. The lock of the connection is held.
func (st *h2stream) unread() int64 { return int64(len(st.in) - st.off) }
