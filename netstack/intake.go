package netstack

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// What connections of this server keep of what a peer sends until it is read, in
// bytes of buffer; half of that is the window that the peer is told. A connection of
// which little is read has little: where a client of the proxy does not read, its
// answer is to stay at the peer, and not to keep the tunnel busy and fill this
// server's memory. The stack's own tuning knows one connection, and not what all of
// them hold.
const (
	// intakeFirst is for a new connection, and the least for any: a page at once.
	intakeFirst = 256 << 10

	// intakeTime is how soon a window has to be read to be doubled, up to
	// tcpReceiveMax: at the longest round trip that common paths have, the window is
	// what holds such a flow up.
	intakeTime = 250 * time.Millisecond

	// intakeBudget is for what connections of one peer have beyond intakeFirst, all
	// together. One takes at most a quarter of what is left at a time, so that there
	// is some for the next. When there is not, those give back of which little was
	// read since that last happened, at least intakeEpoch ago: all but what they hold.
	intakeBudget = 32 << 20
	intakeEpoch  = time.Second
)

// intakes shares out intakeBudget among the connections of one peer.
type intakes struct {
	mu     sync.Mutex
	wide   map[*intake]struct{} // beyond intakeFirst
	taken  int64                // of the budget
	looked time.Time            // when there last was not enough
}

// intake is the receive buffer of one connection.
type intake struct {
	all *intakes
	ep  tcpip.Endpoint
	got atomic.Int64 // bytes read
	due atomic.Int64 // value of got at which to look at the time

	// Guarded by all.mu:

	size   int64
	since  time.Time // when the window before this one had been read
	seen   int64     // value of got when there last was not enough of the budget, below 0: there was
	closed bool
}

func (all *intakes) add(ep tcpip.Endpoint) *intake {
	in := &intake{all: all, ep: ep, since: time.Now()}
	ep.SocketOptions().SetReceiveBufferSize(intakeFirst, true) // ends the stack's own tuning
	in.resizeLocked(intakeFirst)                               // nobody else knows it yet
	return in
}

// read notes that n bytes were read. That mostly costs two atomic operations.
func (in *intake) read(n int) {
	if in.got.Add(int64(n)) >= in.due.Load() {
		in.all.judge(in, time.Now())
	}
}

// resizeLocked sets the size. A smaller one holds back what the peer has not been
// allowed to send yet.
func (in *intake) resizeLocked(size int64) {
	in.size = size
	in.ep.SocketOptions().SetReceiveBufferSize(size, false)
	if size == tcpReceiveMax {
		in.due.Store(math.MaxInt64)
	} else {
		in.due.Store(in.got.Load() + size/2)
	}
}

// judge doubles the window that was just read, if that was done fast enough.
func (all *intakes) judge(in *intake, now time.Time) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if in.closed || in.got.Load() < in.due.Load() {
		return
	}
	fast := now.Sub(in.since) <= intakeTime
	in.since = now
	more := min(2*in.size, tcpReceiveMax)
	if !fast || !all.takeLocked(in, more-in.size, now) {
		in.resizeLocked(in.size)
		return
	}
	if all.wide == nil {
		all.wide = make(map[*intake]struct{})
	}
	all.wide[in], in.seen = struct{}{}, -1
	in.resizeLocked(more)
}

// takeLocked takes n of the budget for one.
func (all *intakes) takeLocked(one *intake, n int64, now time.Time) bool {
	if 4*n > intakeBudget-all.taken && now.Sub(all.looked) >= intakeEpoch {
		all.looked = now
		for in := range all.wide {
			if got := in.got.Load(); in != one && in.seen >= 0 && got-in.seen < intakeFirst {
				all.narrowLocked(in)
			} else {
				in.seen = got
			}
		}
	}
	if 4*n > intakeBudget-all.taken {
		return false
	}
	all.taken += n
	return true
}

// narrowLocked takes from in what it has beyond intakeFirst and does not hold.
func (all *intakes) narrowLocked(in *intake) {
	held, _ := in.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption) // 0 of a closed one
	size := min(in.size, intakeFirst+2*int64(held))
	all.taken -= in.size - size
	if in.resizeLocked(size); size == intakeFirst {
		delete(all.wide, in)
	}
}

// close gives back what the connection has of the budget.
func (in *intake) close() {
	in.all.mu.Lock()
	defer in.all.mu.Unlock()
	if !in.closed {
		in.closed = true
		in.all.taken -= in.size - intakeFirst
		delete(in.all.wide, in)
	}
}
