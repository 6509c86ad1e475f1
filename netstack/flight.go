package netstack

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
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
}

func (all *flights) add(ep tcpip.Endpoint, of *identity) *flight {
	f := &flight{all: all, of: of, ep: ep}
	f.resize(minFlight)
	return f
}

// write notes that n bytes are about to be written, and keeps the share of f up
// to date. While a connection is moving data that costs two loads.
func (f *flight) write(n int) {
	if f.sent.Add(int64(n)) > busyBytes && !f.busy.Load() {
		f.all.start(f)
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
	if n > 1 {
		n = 1 << bits.Len32(uint32(n-1))
	}
	return min(max(flightBudget/max(int64(n), 1), minFlight), tcpSendMax)
}

func (f *flight) resize(size int64) {
	f.size.Store(size)
	f.ep.SocketOptions().SetSendBufferSize(size, true)
}

func (all *flights) start(f *flight) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.closed || f.busy.Swap(true) {
		return
	}
	f.of.moving.Add(1)
	if all.busy == nil {
		all.busy = make(map[*flight]struct{})
	}
	if len(all.busy) == 0 {
		all.sweeper = time.AfterFunc(flightEpoch, all.sweep)
	}
	all.busy[f] = struct{}{}
}

// sweep ends the epoch: who has moved little makes room for the others.
func (all *flights) sweep() {
	all.mu.Lock()
	defer all.mu.Unlock()
	for f := range all.busy {
		if f.sent.Swap(0) <= busyBytes {
			delete(all.busy, f)
			f.busy.Store(false)
			f.of.moving.Add(-1)
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
