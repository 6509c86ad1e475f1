package peers

import (
	"context"
	"fmt"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Update changes the fields of a peer that in holds.
func (s *Service) Update(ctx context.Context, id model.PeerID, in Input) (View, error) {
	if in.Enabled.Set || in.ExpiresAt.Set || in.QuotaBytes.Set || in.QuotaAction.Set {
		s.o.Meter.Read() // the tunnel forgets who leaves it
	}
	changed := false
	v, err := s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Peer, error) {
		p, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		var bad model.Invalids
		quota := p.QuotaBytes
		if err := in.apply(tx, p, &s.o.Tunnel, &bad); err != nil {
			return nil, err
		}
		if in.Enabled.Set {
			p.Enabled = in.Enabled.Value
		}
		if in.PublicKey.Value != "" && in.PublicKey.Value != p.PublicKey.String() {
			bad.Add("public_key", "cannot be changed; add a peer for another device")
		}
		if err := bad.Err(); err != nil {
			return nil, err
		}
		p.UpdatedAt = now
		var tell func() error
		if changed = p.QuotaBytes != quota; changed {
			if tell, err = s.judgeAnew(ctx, tx, p, now); err != nil {
				return nil, err
			}
		}
		if err := put(store.Peers.Put(tx, p)); err != nil {
			return nil, err
		}
		if err := events.Append(ctx, tx, now, events.Entry{
			Type: "peer_updated", Message: "peer " + p.Name + " was changed", Details: map[string]any{"peerId": id},
		}); err != nil || tell == nil {
			return p, err
		}
		return p, tell()
	})
	if err == nil && changed {
		s.quotaWritten()
	}
	return v, err
}

// Toggle enables a disabled peer and disables an enabled one.
func (s *Service) Toggle(ctx context.Context, id model.PeerID) (View, error) {
	s.o.Meter.Read()
	return s.update(ctx, func(tx *store.Tx, now time.Time) (*model.Peer, error) {
		p, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		if err := enable(tx, p, !p.Enabled, now); err != nil {
			return nil, err
		}
		return p, events.Append(ctx, tx, now, events.Entry{
			Type: "peer_" + enabledWord(p.Enabled), Message: "peer " + p.Name + " was " + enabledWord(p.Enabled),
			Details: map[string]any{"peerId": id},
		})
	})
}

func enable(tx *store.Tx, p *model.Peer, on bool, now time.Time) error {
	if p.Enabled == on {
		return nil
	}
	p.Enabled, p.UpdatedAt = on, now
	return store.Peers.Put(tx, p)
}

func enabledWord(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

// Delete removes a peer. Routes to it are disabled: they must not lead to
// whoever gets its address next. Other routes that name it forget it.
func (s *Service) Delete(ctx context.Context, id model.PeerID) error {
	s.o.Meter.Read() // of what all peers moved its part stays
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := load(tx, id)
		if err != nil {
			return err
		}
		if err := remove(ctx, tx, p, now); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "peer_deleted", Message: "peer " + p.Name + " was deleted", Severity: model.SeverityWarning,
			Details: map[string]any{"peerId": id, "ip": p.Address().String()},
		})
	})
}

// remove takes p out of every table that knows it.
func remove(ctx context.Context, tx *store.Tx, p *model.Peer, now time.Time) error {
	ref := p.ID.String()
	routes, err := store.Routes.FindAll(tx, "peer", ref)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := forget(ctx, tx, r, p, now); err != nil {
			return err
		}
	}
	tokens, err := store.Tokens.FindAll(tx, "peer", ref)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		t.Peer = 0
		if err := store.Tokens.Put(tx, t); err != nil {
			return err
		}
	}
	if _, err := store.Counters.Delete(tx, p.ID); err != nil {
		return err
	}
	_, err = store.Peers.Delete(tx, p.ID)
	return err
}

// forget takes p out of a route that names it. One that led to it, even if for a
// part of its paths, is disabled; others go on without it.
func forget(ctx context.Context, tx *store.Tx, r *model.Route, p *model.Peer, now time.Time) error {
	e := events.Entry{
		Type: "route_updated", Message: fmt.Sprintf("peer %s, which was deleted, was taken out of route %d", p.Name, r.ID),
		Details: map[string]any{"routeId": r.ID, "domain": r.Domain, "peerId": p.ID, "reason": "peer_deleted"},
	}
	lost := r.Forget(p.ID)
	if r.Target.Peer == p.ID {
		// The address stays, to be seen; no route is enabled on it without a peer.
		r.Target.Peer, r.Target.Addr, lost = 0, p.Address(), true
	}
	if g := r.Target.Gateway; g != nil && g.Peer == p.ID {
		left := *g // what is behind it stays, to be seen and led to through another one
		left.Peer, r.Target.Gateway, lost = 0, &left, true
	}
	if lost && r.Enabled {
		e.Type, e.Severity = "route_disabled", model.SeverityWarning
		e.Message = fmt.Sprintf("route %d was disabled with the deletion of peer %s, its target", r.ID, p.Name)
	}
	tell := r.Enabled || !lost
	r.Enabled, r.UpdatedAt = r.Enabled && !lost, now
	if err := store.Routes.Put(tx, r); err != nil || !tell {
		return err
	}
	return events.Append(ctx, tx, now, e)
}

// Batch enables, disables or deletes several peers, all or none, and returns how
// many. Kinds: KindInvalid for another action or no ids, KindNotFound if one of
// them is unknown.
func (s *Service) Batch(ctx context.Context, action string, ids []int64) (affected int, err error) {
	unique, err := model.CheckBatch(action, ids)
	if err != nil {
		return 0, err
	}
	s.o.Meter.Read()
	now := s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		done := make([]model.PeerID, 0, len(unique))
		for _, n := range unique {
			p, err := load(tx, model.PeerID(n))
			if err != nil {
				return err
			}
			if action == "delete" {
				err = remove(ctx, tx, p, now)
			} else {
				err = enable(tx, p, action == "enable", now)
			}
			if err != nil {
				return err
			}
			done = append(done, p.ID)
		}
		e := events.Entry{
			Type: "batch_peers_" + action + "d", Message: fmt.Sprintf("%d peers were %sd", len(done), action),
			Details: map[string]any{"peerIds": done, "action": action},
		}
		if action == "delete" {
			e.Severity = model.SeverityWarning
		}
		return events.Append(ctx, tx, now, e)
	})
	s.poke()
	if err != nil {
		return 0, err
	}
	return len(unique), nil
}
