package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
)

// rig is a Monitor in a bubble of synctest, with services that are quick, away or
// hang.
type rig struct {
	*Monitor
	began time.Time
	stop  context.CancelFunc
	over  chan struct{}

	mu     sync.Mutex
	hangs  map[model.RouteID]bool // they answer nothing until the limit
	refuse error                  // what Observe says
	hold   chan struct{}          // that Observe waits for; nil: it does not
	runs   map[model.RouteID]int
	most   int // at the same time
	told   []string
	batch  int // the largest
}

func newRig(t *testing.T) *rig {
	r := &rig{hangs: make(map[model.RouteID]bool), runs: make(map[model.RouteID]int), over: make(chan struct{}), began: time.Now()}
	r.Monitor = NewMonitor(MonitorOptions{
		Log: slog.New(slog.DiscardHandler), HTTPTimeout: 10 * time.Second, TCPTimeout: 5 * time.Second,
		Dial: func(ctx context.Context, _ string, addr netip.AddrPort) (net.Conn, error) {
			r.mu.Lock()
			hangs := r.hangs[model.RouteID(addr.Port())]
			r.mu.Unlock()
			if hangs {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Millisecond)
			ours, theirs := net.Pipe()
			_ = theirs.Close()
			return ours, nil
		},
		Begin: func(_ context.Context, id model.RouteID) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.runs[id]++; r.runs[id] > 1 {
				t.Errorf("two checks of route %d at once", id)
			}
			r.most = max(r.most, r.Monitor.checks())
			return nil
		},
		Observe: func(_ context.Context, list []model.ProbeResult) ([]model.Checked, error) {
			r.mu.Lock()
			hold, refuse := r.hold, r.refuse
			r.mu.Unlock()
			if hold != nil {
				<-hold
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.batch = max(r.batch, len(list))
			out := make([]model.Checked, len(list))
			for i, res := range list {
				r.runs[res.Probe.Route]--
				what := "down"
				if res.Up {
					what = "up"
				}
				if res.Asked {
					what += " asked"
				}
				r.told = append(r.told, fmt.Sprintf("%s %d %s", time.Since(r.began).Truncate(time.Second), res.Probe.Route, what))
				out[i] = model.Checked{Status: what, Took: res.Took}
			}
			return out, refuse
		},
	})
	return r
}

// checks is how many run.
func (m *Monitor) checks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (r *rig) run(t *testing.T) {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r.stop = stop
	go func() { // received by end
		defer close(r.over)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
}

func (r *rig) end() {
	r.stop()
	<-r.over
}

func tcpProbe(id model.RouteID) model.Probe {
	return model.Probe{Route: id, Kind: model.ProbeTCP, Backends: []model.ProbeTarget{{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(id))}}}
}

// apply has the routes be monitored.
func (r *rig) apply(t *testing.T, interval time.Duration, ids ...model.RouteID) {
	t.Helper()
	c := MonitorConfig{Interval: interval}
	for _, id := range ids {
		c.Probes = append(c.Probes, tcpProbe(id))
	}
	p, err := r.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit()
}

// after lets time pass, and returns what was told meanwhile.
func (r *rig) after(d time.Duration) string {
	time.Sleep(d)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.told
	r.told = nil
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// TestMonitorRounds says when what is checked.
func TestMonitorRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.apply(t, 30*time.Second, 1, 2)
		r.run(t)
		for _, step := range []struct {
			name string
			do   func()
			pass time.Duration
			want string
		}{
			{"before the first round", func() {}, 9900 * time.Millisecond, ""},
			{"the first round", func() {}, time.Second, "10s 1 up, 10s 2 up"},
			{"before the second round", func() {}, 29 * time.Second, ""},
			{"the second round", func() {}, time.Second, "40s 1 up, 40s 2 up"},
			{"a new one", func() { r.apply(t, 30*time.Second, 1, 2, 3) }, time.Second, "40s 3 up"},
			{"one that is asked otherwise", func() {
				c := r.config
				c.Probes = slices.Clone(c.Probes)
				c.Probes[1].Backends = []model.ProbeTarget{{Addr: netip.MustParseAddrPort("192.0.2.1:9")}}
				p, _ := r.Prepare(c)
				p.Commit()
			}, time.Second, "41s 2 up"},
			{"one that was changed otherwise", func() {
				c := r.config
				c.Probes = slices.Clone(c.Probes)
				c.Probes[1].Version = time.Now()
				p, _ := r.Prepare(c)
				p.Commit()
			}, time.Second, ""},
			{"another interval", func() { r.apply(t, 10*time.Second, 1) }, 6 * time.Second, ""},
			{"what is left, at the interval of now", func() {}, time.Second, "50s 1 up"},
			{"one longer than that", func() { r.apply(t, time.Hour, 1) }, time.Hour, "1h0m50s 1 up"},
			{"a shorter one than has passed", func() { time.Sleep(time.Minute); r.apply(t, 10*time.Second, 1) }, time.Second, "1h1m50s 1 up"},
			{"nothing", func() { r.apply(t, 10*time.Second) }, time.Hour, ""},
		} {
			step.do()
			if got := r.after(step.pass); got != step.want {
				t.Errorf("%s: %q, want %q", step.name, got, step.want)
			}
		}
		r.end()
	})
}

