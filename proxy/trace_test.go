package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
)

// TestTraceBudget: all rings together keep no more than the budget; what is forgotten
// is the oldest of the route that keeps most, which its answer says; and what routes
// keep that are gone is given back.
func TestTraceBudget(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	const routes, budget = 20, 40 << 10
	tracing := func(n int) (cfg Config) {
		for i := range n {
			cfg.Routes = append(cfg.Routes, Route{ID: routeID(i + 1), Host: fmt.Sprintf("r%d.test", i+1),
				Target: Target{Addr: addr}, Options: &RouteOptions{Trace: true}})
		}
		return cfg
	}
	r := newRig(t, tracing(routes))
	r.srv.traces.budget = budget
	c := r.client()
	ask := func(route int, path string) {
		t.Helper()
		get(t, c, fmt.Sprintf("http://r%d.test%s", route, path))
	}
	check := func(when string) {
		t.Helper()
		all := &r.srv.traces
		all.mu.Lock()
		defer all.mu.Unlock()
		sum := 0
		for i, ring := range all.largest {
			of := 0
			for _, e := range ring.entries {
				if e != nil {
					of += traceSize(e)
				}
			}
			if of != ring.size || ring.at != i || ring.kept == 0 || ring.size > all.largest[0].size {
				t.Errorf("%s: ring %d says %d bytes, keeps %d of %d bytes; the largest is %d", when, i, ring.size, ring.kept, of, all.largest[0].size)
			}
			sum += of
		}
		if sum != all.size || sum > budget {
			t.Errorf("%s: %d bytes, counted %d, of %d", when, sum, all.size, budget)
		}
	}
	ask(2, "/early")
	for i := range 60 {
		ask(1, "/"+strings.Repeat("x", 1000)+fmt.Sprint(i))
	}
	check("a busy route")
	if got := r.srv.Trace(1, 200, time.Time{}); got.Dropped == 0 || got.Kept+int(got.Dropped) != 60 || len(got.Entries) != got.Kept {
		t.Errorf("the busy route: %d kept, %d dropped", got.Kept, got.Dropped)
	}
	if got := r.srv.Trace(2, 200, time.Time{}); got.Kept != 1 || got.Dropped != 0 || got.Entries[0].URI != "/early" {
		t.Errorf("the quiet one: %+v", got)
	}
	for i := range routes {
		ask(i+1, "/"+strings.Repeat("y", 2000))
	}
	check("many routes")
	for i := range routes {
		got := r.srv.Trace(routeID(i+1), 200, time.Time{})
		if got.Kept == 0 || !strings.HasPrefix(got.Entries[0].URI, "/yy") {
			t.Errorf("route %d keeps %d", i+1, got.Kept)
		}
	}
	r.commit(tracing(1))
	check("most are gone")
	all := &r.srv.traces
	if len(all.largest) != 1 || all.size != all.largest[0].size {
		t.Errorf("%d rings, %d bytes", len(all.largest), all.size)
	}
	r.commit(site(addr))
	if len(all.largest) != 0 || all.size != 0 {
		t.Errorf("without tracing: %d rings, %d bytes", len(all.largest), all.size)
	}
}

// TestTraceWhileItEnds: requests under way do not fill a ring that no route has.
func TestTraceWhileItEnds(t *testing.T) {
	var all traces
	all.budget = 8 << 10
	var wg sync.WaitGroup
	for range 8 {
		ring := &traceRing{all: &all}
		for range 4 {
			wg.Go(func() {
				for i := range 200 {
					e := &model.TraceEntry{URI: strings.Repeat("x", i)}
					ring.add(e)
					ring.finish(e, &model.AccessRecord{Status: 200})
					ring.list(10, time.Time{})
				}
			})
		}
		wg.Go(ring.end)
	}
	wg.Wait()
	if all.size != 0 || len(all.largest) != 0 {
		t.Errorf("%d bytes in %d rings are kept", all.size, len(all.largest))
	}
}

// TestCountersEnd: what bot blockers counted lives as long as its route, and until it
// is stored.
func TestCountersEnd(t *testing.T) {
	addr := backend(t, func(http.ResponseWriter, *http.Request) {})
	bots, err := NewBots(BotOptions{Ranges: stranger + "/32"})
	if err != nil {
		t.Fatal(err)
	}
	with := gated(addr, RouteOptions{Bots: &model.BotBlocker{Mode: model.BotBlock}})
	r := newRig(t, with, func(o *Options, _ *limits) { o.Bots = bots })
	for range 3 {
		get(t, r.client(), "http://app.test/")
	}
	counts := r.srv.BotCounts()
	if counts[1] != 3 {
		t.Fatalf("counted %v", counts)
	}
	if gone := r.srv.BotsCounted(counts); len(gone) != 0 || r.srv.BotCounts()[1] != 3 {
		t.Errorf("while it is served: dropped %v", gone)
	}
	r.commit(site(addr)) // the route is there, its blocker is not
	if r.srv.BotCounts()[1] != 3 {
		t.Error("dropped before it was stored")
	}
	if gone := r.srv.BotsCounted(map[model.RouteID]uint64{1: 2}); len(gone) != 0 {
		t.Errorf("dropped with one that is not stored: %v", gone)
	}
	back, err := r.srv.Prepare(with) // holds the counter
	if err != nil {
		t.Fatal(err)
	}
	if gone := r.srv.BotsCounted(counts); len(gone) != 1 || len(r.srv.blocked.m) != 0 {
		t.Errorf("dropped %v, there are %v", gone, r.srv.BotCounts())
	}
	back.Commit()
	get(t, r.client(), "http://app.test/")
	if got := r.srv.BotCounts(); got[1] != 1 {
		t.Errorf("after it came back: %v", got)
	}
	refused := with
	refused.Routes = append([]Route{{ID: 9, Host: "nine.test", Target: Target{Addr: addr}, Options: with.Routes[0].Options}}, refused.Routes...)
	if p, err := r.srv.Prepare(refused); err != nil {
		t.Fatal(err)
	} else {
		p.Abort()
	}
	r.commit(Config{})
	r.srv.BotsCounted(r.srv.BotCounts())
	if n := len(r.srv.blocked.m); n != 0 {
		t.Errorf("%d counters of routes that are gone", n)
	}
}
