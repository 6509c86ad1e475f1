package telemetry

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatecontrol/model"
)

const (
	// firstRound is when the first round begins, once the server is up and its peers
	// have had the time to shake hands.
	firstRound = 10 * time.Second

	// maxChecks run at the same time, so that a round of thousands is no flood, and
	// maxDue of those that nobody waits for, so that a person need not wait for these.
	maxChecks = 10
	maxDue    = maxChecks - 1

	// maxAsked of them are those that people wait for, so that with those of slow routes
	// there is a place left for others, however much is asked for by hand.
	maxAsked = maxChecks - maxSlow - 1

	// A check that takes slowCheck is slow, and its route counts as slow until a check
	// of it is not. Those of slow routes get half of the places at most: services that
	// hang, however many, do not keep others from being looked at in time.
	slowCheck = 2 * time.Second
	maxSlow   = maxChecks / 2

	// maxAsking bounds the people who wait for a check.
	maxAsking = 100

	// maxTold bounds the results that are told at once: of each, a transition may come.
	maxTold = 200
)

// MonitorOptions are what a Monitor works with.
type MonitorOptions struct {
	Log         *slog.Logger
	Dial        func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	UserAgent   string
	HTTPTimeout time.Duration // of one check
	TCPTimeout  time.Duration

	// Begin is told of a check before anything is asked, and Observe what came of some,
	// in order. Of one route there is one check at a time, from Begin until Observe has
	// returned.
	Begin   func(context.Context, model.RouteID) error
	Observe func(context.Context, []model.ProbeResult) ([]model.Checked, error)
}

// MonitorConfig is what is checked time and again, in the order of routes. It is not
// written once it was handed over.
type MonitorConfig struct {
	Interval time.Duration
	Probes   []model.Probe // none without a backend
}

// Equal reports whether c and d ask for the same.
func (c MonitorConfig) Equal(d MonitorConfig) bool {
	return c.Interval == d.Interval && slices.EqualFunc(c.Probes, d.Probes, func(p, q model.Probe) bool { return p.Equal(&q) })
}

// find returns the probe of a route, nil if it is not checked.
func (c *MonitorConfig) find(id model.RouteID) *model.Probe {
	i, ok := slices.BinarySearchFunc(c.Probes, id, func(p model.Probe, id model.RouteID) int { return cmp.Compare(p.Route, id) })
	if !ok {
		return nil
	}
	return &c.Probes[i]
}

// Monitor checks the services behind routes: all that are monitored once per
// interval, one that is new among them at once, and any on demand. What it finds it
// tells, and keeps nothing of it. Its methods may be called from any goroutine.
type Monitor struct {
	o      MonitorOptions
	prober prober
	wake   chan struct{} // something may be begun, or the interval is another one
	done   chan struct{} // there are results
	ended  chan struct{} // Run is over

	mu      sync.Mutex
	config  MonitorConfig
	applied bool                               // there was a config before
	asking  []*asking                          // before everything else
	fresh   []model.RouteID                    // due before others, in order
	prompt  []model.RouteID                    // due, in order
	slow    []model.RouteID                    // likewise
	queued  map[model.RouteID]*[]model.RouteID // the one of them that a route is due in
	busy    map[model.RouteID]bool             // being checked, or not told yet
	lagging map[model.RouteID]bool             // whose last check was slow
	running int                                // checks
	hanging int                                // those of them that came from slow
	byHand  int                                // those that somebody waits for
	results []finished                         // not told yet: at most one of each route
}

// asking is a check that somebody waits for.
type asking struct {
	ctx    context.Context
	probe  model.Probe
	answer chan answered // takes one without a wait
}

type answered struct {
	checked model.Checked
	err     error
}

// finished is a check that has come to something.
type finished struct {
	model.ProbeResult
	from *asking // nil: nobody waits
}

// NewMonitor returns a Monitor that has nothing to check yet.
func NewMonitor(o MonitorOptions) *Monitor {
	return &Monitor{
		o: o, prober: prober{dial: o.Dial, userAgent: o.UserAgent, http: o.HTTPTimeout, tcp: o.TCPTimeout},
		wake: make(chan struct{}, 1), done: make(chan struct{}, 1), ended: make(chan struct{}),
		config: MonitorConfig{Interval: model.DefaultMonitoring().Interval},
		queued: make(map[model.RouteID]*[]model.RouteID), busy: make(map[model.RouteID]bool), lagging: make(map[model.RouteID]bool),
	}
}

