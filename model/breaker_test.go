package model

import (
	"fmt"
	"testing"
	"time"
)

// TestBreaker is contract-routes 6.16: every state with every event.
func TestBreaker(t *testing.T) {
	b := &Breaker{Enabled: true, Threshold: 3, Timeout: 30 * time.Second}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { then := now.Add(d); return &then }
	closed := func(failures int) BreakerState { return BreakerState{State: BreakerClosed, Failures: failures} }
	open := func(d time.Duration) BreakerState { return BreakerState{State: BreakerOpen, OpenedAt: at(d)} }
	half := BreakerState{State: BreakerHalfOpen, OpenedAt: at(-time.Hour)}
	nowhere := BreakerState{State: BreakerOpen}
	for _, c := range []struct {
		name            string
		is              BreakerState
		begin, up, down BreakerState // what it becomes when a check begins, succeeds, fails
	}{
		{"never checked", BreakerState{}, BreakerState{}, closed(0), closed(1)},
		{"closed", closed(0), closed(0), closed(0), closed(1)},
		{"closed, one before the threshold", closed(1), closed(1), closed(0), closed(2)},
		{"closed, at the threshold", closed(2), closed(2), closed(0), open(0)},
		{"closed, over a threshold that was lowered", closed(7), closed(7), closed(0), open(0)},
		{"open just now", open(0), open(0), open(0), open(0)},
		{"open for less than the timeout", open(-29 * time.Second), open(-29 * time.Second), open(-29 * time.Second), open(-29 * time.Second)},
		{"open for the timeout", open(-30 * time.Second), BreakerState{State: BreakerHalfOpen, OpenedAt: at(-30 * time.Second)}, open(-30 * time.Second), open(-30 * time.Second)},
		{"open for long", open(-time.Hour), half, open(-time.Hour), open(-time.Hour)},
		{"open since nobody knows when", nowhere, open(0), nowhere, nowhere},
		{"open since a time to come", open(time.Hour), open(0), open(time.Hour), open(time.Hour)},
		{"half-open", half, half, closed(0), open(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, event := range []struct {
				name      string
				got, want BreakerState
			}{
				{"begins", b.Begin(c.is, now), c.begin}, {"succeeds", b.End(c.is, true, now), c.up}, {"fails", b.End(c.is, false, now), c.down},
			} {
				if got, want := stateText(event.got), stateText(event.want); got != want {
					t.Errorf("when a check %s: %s, want %s", event.name, got, want)
				}
			}
		})
	}
}

func stateText(s BreakerState) string {
	text := fmt.Sprintf("%q %d", s.State, s.Failures)
	if s.OpenedAt != nil {
		text += " " + s.OpenedAt.Format(time.TimeOnly)
	}
	return text
}

// TestBreakerOf has the route say whether its breaker is open, whatever checks have
// made of it.
func TestBreakerOf(t *testing.T) {
	for _, c := range []struct {
		open     bool
		is, want string
	}{
		{false, "", BreakerClosed}, {false, BreakerClosed, BreakerClosed}, {false, BreakerOpen, BreakerClosed}, {false, BreakerHalfOpen, BreakerClosed},
		{true, "", BreakerOpen}, {true, BreakerClosed, BreakerOpen}, {true, BreakerOpen, BreakerOpen}, {true, BreakerHalfOpen, BreakerHalfOpen},
	} {
		check := RouteCheck{Breaker: BreakerState{State: c.is}}
		if got := check.BreakerOf(&Breaker{Open: c.open}); got.State != c.want || got.Refuses() != c.open {
			t.Errorf("open %t and %q are %q, want %q", c.open, c.is, got.State, c.want)
		}
	}
}
