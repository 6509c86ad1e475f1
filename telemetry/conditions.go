package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"gatecontrol/model"
)

// DefaultConditionsInterval is how often conditions are looked for: soon beside
// the time in which a person acts, and seldom beside what a look costs.
const DefaultConditionsInterval = 5 * time.Second

// maxLines bounds what is logged in a minute: a peer can begin and end a condition
// of its own as often as it likes.
const maxLines = 20

// maxConditions bounds the list: nobody reads more, and each costs a line in the
// log when it begins and one when it ends. What is over it is counted.
const maxConditions = 100

// Condition is a lasting state that a person should know of.
type Condition struct {
	Code     string         // stable, such as "peer_clock_behind"
	Subject  string         // the name of what it is about; may be empty
	Peer     model.PeerID   // 0: not about a peer
	Route    model.RouteID  // 0: not about a route
	Severity model.Severity // SeverityWarning, or SeverityError where something does not work
	Text     string         // in plain words, with what to do
	Since    time.Time      // a source may leave it out: since it was seen first
}

// identity tells conditions apart.
type identity struct {
	code, subject string
	peer          model.PeerID
	route         model.RouteID
}

func (c *Condition) identity() identity { return identity{c.Code, c.Subject, c.Peer, c.Route} }

// ConditionsOptions are what Conditions works with.
type ConditionsOptions struct {
	Log      *slog.Logger
	Now      func() time.Time
	Interval time.Duration

	// Sources tell what lasts at the moment, each for its part. They are asked one
	// after another.
	Sources []func() []Condition
}

// Conditions knows what lasts. It is told of states, not of their changes, so
// that none that ended can be left behind. Its methods may be called from any
// goroutine.
type Conditions struct {
	o ConditionsOptions

	looking sync.Mutex // one look at a time; held while sources are asked
	minute  time.Time  // that lines are counted in
	lines   int        // in it, also those that were left out

	mu      sync.Mutex
	current map[identity]Condition
}

// NewConditions returns a Conditions that has not looked yet.
func NewConditions(o ConditionsOptions) *Conditions { return &Conditions{o: o} }

// Run looks now and once per interval, until ctx ends.
func (c *Conditions) Run(ctx context.Context) error {
	tick := time.NewTicker(c.o.Interval)
	defer tick.Stop()
	for {
		c.Look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Look asks every source. A condition that was there before is the same one; what
// begins and what ends is logged.
func (c *Conditions) Look() {
	c.looking.Lock()
	defer c.looking.Unlock()
	var found []Condition
	for _, source := range c.o.Sources {
		found = append(found, source()...)
	}
	c.mu.Lock()
	before := c.current
	c.mu.Unlock()

	now := c.o.Now()
	next := make(map[identity]Condition, len(found))
	more := 0
	// Errors before warnings, and those that are listed before others, so that
	// these stay.
	for _, turn := range []struct {
		severity int
		known    bool
	}{{0, true}, {0, false}, {1, true}, {1, false}} {
		for i := range found {
			f := &found[i]
			was, lasts := before[f.identity()]
			switch _, twice := next[f.identity()]; {
			case severity(*f) != turn.severity, lasts != turn.known, twice:
				continue
			case len(next) == maxConditions:
				more++
				continue
			}
			if f.Since.IsZero() {
				if f.Since = was.Since; !lasts {
					f.Since = now
				}
			}
			f.Since = f.Since.UTC()
			next[f.identity()] = *f
		}
	}
	if more > 0 {
		rest := Condition{Code: "more_conditions", Severity: model.SeverityWarning, Text: fmt.Sprintf("There are %d more conditions than can be listed.", more)}
		if rest.Since = before[rest.identity()].Since; rest.Since.IsZero() {
			rest.Since = now.UTC()
		}
		next[rest.identity()] = rest
	}
	c.mu.Lock()
	c.current = next
	c.mu.Unlock()
	c.report(before, next)
}

// line reports whether one more may be logged in this minute. It says how many
// were left out in the last one. looking is held.
func (c *Conditions) line() bool {
	if now := c.o.Now(); now.Sub(c.minute) >= time.Minute || now.Before(c.minute) {
		if more := c.lines - maxLines; more > 0 {
			c.o.Log.Warn("more conditions have begun or are over than were logged", "more", more, "since", c.minute)
		}
		c.minute, c.lines = now, 0
	}
	c.lines++
	return c.lines <= maxLines
}

// report logs what is new and what is over.
func (c *Conditions) report(before, next map[identity]Condition) {
	for _, n := range ordered(next) {
		if _, lasted := before[n.identity()]; lasted || !c.line() {
			continue
		}
		level := slog.LevelWarn
		if n.Severity == model.SeverityError {
			level = slog.LevelError
		}
		c.o.Log.Log(context.Background(), level, "a condition has begun", "code", n.Code, "subject", n.Subject, "text", n.Text)
	}
	for _, b := range ordered(before) {
		if _, lasts := next[b.identity()]; !lasts && c.line() {
			c.o.Log.Info("a condition is over", "code", b.Code, "subject", b.Subject, "since", b.Since)
		}
	}
}

// List returns what lasted at the last look: what does not work before what may
// come to that, and what is older before what is newer.
func (c *Conditions) List() []Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ordered(c.current)
}

func ordered(m map[identity]Condition) []Condition {
	list := make([]Condition, 0, len(m))
	for _, c := range m {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Condition) int {
		return cmp.Or(severity(a)-severity(b), a.Since.Compare(b.Since), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Subject, b.Subject),
			cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Route, b.Route))
	})
	return list
}

func severity(c Condition) int {
	if c.Severity == model.SeverityError {
		return 0
	}
	return 1
}

// Plain returns what of an error a person may read: without the field of a
// request, and without its cause where the message says enough.
func Plain(err error) string {
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e.Message
	}
	return err.Error()
}