// PendingMonitor is a MonitorConfig that is about to be taken.
type PendingMonitor struct {
	m *Monitor
	c MonitorConfig
}

// Prepare checks nothing: any config can be taken.
func (m *Monitor) Prepare(c MonitorConfig) (*PendingMonitor, error) {
	return &PendingMonitor{m, c}, nil
}

// Abort drops the config.
func (p *PendingMonitor) Abort() {}

// Commit takes the config. What has newly to be asked is asked at once, but for what
// is there from the start, and what is being asked of a route as it was is asked anew:
// nothing comes of that.
func (p *PendingMonitor) Commit() {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.config
	if m.config = p.c; m.applied {
		for i := range p.c.Probes {
			q := &p.c.Probes[i]
			switch old := was.find(q.Route); {
			case old == nil, !old.Asks(q):
				delete(m.lagging, q.Route)
				m.queueLocked(q.Route, &m.fresh)
			case m.busy[q.Route] && !old.Equal(q):
				m.queueLocked(q.Route, &m.fresh)
			}
		}
	}
	m.applied = true
	for id := range m.lagging {
		if m.config.find(id) == nil {
			delete(m.lagging, id)
		}
	}
	poke(m.wake)
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// queueLocked puts a route at the end of a queue, and takes it out of any other.
func (m *Monitor) queueLocked(id model.RouteID, queue *[]model.RouteID) {
	if m.queued[id] != queue {
		m.queued[id] = queue
		*queue = append(*queue, id)
	}
}

// Run checks until ctx ends. What runs then has come to nothing.
func (m *Monitor) Run(ctx context.Context) error {
	defer close(m.ended)
	var checks, teller sync.WaitGroup
	stop := make(chan struct{})
	teller.Go(func() { m.tell(context.WithoutCancel(ctx), stop) })
	defer teller.Wait()
	defer close(stop)
	defer checks.Wait()

	first, last := time.Now().Add(firstRound), time.Time{}
	timer := time.NewTimer(firstRound)
	defer timer.Stop()
	for {
		for m.begin(ctx, &checks) {
		}
		if !last.IsZero() {
			timer.Reset(time.Until(last.Add(m.interval())))
		} else {
			timer.Reset(time.Until(first))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			last = time.Now()
			m.round()
		case <-m.wake:
		}
	}
}

func (m *Monitor) interval() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.config.Interval
}

// round has everything checked that is not waiting for that already.
func (m *Monitor) round() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.config.Probes {
		switch id := m.config.Probes[i].Route; {
		case m.queued[id] != nil:
		case m.lagging[id]:
			m.queueLocked(id, &m.slow)
		default:
			m.queueLocked(id, &m.prompt)
		}
	}
}

// begin starts the check that is next, and reports whether there was one and a place
// for it. Run waits for those that it starts.
func (m *Monitor) begin(ctx context.Context, checks *sync.WaitGroup) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running >= maxChecks {
		return false
	}
	probe, from, slow := m.nextLocked()
	if probe == nil {
		return false
	}
	m.busy[probe.Route] = true
	m.running++
	if slow {
		m.hanging++
	}
	if from != nil {
		m.byHand++
	}
	checks.Go(func() {
		r := finished{from: from}
		var err error
		if from != nil {
			waits, cancel := context.WithCancel(from.ctx)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			r.ProbeResult, err = m.check(waits, probe)
			r.Asked = true
		} else {
			r.ProbeResult, err = m.check(ctx, probe)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running--
		if slow {
			m.hanging--
		}
		if from != nil {
			m.byHand--
		}
		if err != nil {
			delete(m.busy, probe.Route)
			r.answer(model.Checked{}, err)
		} else {
			if delete(m.lagging, probe.Route); r.Took >= slowCheck {
				m.lagging[probe.Route] = true
			}
			m.results = append(m.results, r)
			poke(m.done)
		}
		poke(m.wake)
	})
	return true
}

