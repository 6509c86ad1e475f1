package model

import "time"

// The states of a circuit breaker.
const (
	BreakerClosed   = "closed"    // traffic flows
	BreakerOpen     = "open"      // requests are answered 503
	BreakerHalfOpen = "half-open" // the same, until the check that runs decides
)

// Breaker is the circuit breaker of a route. Checks of its service drive it.
type Breaker struct {
	Enabled   bool          `json:"enabled"`
	Threshold int           `json:"threshold"`      // 1-100 failed checks in a row open it
	Timeout   time.Duration `json:"timeout"`        // 5 s to 1 h until it is half-open
	Open      bool          `json:"open,omitempty"` // requests are answered 503: open or half-open
}

// BreakerState is what checks have made of a Breaker, of which traffic needs to know
// no more than whether it is Open.
type BreakerState struct {
	State    string     `json:"state,omitempty"`    // empty: closed
	Failures int        `json:"failures,omitempty"` // failed checks in a row, while it is closed
	OpenedAt *time.Time `json:"opened_at,omitempty"`
}

// Refuses reports whether requests are answered 503.
func (s BreakerState) Refuses() bool { return s.State == BreakerOpen || s.State == BreakerHalfOpen }

// Begin returns what becomes of s when a check begins at now: time alone changes
// nothing in between. Nobody knows how long one is open that was opened at no time,
// or in the future, as by a clock that was set back since; it waits from now on.
func (b *Breaker) Begin(s BreakerState, now time.Time) BreakerState {
	switch {
	case s.State != BreakerOpen:
	case s.OpenedAt == nil || s.OpenedAt.After(now):
		s.OpenedAt = &now
	case now.Sub(*s.OpenedAt) >= b.Timeout:
		s.State = BreakerHalfOpen
	}
	return s
}

// End returns what becomes of s when a check has found the service up or down. It
// makes no difference to one that is open, and whose check Begin did not take for
// the one that decides.
func (b *Breaker) End(s BreakerState, up bool, now time.Time) BreakerState {
	switch {
	case s.State == BreakerOpen:
		return s
	case up:
		return BreakerState{State: BreakerClosed}
	case s.State != BreakerHalfOpen && s.Failures+1 < b.Threshold:
		return BreakerState{State: BreakerClosed, Failures: s.Failures + 1}
	}
	return BreakerState{State: BreakerOpen, OpenedAt: &now}
}
