// Package reconcile brings the planes to what the store holds. It compiles
// intent into a Plan inside the write transaction, has every plane prepare its
// share, and swaps them all once the transaction is on disk: a write that
// answered ok is live, a write that failed changed nothing.
//
// Of ours it imports model, store, the planes and telemetry.
package reconcile

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"gatecontrol/dns"
	"gatecontrol/l4"
	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/proxy"
	"gatecontrol/store"
	"gatecontrol/telemetry"
)

// Options are what a Reconciler works with. The planes outlive it.
type Options struct {
	DB    *store.DB
	Log   *slog.Logger
	Now   func() time.Time
	Facts Facts

	Netstack *netstack.Device
	DNS      *dns.Server // nil where the resolver is off
	L4       *l4.Server
	Proxy    *proxy.Server
	Monitor  *telemetry.Monitor
}

// Reconciler applies intent. Prepare is only called by the store, which lets
// one writer in at a time; the other methods may be called from anywhere.
type Reconciler struct {
	Options
	planes []plane

	mu      sync.Mutex
	state   *state // what the planes run; nil before the first Apply
	plan    *Plan
	skipped map[model.RouteID]error // routes that could not be applied as stored
}

// New returns a Reconciler and makes it the one that db asks before a commit.
func New(o Options) *Reconciler {
	r := &Reconciler{Options: o}
	r.planes = []plane{
		planeOf(func(p *Plan) *netstack.Config { return p.Netstack }, o.Netstack.Prepare),
		planeOf(func(p *Plan) *l4.Config { return p.L4 }, o.L4.Prepare),
		planeOf(func(p *Plan) *proxy.Config { return p.Proxy }, o.Proxy.Prepare),
		planeOf(func(p *Plan) *telemetry.MonitorConfig { return p.Monitor }, o.Monitor.Prepare),
	}
	if o.DNS != nil {
		r.planes = append(r.planes, planeOf(func(p *Plan) *dns.Config { return p.DNS }, o.DNS.Prepare))
	}
	o.DB.SetPrepare(r.prepare)
	return r
}

// plane is one data plane as seen from here: it prepares its share of next
// unless that equals its share of current.
type plane func(current, next *Plan) (store.Pending, error)

type config[C any] interface{ Equal(C) bool }

func planeOf[C config[C], P store.Pending](share func(*Plan) *C, prepare func(C) (P, error)) plane {
	return func(current, next *Plan) (store.Pending, error) {
		c := share(next)
		if current != nil && (c == share(current) || (*c).Equal(*share(current))) {
			return nil, nil
		}
		return prepare(*c)
	}
}

// pending is everything that was prepared for one transaction.
type pending struct {
	parts []store.Pending
	done  func()
}

func (p *pending) Commit() {
	for _, part := range p.parts {
		part.Commit()
	}
	p.done()
}

func (p *pending) Abort() {
	for _, part := range p.parts {
		part.Abort()
	}
}

// prepare is asked by the store before each commit that changes intent, and for
// the stored state as a whole (no changes) by Apply.
func (r *Reconciler) prepare(ctx context.Context, tx *store.Tx) (store.Pending, error) {
	r.mu.Lock()
	state, plan := r.state, r.plan
	skip := maps.Clone(r.skipped)
	r.mu.Unlock()

	if state == nil || len(tx.Changes()) == 0 {
		return r.prepareAll(tx, plan)
	}
	next, d, err := state.after(tx, r.DB.Sealer(), skip)
	if err != nil {
		return nil, err
	}
	for _, id := range d.routes {
		delete(skip, id) // written anew: it must work now, or be refused
	}
	return r.preparePlan(plan, next, recompile(plan, d.scope, next, &r.Facts, skip, r.Now()), skip)
}

// preparePlan has every plane prepare its share of next, or none.
func (r *Reconciler) preparePlan(current *Plan, s *state, next *Plan, skip map[model.RouteID]error) (store.Pending, error) {
	p := &pending{done: func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.state, r.plan, r.skipped = s, next, skip
	}}
	ready := false
	defer func() { // after a panic, too: a plane takes one change at a time
		if !ready {
			p.Abort()
		}
	}()
	for _, prepare := range r.planes {
		part, err := prepare(current, next)
		if err != nil {
			return nil, err
		}
		if part != nil {
			p.parts = append(p.parts, part)
		}
	}
	ready = true
	return p, nil
}

// Skipped returns which routes of the stored state do not serve, and why. The
// map must not be written.
func (r *Reconciler) Skipped() map[model.RouteID]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// Plan returns what the planes run, nil before the first Apply. It must not be
// written.
func (r *Reconciler) Plan() *Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan
}
