package routes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// saveInterval is how long what checks found may be known in memory alone, where it
// says nothing new: some thousands of routes cost the disk one write in that time.
const saveInterval = 10 * time.Second

// maxSaved is how many are stored in one transaction, which others wait for.
const maxSaved = 1000

// unsaved is what checks found that the store does not know of yet. Its entries count
// where they are newer than what is stored, so none of them has to be gone when a
// transaction has stored something newer.
type unsaved struct {
	mu     sync.Mutex
	checks map[model.RouteID]model.RouteCheck
}

func (u *unsaved) get(id model.RouteID) model.RouteCheck {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.checks[id]
}

func (u *unsaved) put(c model.RouteCheck) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.checks == nil {
		u.checks = make(map[model.RouteID]model.RouteCheck)
	}
	u.checks[c.ID] = c
}

func (u *unsaved) all() []model.RouteCheck {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Values(u.checks))
}

// forget drops what is in list, unless there is something newer.
func (u *unsaved) forget(list []model.RouteCheck) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range list {
		if u.checks[list[i].ID].Version <= list[i].Version {
			delete(u.checks, list[i].ID)
		}
	}
}

// found returns what checks of a route have found.
func (s *Service) found(tx *store.Tx, id model.RouteID) (model.RouteCheck, error) {
	stored, err := store.RouteChecks.Get(tx, id)
	if err != nil {
		return model.RouteCheck{}, err
	}
	c := s.unsaved.get(id)
	if stored != nil && stored.Version >= c.Version {
		c = *stored
	}
	c.ID = id
	return c, nil
}

// Run stores what checks find, and the rest of it when ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return s.saveChecks(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		err := s.saveChecks(context.WithoutCancel(ctx))
		if err != nil && !failed {
			s.o.Log.Warn("what checks of routes found is not stored", "err", err)
		}
		failed = err != nil
	}
}

// saveChecks stores what is unsaved, and not what is found meanwhile. Of a route that
// is not there any more nothing is.
func (s *Service) saveChecks(ctx context.Context) error {
	for list := range slices.Chunk(s.unsaved.all(), maxSaved) {
		if err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
			for i := range list {
				r, err := store.Routes.Get(tx, list[i].ID)
				if err != nil || r == nil {
					continue
				}
				stored, err := store.RouteChecks.Get(tx, r.ID)
				if err != nil || stored != nil && stored.Version >= list[i].Version {
					continue
				}
				if err := store.RouteChecks.Put(tx, &list[i]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		s.unsaved.forget(list)
	}
	return nil
}

// BeginCheck is told that a check of a route begins: the breaker of one that is open
// for long enough lets that one decide.
func (s *Service) BeginCheck(ctx context.Context, id model.RouteID) error {
	open := false
	if err := s.o.DB.View(func(tx *store.Tx) error {
		r, err := store.Routes.Get(tx, id)
		open = err == nil && r != nil && r.Web != nil && r.Web.Breaker.Enabled && r.Web.Breaker.Open
		return err
	}); err != nil || !open {
		return err
	}
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		r, err := store.Routes.Get(tx, id)
		if err != nil || r == nil || r.Web == nil {
			return err
		}
		c, err := s.found(tx, id)
		if err != nil {
			return err
		}
		s.unsaved.put(c.Begin(&r.Web.Breaker, s.o.Now().UTC()))
		return nil
	})
}

