package model

import (
	"net/netip"
	"slices"
	"time"
)

// What a check finds a service to be.
const (
	StatusUp   = "up"
	StatusDown = "down"
)

// The ways to ask a service.
const (
	ProbeHTTP = "http" // GET /, up if the status is 200 to 399
	ProbeTCP  = "tcp"  // a connection
)

// Probe is how the service behind a route is checked: the way that its requests would
// go at the moment. It is not written.
type Probe struct {
	Route   RouteID
	Version time.Time // when the route was changed last
	Kind    string
	// Backends are those that requests are spread over, or the one target. The service
	// is up if one of them is: requests pass by the others. None: there is nothing to
	// ask, and Reason says why.
	Backends []ProbeTarget
	Reason   string

	Host   string        // of ProbeHTTP
	Fields []HeaderField // likewise: what the route sets on requests, but for Host
}

// ProbeTarget is one of the places where a Probe asks.
type ProbeTarget struct {
	Addr netip.AddrPort
	TLS  bool // the certificate is not verified
}

// Untold says why checks cannot tell whether the service behind r is up, empty if they
// can.
func (r *Route) Untold() string {
	if r.Type == RouteL4 {
		if r.L4 == nil || r.L4.Network != "tcp" {
			return "whether a service listens on a port of UDP cannot be told from outside"
		}
		return ""
	}
	w := r.Options()
	if slices.ContainsFunc(w.Paths, func(p Path) bool { return p.Prefix == "/" && p.Redirect != "" }) {
		return "requests for / are redirected by the route itself"
	}
	return ""
}

// Equal reports whether p and q ask the same of the same route as it was at one time.
func (p *Probe) Equal(q *Probe) bool { return p.Version.Equal(q.Version) && p.Asks(q) }

// Asks reports whether p and q ask the same, whatever else of the route was changed.
func (p *Probe) Asks(q *Probe) bool {
	return p.Route == q.Route && p.Kind == q.Kind && p.Host == q.Host && p.Reason == q.Reason &&
		slices.Equal(p.Backends, q.Backends) && slices.Equal(p.Fields, q.Fields)
}

// ProbeResult is what came of one check.
type ProbeResult struct {
	Probe  Probe
	Up     bool
	Took   time.Duration // also of one that failed
	Reason string        // why the service is down, for people; empty if it is up
	Asked  bool          // a person waits for it
}

// RouteCheck is what checks of a route have found out.
type RouteCheck struct {
	ID      RouteID `json:"id"`
	Version uint64  `json:"version"` // grows with every change, so that the newer one of two is known

	Status    string        `json:"status,omitempty"` // StatusUp or StatusDown; empty: never checked
	At        time.Time     `json:"at,omitzero"`      // of the last check
	ChangedAt *time.Time    `json:"changed_at,omitempty"`
	Took      time.Duration `json:"took,omitempty"`   // of the last check, also if it failed
	Reason    string        `json:"reason,omitempty"` // why it is down, for people

	Breaker BreakerState `json:"breaker,omitzero"` // see RouteCheck.BreakerOf
}

// BreakerOf returns the state of the breaker of the route that c is about. Whether
// it is open is what the route says, which is what traffic goes by.
func (c *RouteCheck) BreakerOf(b *Breaker) BreakerState {
	s := c.Breaker
	switch {
	case !b.Open && s.Refuses():
		return BreakerState{State: BreakerClosed}
	case b.Open && !s.Refuses():
		return BreakerState{State: BreakerOpen}
	case s.State == "":
		s.State = BreakerClosed
	}
	return s
}

// Begin returns what becomes of c when a check begins at now.
func (c RouteCheck) Begin(b *Breaker, now time.Time) RouteCheck {
	if b.Enabled {
		c.Version++
		c.Breaker = b.Begin(c.BreakerOf(b), now)
	}
	return c
}

// End returns what becomes of c when a check has ended at now, and whether the
// service was found to be the other way before. The first check changes nothing.
func (c RouteCheck) End(b *Breaker, r *ProbeResult, now time.Time) (next RouteCheck, changed bool) {
	next = c
	next.Version++
	next.At, next.Took, next.Reason = now, r.Took, r.Reason
	if next.Status = StatusDown; r.Up {
		next.Status = StatusUp
	}
	if changed = c.Status != "" && c.Status != next.Status; changed {
		next.ChangedAt = &now
	}
	if b.Enabled {
		next.Breaker = b.End(c.BreakerOf(b), r.Up, now)
	}
	return next, changed
}

// Checked tells a person what became of a check.
type Checked struct {
	Status  string // StatusUp or StatusDown; empty: it cannot be told
	Took    time.Duration
	Changed bool   // it was the other way before
	Reason  string // why it is not up

	Outdated bool // the route is another one since the check began, so that it found nothing
}