// TestMonitorDoesNotStall has thousands of routes checked in time although hundreds
// hang, ten at a time and each one once.
func TestMonitorDoesNotStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const all, hanging = 10_000, 250
		ids := make([]model.RouteID, all)
		for i := range ids {
			ids[i] = model.RouteID(i + 1)
			r.hangs[ids[i]] = i%(all/hanging) == 0
		}
		r.apply(t, time.Minute, ids...)
		r.run(t)
		r.after(5 * time.Minute) // until it is known who hangs
		const rounds = 10
		counts := make(map[string]int)
		for line := range strings.SplitSeq(r.after(rounds*time.Minute), ", ") {
			f := strings.Fields(line)
			counts[f[1]+" "+f[2]]++
		}
		for _, id := range ids {
			up, down := counts[fmt.Sprint(id, " up")], counts[fmt.Sprint(id, " down")]
			if r.hangs[id] && (up != 0 || down < 1) || !r.hangs[id] && (up != rounds || down != 0) {
				t.Fatalf("in %d rounds route %d was up %d times and down %d times", rounds, id, up, down)
			}
		}
		if r.most != maxDue || r.batch > maxTold {
			t.Errorf("%d checks at once, %d results", r.most, r.batch)
		}
		for _, id := range ids {
			r.mu.Lock()
			r.hangs[id] = false
			r.mu.Unlock()
		}
		r.after(2 * time.Minute)
		if n := strings.Count(r.after(3*time.Minute), "up"); n != 3*all || len(r.lagging) != 0 {
			t.Errorf("%d checks succeeded once nobody hung any more, of which %d count as slow", n, len(r.lagging))
		}
		r.end()
	})
}

// TestMonitorAsksAnew has a route that was changed during a check of it checked again
// right behind that, not with the next round.
func TestMonitorAsksAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hangs[1] = true
		r.apply(t, time.Hour)
		r.run(t)
		r.apply(t, time.Hour, 1, 2)
		if got := r.after(time.Second); got != "0s 2 up" {
			t.Errorf("at first: %q", got)
		}
		p, _ := r.Prepare(MonitorConfig{Interval: time.Hour, Probes: []model.Probe{
			{Route: 1, Kind: model.ProbeTCP, Backends: tcpProbe(3).Backends}, tcpProbe(2),
		}})
		p.Commit()
		if got := r.after(8 * time.Second); got != "5s 1 down, 5s 1 up" {
			t.Errorf("then: %q", got)
		}
		for _, c := range []struct {
			hangs bool
			want  string
		}{{true, "14s 2 down, 19s 2 down"}, {false, ""}} {
			r.mu.Lock()
			r.hangs[2] = c.hangs
			r.mu.Unlock()
			if c.hangs {
				go func() { _, _ = r.Check(context.Background(), tcpProbe(2)) }() // ends in this step
				synctest.Wait()
			}
			again := tcpProbe(2)
			again.Version = time.Now()
			p, _ := r.Prepare(MonitorConfig{Interval: time.Hour, Probes: []model.Probe{again}})
			p.Commit()
			if got := strings.ReplaceAll(r.after(20*time.Second), " asked", ""); got != c.want {
				t.Errorf("changed otherwise, while it is checked %t: %q", c.hangs, got)
			}
		}
		r.end()
	})
}

