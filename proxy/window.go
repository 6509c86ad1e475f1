package proxy

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

const (
	// windowSlots is how finely a sliding window slides: an event counts for the
	// span of the window, and for at most one slot longer.
	windowSlots = 60
	// windowShards is how many parts a table is locked in.
	windowShards = 16
	// maxWindows bounds the clients that one table keeps apart: 20 MB at most. It is
	// as many as the networks of /64 in one of /48, which anybody can have.
	maxWindows = 1 << 16
)

// windows counts events per client and route in sliding windows. No more than the
// limit pass in any period as long as the window; who keeps below the limit in
// every period one slot longer is never refused. Only if there are more busy clients
// than maxWindows, those that count least begin anew. It outlives snapshots, and may be
// used from many goroutines at once.
type windows struct {
	seed   maphash.Seed
	epoch  time.Time // windows are counted from here, by the clock that nobody sets
	shards [windowShards]windowShard

	forgotten atomic.Int64 // busy clients that began anew
}

type windowKey struct {
	route model.RouteID
	addr  netip.Addr
}

type windowShard struct {
	mu sync.Mutex
	m  map[windowKey]*window
}

// window is one sliding window: the events of the newest slot, number tick, and
// of the windowSlots slots before it.
type window struct {
	span  time.Duration
	tick  int64
	sum   int32
	slots [windowSlots + 1]int32
}

func newWindows() *windows {
	w := &windows{seed: maphash.MakeSeed(), epoch: time.Now()}
	for i := range w.shards {
		w.shards[i].m = make(map[windowKey]*window)
	}
	return w
}

func (w *windows) shard(key windowKey) *windowShard {
	return &w.shards[maphash.Comparable(w.seed, key)%windowShards]
}

// take counts an event at now, unless limit events were counted within span. Then
// it returns false, and after how long there will be room.
func (w *windows) take(key windowKey, limit int, span time.Duration, now time.Time) (wait time.Duration, ok bool) {
	sh := w.shard(key)
	since := now.Sub(w.epoch)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	win := sh.m[key]
	if win == nil || win.span != span {
		if win == nil {
			if sh.makeRoom(since) {
				w.forgotten.Add(1)
			}
		}
		win = &window{span: span}
		sh.m[key] = win
	}
	win.advance(since)
	if wait := win.wait(limit, since); wait > 0 {
		return wait, false
	}
	win.slots[win.tick%int64(len(win.slots))]++
	win.sum++
	return 0, true
}

// peek tells what take would, and counts nothing.
func (w *windows) peek(key windowKey, limit int, span time.Duration, now time.Time) (wait time.Duration, ok bool) {
	sh := w.shard(key)
	since := now.Sub(w.epoch)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	win := sh.m[key]
	if win == nil || win.span != span {
		return 0, true
	}
	then := *win
	then.advance(since)
	wait = then.wait(limit, since)
	return wait, wait == 0
}

// giveBack uncounts the newest event.
func (w *windows) giveBack(key windowKey) {
	sh := w.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	win := sh.m[key]
	if win == nil || win.sum == 0 {
		return
	}
	for i := win.tick; i >= 0 && i >= win.tick-windowSlots; i-- {
		if n := &win.slots[i%int64(len(win.slots))]; *n > 0 {
			*n--
			win.sum--
			return
		}
	}
}

// count is how many clients are kept apart.
func (w *windows) count() (n int64) {
	for i := range w.shards {
		sh := &w.shards[i]
		sh.mu.Lock()
		n += int64(len(sh.m))
		sh.mu.Unlock()
	}
	return n
}

// slot is the length of a slot, rounded up: all of them together cover the span.
func (w *window) slot() time.Duration { return (w.span + windowSlots - 1) / windowSlots }

// advance forgets the slots that since has left behind. A time before that of
// another goroutine counts as that one.
func (w *window) advance(since time.Duration) {
	tick := int64(since / w.slot())
	if tick <= w.tick {
		return
	}
	if tick-w.tick > windowSlots {
		clear(w.slots[:])
		w.sum = 0
	} else {
		for i := w.tick + 1; i <= tick; i++ {
			n := &w.slots[i%int64(len(w.slots))]
			w.sum -= *n
			*n = 0
		}
	}
	w.tick = tick
}

// wait is how long it takes until fewer than limit events count; 0: they do now.
func (w *window) wait(limit int, since time.Duration) time.Duration {
	left := int(w.sum)
	if left < limit {
		return 0
	}
	for i := w.tick - windowSlots; i <= w.tick; i++ {
		if i < 0 {
			continue
		}
		if left -= int(w.slots[i%int64(len(w.slots))]); left < limit {
			return max(1, time.Duration(i+windowSlots+1)*w.slot()-since)
		}
	}
	return w.span // the limit is 0
}

// idle reports whether no event counts any more.
func (w *window) idle(since time.Duration) bool {
	return w.sum == 0 || int64(since/w.slot())-w.tick > windowSlots
}

// makeRoom sees to it that one more window may be kept. It looks at a few windows
// in every case, which keeps the table about as large as the number of clients that
// are busy, and at more of them when it is full. If none of those is idle, the one
// that counts least is forgotten: who has many addresses can fill the table, and is
// neither to shut out everybody else nor to clear those that are at their limits.
func (sh *windowShard) makeRoom(since time.Duration) (forgot bool) {
	const few, most = 4, 64
	full := len(sh.m) >= maxWindows/windowShards
	var least windowKey
	lowest := int32(math.MaxInt32)
	seen := 0
	for key, win := range sh.m {
		if win.idle(since) {
			delete(sh.m, key)
			full = false
		} else if win.sum < lowest {
			least, lowest = key, win.sum
		}
		if seen++; seen >= few && !full || seen >= most {
			break
		}
	}
	if full {
		delete(sh.m, least)
	}
	return full
}
