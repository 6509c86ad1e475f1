package proxy

import (
	"container/heap"
	"sync"
	"time"

	"gatecontrol/model"
)

const (
	// traceLength is how many requests of a route are kept to be looked at.
	traceLength = 256
	// traceText bounds each text of an entry.
	traceText = 1 << 10
	// traceBudget bounds what all routes keep together: a hundred are full of usual
	// requests then, or sixteen of the longest. Beyond it the route that keeps most
	// forgets its oldest, so one with few requests does not lose them to a busy one.
	traceBudget = 16 << 20
	// traceEntry is what an entry takes besides its texts.
	traceEntry = 256
)

// traces are the rings of all routes. One lock is enough: tracing is switched on to
// look for something. It may be used from many goroutines at once.
type traces struct {
	budget int

	mu      sync.Mutex
	size    int       // bytes, of all rings
	largest traceHeap // rings that keep something
}

// traceRing keeps the last requests of one route. It is handed from snapshot to
// snapshot while tracing stays on, and so is gone once it was off. Everything in it is
// guarded by the lock of traces.
type traceRing struct {
	all         *traces
	entries     [traceLength]*model.TraceEntry
	first, kept int // the oldest, and how many there are
	size        int // bytes
	dropped     int64
	ended       bool // nothing is added any more
	at          int  // in the heap, while something is kept
}

// traceGate notes every request that comes this far. It refuses none.
type traceGate struct{ ring *traceRing }

func newTraceGate(d *draft) (gate, error) {
	if !d.in.Options.Trace {
		return nil, nil
	}
	if d.prev != nil {
		if r := d.prev.routes[d.in.ID]; r != nil && r.trace != nil {
			d.route.trace = r.trace
		}
	}
	if d.route.trace == nil {
		d.route.trace = &traceRing{all: &d.srv.traces}
	}
	return traceGate{d.route.trace}, nil
}

func (g traceGate) check(v *visit) *verdict {
	v.note = "the request would be noted"
	if v.dry {
		return nil
	}
	h := &v.ctx.Request.Header
	var buf [512]byte
	e := &model.TraceEntry{
		ID: v.id.String(), At: v.at.UTC().Truncate(time.Millisecond), Method: clipped(h.Method()), Host: clipped(h.Host()), Remote: v.addr,
		URI: clipped(appendRedacted(buf[:0], h.RequestURI())), UserAgent: clipped(h.UserAgent()),
	}
	g.ring.add(e)
	v.tracing, v.traced = g.ring, e
	return nil
}

// clipped is b as a string, cut if it is long.
func clipped(b []byte) string { return string(b[:min(len(b), traceText)]) }

func traceSize(e *model.TraceEntry) int {
	return traceEntry + len(e.ID) + len(e.Method) + len(e.Host) + len(e.URI) + len(e.UserAgent)
}

// add keeps e, and makes room for it.
func (r *traceRing) add(e *model.TraceEntry) {
	t := r.all
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.ended {
		return
	}
	if r.kept == traceLength {
		r.forgetOldest()
	}
	r.entries[(r.first+r.kept)%traceLength] = e
	r.kept++
	r.size += traceSize(e)
	t.size += traceSize(e)
	if r.kept == 1 {
		heap.Push(&t.largest, r)
	} else {
		heap.Fix(&t.largest, r.at)
	}
	for t.size > t.budget {
		most := t.largest[0]
		most.forgetOldest()
		most.dropped++
		if most.kept == 0 {
			heap.Remove(&t.largest, most.at)
		} else {
			heap.Fix(&t.largest, most.at)
		}
	}
}

// forgetOldest needs the lock, and the heap to be put right afterwards.
func (r *traceRing) forgetOldest() {
	n := traceSize(r.entries[r.first])
	r.entries[r.first] = nil
	r.first = (r.first + 1) % traceLength
	r.kept--
	r.size -= n
	r.all.size -= n
}

// end gives back what a ring keeps that no route has any more. Requests that are
// still under way end without it.
func (r *traceRing) end() {
	t := r.all
	t.mu.Lock()
	defer t.mu.Unlock()
	r.ended = true
	if r.kept > 0 {
		heap.Remove(&t.largest, r.at)
	}
	t.size -= r.size
	r.entries, r.kept, r.size = [traceLength]*model.TraceEntry{}, 0, 0
}

// finish tells how the request of an entry ended.
func (r *traceRing) finish(e *model.TraceEntry, rec *model.AccessRecord) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	e.Status, e.Size, e.Refused = rec.Status, rec.Size, rec.Refused
}

// list returns copies of up to limit entries after since, newest first.
func (r *traceRing) list(limit int, since time.Time) *model.Trace {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	t := &model.Trace{Kept: r.kept, Dropped: r.dropped}
	for i := r.kept - 1; i >= 0 && len(t.Entries) < limit; i-- {
		if e := r.entries[(r.first+i)%traceLength]; e.At.After(since) {
			t.Entries = append(t.Entries, *e)
		}
	}
	return t
}

// Trace returns up to limit of the last requests to a route that came after since,
// newest first; none if the route is not traced.
func (s *Server) Trace(id model.RouteID, limit int, since time.Time) *model.Trace {
	r := s.snapshot.Load().routes[id]
	if r == nil || r.trace == nil {
		return new(model.Trace)
	}
	return r.trace.list(limit, since)
}

// endTraces ends the rings of old that now does not have.
func endTraces(old, now *snapshot) {
	for id, r := range old.routes {
		if r.trace == nil {
			continue
		}
		if n := now.routes[id]; n == nil || n.trace != r.trace {
			r.trace.end()
		}
	}
}

// traceHeap has the ring that keeps most bytes on top.
type traceHeap []*traceRing

func (h traceHeap) Len() int           { return len(h) }
func (h traceHeap) Less(i, j int) bool { return h[i].size > h[j].size }
func (h traceHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *traceHeap) Push(x any) {
	r := x.(*traceRing)
	r.at = len(*h)
	*h = append(*h, r)
}
func (h *traceHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