// TestMonitorAsks makes checks that somebody waits for.
func TestMonitorAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run(t)
		var ids []model.RouteID
		for id := model.RouteID(100); id < 200; id++ {
			r.hangs[id] = true
			ids = append(ids, id)
		}
		if c, err := r.Check(t.Context(), tcpProbe(1)); err != nil || c.Status != "up asked" {
			t.Errorf("%+v, %v", c, err)
		}
		r.apply(t, time.Hour)
		r.apply(t, time.Hour, ids...) // all places are taken, and more are waiting
		synctest.Wait()
		began := time.Now()
		c, err := r.Check(t.Context(), tcpProbe(100))                                                        // behind the one that runs, before others
		if waited := time.Since(began); err != nil || c.Status != "down asked" || waited != 10*time.Second { // after the one that runs, which takes 5 s, too
			t.Errorf("%+v, %v after %s", c, err, waited)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := r.Check(ctx, tcpProbe(100)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		r.mu.Lock()
		r.refuse = errors.New("the disk is full")
		r.mu.Unlock()
		if _, err := r.Check(t.Context(), tcpProbe(1)); err == nil || err.Error() != "the disk is full" {
			t.Error(err)
		}
		r.end()
		if _, err := r.Check(t.Context(), tcpProbe(1)); model.KindOf(err) != model.KindUnavailable {
			t.Error(err)
		}
	})
}

// TestMonitorBoundsWaiting refuses a check where too many wait.
func TestMonitorBoundsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run(t)
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for id := range model.RouteID(maxAsked + maxAsking) {
			r.hangs[id+1] = true
			waiting.Go(func() { _, _ = r.Check(ctx, tcpProbe(id+1)) })
			synctest.Wait()
		}
		if _, err := r.Check(t.Context(), tcpProbe(999)); model.KindOf(err) != model.KindLimited {
			t.Error(err)
		}
		leave()
		waiting.Wait()
		if c, err := r.Check(t.Context(), tcpProbe(999)); err != nil || c.Status != "up asked" {
			t.Errorf("after they left: %+v, %v", c, err)
		}
		r.mu.Lock()
		clear(r.runs) // of those that came to nothing
		r.mu.Unlock()
		r.end()
	})
}

// TestMonitorEnds has what runs at the end come to nothing, and tells what was found.
func TestMonitorEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hangs[1] = true
		r.hold = make(chan struct{})
		r.apply(t, time.Hour, 1, 2, 3)
		r.run(t)
		time.Sleep(firstRound + time.Second)
		synctest.Wait()
		if n := r.checks(); n != 1 {
			t.Errorf("%d checks run", n)
		}
		r.stop()
		synctest.Wait()
		close(r.hold)
		<-r.over
		if got := r.after(0); got != "11s 2 up, 11s 3 up" {
			t.Errorf("told was %q", got)
		}
	})
}

// TestMonitorGoesOnBesideAsking has routes checked in time while people keep asking
// for checks of services that hang.
func TestMonitorGoesOnBesideAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.apply(t, time.Minute, 1, 2)
		r.run(t)
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for id := range model.RouteID(2 * maxChecks) {
			r.hangs[100+id] = true
			waiting.Go(func() {
				for ctx.Err() == nil {
					_, _ = r.Check(ctx, tcpProbe(100+id))
				}
			})
		}
		told := r.after(firstRound + time.Second)
		if !strings.Contains(told, "10s 1 up") || !strings.Contains(told, "10s 2 up") {
			t.Errorf("told was %q", told)
		}
		leave()
		waiting.Wait()
		synctest.Wait()
		r.end()
	})
}

// TestMonitorAtOnce has a route that is new, or leads elsewhere, checked before
// thousands that wait for their turn.
func TestMonitorAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ids := make([]model.RouteID, 1000)
		for i := range ids {
			ids[i] = model.RouteID(i + 1)
			r.hangs[ids[i]] = true
		}
		r.apply(t, time.Hour, ids...)
		r.run(t)
		r.after(firstRound + time.Minute) // nearly all of them wait
		const new = 2000
		r.apply(t, time.Hour, append(slices.Clone(ids), new)...)
		if told := r.after(6 * time.Second); !strings.Contains(told, " 2000 up") {
			t.Errorf("of a new one: %q", told)
		}
		r.after(time.Hour) // all wait among those that are slow
		c := MonitorConfig{Interval: time.Hour, Probes: slices.Clone(r.config.Probes)}
		last := &c.Probes[len(ids)-1]
		last.Backends = tcpProbe(new).Backends
		p, _ := r.Prepare(c)
		p.Commit()
		if told := r.after(6 * time.Second); !strings.Contains(told, " 1000 up") {
			t.Errorf("of one that leads elsewhere: %q", told)
		}
		for _, id := range ids {
			r.mu.Lock()
			r.hangs[id] = false
			r.mu.Unlock()
		}
		r.after(time.Hour)
		if told := r.after(time.Hour); strings.Count(told, "up") != len(ids)+1 {
			t.Errorf("%d checks in an hour of %d routes", strings.Count(told, "up"), len(ids)+1)
		}
		r.end()
	})
}
