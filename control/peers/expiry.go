package peers

import (
	"context"
	"errors"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// expiryInterval is the longest that Run waits: it then also sees what a clock
// that was set or a restore has changed.
const expiryInterval = time.Minute

// expiryRetry is how long Run waits after a store that refused.
const expiryRetry = 5 * time.Second

// Run disables peers as they expire, and looks after quotas, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	for {
		wait := min(s.step(ctx), s.stepQuotas(ctx))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// step does what is due and returns how long until the next deadline.
func (s *Service) step(ctx context.Context) time.Duration {
	if err := s.Expire(ctx, s.o.Now()); err != nil {
		if ctx.Err() == nil {
			// What cannot be written down holds all the same: the planes look at the time.
			err = errors.Join(err, s.o.DB.Apply(ctx))
			s.o.Log.Error("expired peers cannot be disabled", "err", err)
		}
		return expiryRetry
	}
	next, ok, err := s.nextExpiry()
	if err != nil || !ok {
		return expiryInterval
	}
	return min(max(next.Sub(s.o.Now()), 0), expiryInterval)
}

// Expire disables the enabled peers whose time has come. Their date stays, so
// one that is enabled again without a new date is disabled by the next run.
func (s *Service) Expire(ctx context.Context, now time.Time) error {
	next, ok, err := s.nextExpiry()
	if err != nil || !ok || next.After(now) {
		return err
	}
	s.o.Meter.Read()
	now = now.UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		var due []model.PeerID
		for key, id := range store.Peers.Entries(tx, "expiry", "") {
			if key > store.ExpiryKey(now) {
				break
			}
			due = append(due, id)
		}
		for _, id := range due {
			p, err := load(tx, id)
			if err != nil {
				return err
			}
			if err := enable(tx, p, false, now); err != nil {
				return err
			}
			if err := events.Append(ctx, tx, now, events.Entry{
				Type: "peer_expired", Message: "peer " + p.Name + " has expired", Severity: model.SeverityWarning, Source: "system",
				Details: map[string]any{"peerId": id, "expiresAt": p.ExpiresAt.UTC().Format("2006-01-02T15:04:05.000Z")},
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// nextExpiry returns the earliest deadline of an enabled peer.
func (s *Service) nextExpiry() (next time.Time, ok bool, err error) {
	err = s.o.DB.View(func(tx *store.Tx) (err error) {
		for key := range store.Peers.Entries(tx, "expiry", "") {
			next, err = store.ExpiryTime(key)
			ok = err == nil
			break
		}
		return err
	})
	return next, ok, err
}
