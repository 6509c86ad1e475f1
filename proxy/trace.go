package proxy

import (
	"sync"
	"time"

	"gatecontrol/model"
)

const (
	// traceLength is how many requests of a route are kept to be looked at.
	traceLength = 256
	// traceText bounds each text of an entry, so that a ring takes 700 KB at most.
	traceText = 1 << 10
)

// traceRing keeps the last requests of one route. It is handed from snapshot to
// snapshot while tracing stays on, and so is gone once it was off.
type traceRing struct {
	mu      sync.Mutex
	entries [traceLength]*model.TraceEntry
	next    int
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
		d.route.trace = new(traceRing)
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
	g.ring.mu.Lock()
	g.ring.entries[g.ring.next] = e
	g.ring.next = (g.ring.next + 1) % traceLength
	g.ring.mu.Unlock()
	v.tracing, v.traced = g.ring, e
	return nil
}

// clipped is b as a string, cut if it is long.
func clipped(b []byte) string { return string(b[:min(len(b), traceText)]) }

// finish tells how the request of an entry ended.
func (t *traceRing) finish(e *model.TraceEntry, r *model.AccessRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Status, e.Size, e.Refused = r.Status, r.Size, r.Refused
}

// list returns copies of up to limit entries after since, newest first.
func (t *traceRing) list(limit int, since time.Time) []model.TraceEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []model.TraceEntry
	for i := range traceLength {
		e := t.entries[(t.next+traceLength-1-i)%traceLength]
		if e == nil || len(list) == limit {
			break
		}
		if e.At.After(since) {
			list = append(list, *e)
		}
	}
	return list
}

// Trace returns up to limit of the last requests to a route that came after since,
// newest first; none if the route is not traced.
func (s *Server) Trace(id model.RouteID, limit int, since time.Time) []model.TraceEntry {
	r := s.snapshot.Load().routes[id]
	if r == nil || r.trace == nil {
		return nil
	}
	return r.trace.list(limit, since)
}