// EndChecks is told what checks have come to, and says it to whoever waits. That a
// service went away or returned, what this makes of its breaker, and what somebody
// waits for is on disk, and live, when it returns; the rest is soon.
func (s *Service) EndChecks(ctx context.Context, list []model.ProbeResult) (out []model.Checked, err error) {
	now := s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		out = make([]model.Checked, len(list))
		for i := range list {
			if out[i], err = s.endCheck(ctx, tx, &list[i], now); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (s *Service) endCheck(ctx context.Context, tx *store.Tx, res *model.ProbeResult, now time.Time) (model.Checked, error) {
	id := res.Probe.Route
	r, err := store.Routes.Get(tx, id)
	if err != nil {
		return model.Checked{}, err
	}
	// What was asked may not be the route any more, or not what its breaker was closed
	// by hand for.
	if probe, ok := s.o.Probe(id); r == nil || !ok || !probe.Equal(&res.Probe) {
		return model.Checked{Outdated: true}, nil
	}
	was, err := s.found(tx, id)
	if err != nil {
		return model.Checked{}, err
	}
	w := r.Options()
	c, changed := was.End(&w.Breaker, res, now)
	answer := model.Checked{Status: c.Status, Took: c.Took, Changed: changed, Reason: c.Reason}
	turns := w.Breaker.Enabled && w.Breaker.Open != c.Breaker.Refuses()
	if !changed && !turns && !res.Asked {
		s.unsaved.put(c)
		return answer, nil
	}
	if err := store.RouteChecks.Put(tx, &c); err != nil {
		return answer, err
	}
	if changed {
		if err := tellChange(ctx, tx, now, r, &was, &c); err != nil {
			return answer, err
		}
	}
	if turns {
		return answer, turnBreaker(ctx, tx, now, r, &c)
	}
	return answer, nil
}

// tellChange notes that the service behind r went away, or returned.
func tellChange(ctx context.Context, tx *store.Tx, now time.Time, r *model.Route, was, is *model.RouteCheck) error {
	e := events.Entry{
		Type: "route_up", Message: title(r) + " is up again", Severity: model.SeveritySuccess, Source: "monitor",
		Details: map[string]any{
			"routeId": r.ID, "domain": r.Domain, "status": is.Status, "previousStatus": was.Status, "responseTime": is.Took.Milliseconds(),
		},
	}
	if is.Status == model.StatusDown {
		e.Type, e.Message, e.Severity = "route_down", title(r)+" is down: "+is.Reason, model.SeverityError
		e.Details["reason"] = is.Reason
	}
	return events.Append(ctx, tx, now, e)
}

// turnBreaker has requests to r refused, or let through, as c says.
func turnBreaker(ctx context.Context, tx *store.Tx, now time.Time, r *model.Route, c *model.RouteCheck) error {
	b := &r.Web.Breaker // which is on, so that there are options
	b.Open = c.Breaker.Refuses()
	if err := store.Routes.Put(tx, r); err != nil {
		return err
	}
	e := events.Entry{
		Type: "circuit_breaker_closed", Message: "the circuit breaker of " + title(r) + " has closed", Severity: model.SeveritySuccess, Source: "monitor",
		Details: map[string]any{"routeId": r.ID, "domain": r.Domain, "cbStatus": c.Breaker.State},
	}
	if b.Open {
		e.Type, e.Message, e.Severity = "circuit_breaker_open", "the circuit breaker of "+title(r)+" has opened", model.SeverityWarning
	}
	return events.Append(ctx, tx, now, e)
}

// Check checks a route now, monitored or not. Kinds: KindNotFound, KindConflict if
// the route was changed meanwhile, and KindLimited.
func (s *Service) Check(ctx context.Context, id model.RouteID) (model.Checked, error) {
	probe, ok := s.o.Probe(id)
	if !ok {
		return model.Checked{}, model.NotFound("route")
	}
	if len(probe.Backends) == 0 {
		return model.Checked{Reason: probe.Reason}, nil
	}
	c, err := s.o.Check(ctx, probe)
	if err == nil && c.Outdated {
		err = model.Conflict("", "the route was changed while it was checked; check it again")
	}
	return c, err
}

// Monitored is a route that is checked time and again.
type Monitored struct {
	Label  string // what people know it by
	Status string // model.StatusUp or model.StatusDown; empty: not known
}

// Monitored returns every enabled route that is monitored, in the order of labels.
func (s *Service) Monitored(context.Context) (list []Monitored, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		for label, id := range store.Routes.Entries(tx, "monitored", "") {
			c, err := s.found(tx, id)
			if err != nil {
				return err
			}
			list = append(list, Monitored{label, c.Status})
		}
		return nil
	})
	return list, err
}