// nextLocked takes out what is to be checked next: what somebody waits for, if that
// leaves places to others, then what is new, then slow routes, likewise, then others.
// Nil: there is nothing.
func (m *Monitor) nextLocked() (probe *model.Probe, from *asking, slow bool) {
	if m.byHand < maxAsked {
		for i, a := range m.asking {
			if !m.busy[a.probe.Route] {
				m.asking = slices.Delete(m.asking, i, i+1)
				return &a.probe, a, false
			}
		}
	}
	if m.running-m.byHand >= maxDue {
		return nil, nil, false
	}
	if probe := m.dueLocked(&m.fresh); probe != nil {
		return probe, nil, false
	}
	if m.hanging < maxSlow {
		if probe := m.dueLocked(&m.slow); probe != nil {
			return probe, nil, true
		}
	}
	return m.dueLocked(&m.prompt), nil, false
}

// dueLocked takes the first route out of a queue that is still to be checked. One that
// is being checked waits: what that asks may not be what is to be asked now.
func (m *Monitor) dueLocked(queue *[]model.RouteID) *model.Probe {
	for range len(*queue) {
		id := (*queue)[0]
		*queue = (*queue)[1:]
		switch {
		case m.queued[id] != queue:
			continue
		case m.busy[id]:
			*queue = append(*queue, id)
			continue
		}
		delete(m.queued, id)
		if probe := m.config.find(id); probe != nil {
			return probe
		}
	}
	return nil
}

// check makes one. Its error says that it has come to nothing.
func (m *Monitor) check(ctx context.Context, probe *model.Probe) (model.ProbeResult, error) {
	if err := ctx.Err(); err != nil {
		return model.ProbeResult{}, err
	}
	if err := m.o.Begin(ctx, probe.Route); err != nil {
		if ctx.Err() == nil {
			m.o.Log.Warn("a route cannot be checked", "route", probe.Route, "err", err)
		}
		return model.ProbeResult{}, err
	}
	r, ok := m.prober.ask(ctx, probe)
	if !ok {
		return r, ctx.Err()
	}
	return r, nil
}

// tell hands over results until stop is closed and none is left.
func (m *Monitor) tell(ctx context.Context, stop <-chan struct{}) {
	failed, last := false, false
	for {
		m.mu.Lock()
		n := min(len(m.results), maxTold)
		batch := slices.Clone(m.results[:n])
		m.results = slices.Delete(m.results, 0, n)
		m.mu.Unlock()
		if n == 0 {
			if last {
				return
			}
			select {
			case <-stop:
				last = true // what came meanwhile is told, too
			case <-m.done:
			}
			continue
		}
		results := make([]model.ProbeResult, n)
		for i := range batch {
			results[i] = batch[i].ProbeResult
		}
		checked, err := m.o.Observe(ctx, results)
		if err != nil && !failed {
			m.o.Log.Warn("what checks of routes found is not stored", "err", err)
		}
		failed = err != nil
		m.mu.Lock()
		for i := range batch {
			delete(m.busy, batch[i].Probe.Route)
			if err != nil {
				batch[i].answer(model.Checked{}, err)
			} else {
				batch[i].answer(checked[i], nil)
			}
		}
		m.mu.Unlock()
		poke(m.wake)
	}
}

// answer tells whoever waits for a check.
func (f *finished) answer(c model.Checked, err error) {
	if f.from != nil {
		f.from.answer <- answered{c, err}
	}
}

// Check makes one check now, of whichever route, before those that are due. Its
// errors are that of ctx, those of Observe, KindLimited where too many wait, and
// KindUnavailable once the server stops.
func (m *Monitor) Check(ctx context.Context, probe model.Probe) (model.Checked, error) {
	a := &asking{ctx, probe, make(chan answered, 1)}
	m.mu.Lock()
	if len(m.asking) >= maxAsking {
		m.mu.Unlock()
		return model.Checked{}, model.Failure(model.KindLimited, "too many checks are waiting; try again in a moment")
	}
	m.asking = append(m.asking, a)
	m.mu.Unlock()
	poke(m.wake)
	select {
	case r := <-a.answer:
		return r.checked, r.err
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asking = slices.DeleteFunc(m.asking, func(o *asking) bool { return o == a }) // if it was not begun
		return model.Checked{}, ctx.Err()
	case <-m.ended:
		return model.Checked{}, model.Failure(model.KindUnavailable, "the server is stopping")
	}
}
