package routes

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Create adds a route, enabled. Kinds: KindInvalid with every field at fault;
// KindConflict for a domain or port that is taken (Code PORT_CONFLICT, Detail
// model.PortConflict) and for one route too many.
func (s *Service) Create(ctx context.Context, in Input) (View, error) {
	if err := s.hash(ctx, &in.Access); err != nil {
		return View{}, err
	}
	return s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Route, error) {
		r := &model.Route{Type: model.RouteHTTP, Enabled: true, ForceHTTPS: true, CreatedAt: now}
		if err := s.change(tx, r, &in, now); err != nil {
			return nil, err
		}
		count := 0
		for range store.Routes.Entries(tx, "order", "") {
			count++
		}
		if count >= MaxRoutes {
			return nil, model.Conflict("", "there are already %d routes, which is the most that one server takes", MaxRoutes)
		}
		if err := put(store.Routes.Insert(tx, r)); err != nil {
			return nil, err
		}
		return r, events.Append(ctx, tx, now, events.Entry{
			Type: "route_created", Message: title(r) + " was created", Severity: model.SeveritySuccess, Details: details(r),
		})
	})
}

// Update changes the fields of a route that in holds.
func (s *Service) Update(ctx context.Context, id model.RouteID, in Input) (View, error) {
	if err := s.hash(ctx, &in.Access); err != nil {
		return View{}, err
	}
	return s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Route, error) {
		r, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		was, monitored := r.Options(), r.Monitored
		set(&r.Enabled, in.Enabled)
		if err := s.change(tx, r, &in, now); err != nil {
			return nil, err
		}
		if err := dropPictures(tx, &was.Branding, r); err != nil {
			return nil, err
		}
		// A breaker that nothing checks any more would stay as it is for ever, and so
		// would what was found of a service that cannot be asked.
		switch {
		case r.Untold() != "":
			err = s.forget(tx, r)
		case in.BreakerEnabled.Set || monitored && !r.Monitored:
			err = s.closeBreaker(tx, r)
		}
		if err != nil {
			return nil, err
		}
		if err := put(store.Routes.Put(tx, r)); err != nil {
			return nil, err
		}
		if err := events.Append(ctx, tx, now, events.Entry{
			Type: "route_updated", Message: title(r) + " was changed", Details: details(r),
		}); err != nil {
			return nil, err
		}
		return r, tellOptions(ctx, tx, now, r, was)
	})
}

// change applies in to r and refuses what must not be stored.
func (s *Service) change(tx *store.Tx, r *model.Route, in *Input, now time.Time) error {
	var bad model.Invalids
	if err := in.apply(tx, r, &bad); err != nil {
		return err
	}
	if err := s.check(tx, r, in.retargets(r), &bad); err != nil {
		return err
	}
	if err := bad.Err(); err != nil {
		return err
	}
	r.UpdatedAt = now
	return s.clash(tx, r)
}

// Toggle enables a disabled route and disables an enabled one.
func (s *Service) Toggle(ctx context.Context, id model.RouteID) (View, error) {
	return s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Route, error) {
		r, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		if err := s.enable(tx, r, !r.Enabled, now); err != nil {
			return nil, err
		}
		word := "disabled"
		if r.Enabled {
			word = "enabled"
		}
		return r, events.Append(ctx, tx, now, events.Entry{
			Type: "route_" + word, Message: title(r) + " was " + word, Details: details(r),
		})
	})
}

// enable refuses to enable what would be refused now, had it been created now.
// Disabling always works.
func (s *Service) enable(tx *store.Tx, r *model.Route, on bool, now time.Time) error {
	if r.Enabled == on {
		return nil
	}
	r.Enabled, r.UpdatedAt = on, now
	if on {
		var bad model.Invalids
		if err := s.check(tx, r, true, &bad); err != nil {
			return err
		}
		if err := bad.Err(); err != nil {
			return err
		}
		if err := s.clash(tx, r); err != nil {
			return err
		}
	}
	return put(store.Routes.Put(tx, r))
}

