package routes

import (
	"context"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// ResetBreaker closes the circuit breaker of a route. Kinds: KindNotFound, and
// KindInvalid where it is not switched on.
func (s *Service) ResetBreaker(ctx context.Context, id model.RouteID) error {
	_, err := s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Route, error) {
		r, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		if w := r.Options(); !w.Breaker.Enabled {
			return nil, model.Failure(model.KindInvalid, "the circuit breaker of this route is off")
		}
		if err := s.closeBreaker(tx, r); err != nil {
			return nil, err
		}
		r.UpdatedAt = now
		if err := store.Routes.Put(tx, r); err != nil {
			return nil, err
		}
		return r, events.Append(ctx, tx, now, events.Entry{
			Type: "circuit_breaker_reset", Message: "the circuit breaker of " + title(r) + " was closed by hand", Details: details(r),
		})
	})
	return err
}

// forget closes the breaker of r, which the caller stores, and drops all that checks
// have found.
func (s *Service) forget(tx *store.Tx, r *model.Route) error {
	if r.Web != nil {
		r.Web.Breaker.Open = false
	}
	c, err := s.found(tx, r.ID)
	if err != nil || c.Version == 0 {
		return err
	}
	return store.RouteChecks.Put(tx, &model.RouteCheck{ID: r.ID, Version: c.Version + 1})
}

// closeBreaker closes the breaker of r, which the caller stores, and forgets what
// checks have made of it.
func (s *Service) closeBreaker(tx *store.Tx, r *model.Route) error {
	if r.Web != nil {
		r.Web.Breaker.Open = false
	}
	c, err := s.found(tx, r.ID)
	if err != nil || c.Breaker == (model.BreakerState{}) {
		return err
	}
	c.Version++
	c.Breaker = model.BreakerState{}
	return store.RouteChecks.Put(tx, &c)
}
