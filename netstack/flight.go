package netstack

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What connections of this server may have on their way to one peer, in bytes.
// Without such a bound each grows until packets are lost, since that is the only
// sign that its congestion control knows. A peer whose machine is the bottleneck
// holds at most a few megabytes in its UDP socket; a dozen connections overrun
// that by tens, again and again, and what this server waits for an answer to it
// has to keep in memory.
const (
	// flightBudget is for all connections of a peer that are moving data: it
	// fills 640 Mbit/s at a round trip of 100 ms.
	flightBudget = 8 << 20

	// minFlight is for a connection that moves little, and the least for any.
	minFlight = 128 << 10

	// flightEpoch is how long a connection counts as moving data after it has
	// written busyBytes.
	flightEpoch = time.Second
	busyBytes   = 64 << 10
)

// flights shares out flightBudget among the connections that are moving data.
type flights struct {
	writeSize int // bytes that leave together

	mu      sync.Mutex
	busy    map[*flight]struct{}
	sweeper *time.Timer // nil until the first, runs while any is busy
	closed  bool
}

// flight is the share of one connection.
type flight struct {
	all  *flights
	of   *identity
	ep   tcpip.Endpoint
	size atomic.Int64 // the share that the endpoint knows
	sent atomic.Int64 // bytes written in this epoch
	busy atomic.Bool

	since time.Time // when this epoch began, while f is not busy; with mu of all
}

func (all *flights) add(ep tcpip.Endpoint, of *identity) *flight {
	f := &flight{all: all, of: of, ep: ep, since: time.Now()}
	f.resize(minFlight)
	return f
}

// write notes that n bytes are about to be written, and keeps the share of f up
// to date. While a connection is moving data that costs two loads.
func (f *flight) write(n int) {
	if f.sent.Add(int64(n)) > busyBytes && !f.busy.Load() {
		f.all.start(f, n)
	}
	if f.busy.Load() {
		if share := share(f.of.moving.Load()); share != f.size.Load() {
			f.resize(share)
		}
	}
}

// share is what one of n connections may have on its way. It changes only when
// n doubles or halves, so that connections are rarely resized.
func share(n int32) int64 {
	parts := int64(1) << bits.Len32(uint32(max(n, 1)-1))
	return min(max(flightBudget/parts, minFlight), tcpSendMax)
}

// full reports whether the share is used up. A closed connection's is not.
func (f *flight) full() bool { return f.ep.Readiness(waiter.WritableEvents) == 0 }

func (f *flight) resize(size int64) {
	f.size.Store(size)
	f.ep.SocketOptions().SetSendBufferSize(size, true)
}

// start counts f, which is about to write n bytes, as moving data, unless it has
// written busyBytes little by little.
func (all *flights) start(f *flight, n int) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.closed || f.busy.Load() {
		return
	}
	if now := time.Now(); n <= busyBytes && now.Sub(f.since) > flightEpoch {
		f.sent.Store(int64(n))
		f.since = now
		return
	}
	f.of.moving.Add(1)
	f.busy.Store(true)
	if all.busy == nil {
		all.busy = make(map[*flight]struct{})
	}
	if len(all.busy) == 0 {
		all.sweeper = time.AfterFunc(flightEpoch, all.sweep)
	}
	all.busy[f] = struct{}{}
}

// sweep ends the epoch: who has moved little makes room for the others, unless
// that is because the share is full and the peer does not take it.
func (all *flights) sweep() {
	all.mu.Lock()
	defer all.mu.Unlock()
	now := time.Now()
	for f := range all.busy {
		if f.sent.Swap(0) <= busyBytes && !f.full() {
			delete(all.busy, f)
			f.busy.Store(false)
			f.of.moving.Add(-1)
			f.since = now
		}
	}
	if len(all.busy) > 0 && !all.closed {
		all.sweeper.Reset(flightEpoch)
	}
}

// close ends the sweeping.
func (all *flights) close() {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.closed = true
	if all.sweeper != nil {
		all.sweeper.Stop()
	}
}