// Delete removes a route.
func (s *Service) Delete(ctx context.Context, id model.RouteID) error {
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		r, err := load(tx, id)
		if err != nil {
			return err
		}
		if err := remove(tx, r); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "route_deleted", Message: title(r) + " was deleted", Severity: model.SeverityWarning,
			Details: map[string]any{"routeId": id, "domain": r.Domain},
		})
	})
}

// remove takes a route out of every table that knows it.
func remove(tx *store.Tx, r *model.Route) error {
	if _, err := store.RouteCounters.Delete(tx, r.ID); err != nil {
		return err
	}
	was := r.Options()
	if err := dropPictures(tx, &was.Branding, new(model.Route)); err != nil {
		return err
	}
	if _, err := store.RouteChecks.Delete(tx, r.ID); err != nil {
		return err
	}
	_, err := store.Routes.Delete(tx, r.ID)
	return err
}

// Batch enables, disables or deletes several routes, all or none, and returns
// how many. Kinds: KindInvalid for another action or no ids, KindNotFound if one
// of them is unknown, and those of Toggle.
func (s *Service) Batch(ctx context.Context, action string, ids []int64) (affected int, err error) {
	unique, err := model.CheckBatch(action, ids)
	if err != nil {
		return 0, err
	}
	now := s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		done := make([]model.RouteID, 0, len(unique))
		for _, n := range unique {
			r, err := load(tx, model.RouteID(n))
			if err != nil {
				return err
			}
			if action == "delete" {
				err = remove(tx, r)
			} else {
				err = s.enable(tx, r, action == "enable", now)
			}
			if err != nil {
				return err
			}
			done = append(done, r.ID)
		}
		e := events.Entry{
			Type: "batch_routes_" + action + "d", Message: fmt.Sprintf("%d routes were %sd", len(done), action),
			Details: map[string]any{"routeIds": done, "action": action},
		}
		if action == "delete" {
			e.Severity = model.SeverityWarning
		}
		return events.Append(ctx, tx, now, e)
	})
	if err != nil {
		return 0, err
	}
	return len(unique), nil
}

// update runs f in a write transaction and returns how the route that f names
// looks afterwards.
func (s *Service) update(ctx context.Context, f func(*store.Tx, time.Time) (*model.Route, error)) (v View, err error) {
	facts := s.facts()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		r, err := f(tx, facts.now)
		if err != nil {
			return err
		}
		v, err = facts.view(tx, r)
		return err
	})
	return v, err
}

func title(r *model.Route) string {
	if label := r.Label(); label != "" {
		return "route " + label
	}
	return fmt.Sprintf("route %d", r.ID)
}

func details(r *model.Route) map[string]any {
	d := map[string]any{"routeId": r.ID, "domain": r.Domain, "targetIp": r.Target.ShownAddr().String(), "targetPort": r.Target.Port}
	if g := r.Target.Gateway; g != nil {
		d["targetPeerId"], d["targetLanHost"], d["targetLanPort"] = g.Peer, g.Host, g.Port
	}
	return d
}

// tellOptions notes what changed of the options that have events of their own.
func tellOptions(ctx context.Context, tx *store.Tx, now time.Time, r *model.Route, was model.Web) error {
	is := r.Options()
	for _, c := range []struct {
		changed    bool
		typ, about string
	}{
		{was.ACL.Enabled != is.ACL.Enabled, "route_acl_toggled", "the ACL of %s was switched " + onOff(is.ACL.Enabled)},
		{!slices.Equal(was.ACL.Peers, is.ACL.Peers), "route_acl_peers_changed", "the peers in the ACL of %s were changed"},
		{was.Mirror.Enabled != is.Mirror.Enabled || !slices.Equal(was.Mirror.Targets, is.Mirror.Targets), "route_mirror_changed", "the mirrors of %s were changed"},
	} {
		if !c.changed {
			continue
		}
		if err := events.Append(ctx, tx, now, events.Entry{Type: c.typ, Message: fmt.Sprintf(c.about, title(r)), Details: details(r)}); err != nil {
			return err
		}
	}
	return nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
