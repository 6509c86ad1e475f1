// Package telemetry turns what the planes count into what people look at:
// traffic over time, totals that outlive a restart. Of ours it imports model
// and store.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// trafficRetention is how long samples are kept, and pruneBatch how many old
// ones go in one transaction.
const (
	trafficRetention = 30 * 24 * time.Hour
	pruneBatch       = 1000
)

// TrafficOptions are what Traffic works with.
type TrafficOptions struct {
	DB       *store.DB
	Log      *slog.Logger
	Now      func() time.Time
	Interval time.Duration
	Status   func() []model.PeerStatus // of the live device
}

// Traffic samples the counters of the tunnel. Its methods may be called from
// any goroutine.
type Traffic struct {
	TrafficOptions

	mu   sync.Mutex
	last map[model.PublicKey]reading
	owed map[model.PublicKey]share // what the store refused, as on a full disk
	at   time.Time
	rate Rate
	day  time.Time // 00:00 UTC of the day that today sums
	sum  model.TrafficSample
}

type reading struct{ rx, tx uint64 }

// share is what a peer moved since its sums were stored.
type share struct {
	reading
	handshake time.Time
}

// add counts what came after s.
func (s share) add(later share) share {
	return share{reading{s.rx + later.rx, s.tx + later.tx}, later.handshake}
}

// Rate is bytes per second between the last two samples. Upload is what this
// server sent to peers.
type Rate struct{ Upload, Download uint64 }

// NewTraffic returns a Traffic that has seen nothing yet.
func NewTraffic(o TrafficOptions) *Traffic {
	return &Traffic{TrafficOptions: o, last: make(map[model.PublicKey]reading), owed: make(map[model.PublicKey]share)}
}

// Run takes a sample now, one per interval, and a last one when ctx ends.
func (t *Traffic) Run(ctx context.Context) error {
	if err := t.loadToday(); err != nil {
		t.Log.Warn("today's traffic so far cannot be read", "err", err)
	}
	tick := time.NewTicker(t.Interval)
	defer tick.Stop()
	for {
		if err := t.Sample(context.WithoutCancel(ctx)); err != nil {
			t.Log.Warn("the traffic sample was not kept", "err", err)
		}
		select {
		case <-ctx.Done():
			return t.Sample(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
}

// Sample reads the counters of the device and stores what came since the last
// reading. A counter that went back, as after a restart of the device, starts
// over from 0.
func (t *Traffic) Sample(ctx context.Context) error {
	now := t.Now().UTC()
	status := t.Status()

	t.mu.Lock()
	sample := model.TrafficSample{At: now}
	moved := t.owed
	t.owed = make(map[model.PublicKey]share)
	current := make(map[model.PublicKey]reading, len(status))
	for i := range status {
		s := &status[i]
		old := t.last[s.PublicKey]
		if s.RxBytes < old.rx || s.TxBytes < old.tx {
			old = reading{}
		}
		d := reading{s.RxBytes - old.rx, s.TxBytes - old.tx}
		current[s.PublicKey] = reading{s.RxBytes, s.TxBytes}
		if d != (reading{}) {
			moved[s.PublicKey] = moved[s.PublicKey].add(share{d, s.LastHandshake})
		}
		if s.Online(now) {
			sample.Peers++
		}
		sample.DownloadBytes += d.rx
		sample.UploadBytes += d.tx
	}
	t.last = current
	if passed := now.Sub(t.at).Seconds(); !t.at.IsZero() && passed > 0 {
		t.rate = Rate{uint64(float64(sample.UploadBytes) / passed), uint64(float64(sample.DownloadBytes) / passed)}
	}
	t.at = now
	t.addLocked(sample)
	t.mu.Unlock()

	if len(moved) == 0 {
		return nil
	}
	err := t.storeCounters(ctx, moved)
	if err != nil {
		t.owe(moved)
	}
	return errors.Join(err, t.storeSample(now, &sample))
}

// owe keeps what was not stored for the next time.
func (t *Traffic) owe(moved map[model.PublicKey]share) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, later := range t.owed {
		moved[key] = moved[key].add(later)
	}
	t.owed = moved
}

// Today returns the traffic since 00:00 UTC, and the current rate.
func (t *Traffic) Today() (model.TrafficSample, Rate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(model.TrafficSample{At: t.Now().UTC()})
	return t.sum, t.rate
}

func (t *Traffic) addLocked(s model.TrafficSample) {
	if day := s.At.Truncate(24 * time.Hour); !day.Equal(t.day) {
		t.day, t.sum = day, model.TrafficSample{At: day}
	}
	t.sum.UploadBytes += s.UploadBytes
	t.sum.DownloadBytes += s.DownloadBytes
}

func (t *Traffic) loadToday() error {
	now := t.Now().UTC()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.DB.ViewHistory(func(tx *store.Tx) error {
		for s, err := range store.Traffic.Between(tx, now.Truncate(24*time.Hour), now.Add(time.Millisecond)) {
			if err != nil {
				return err
			}
			t.addLocked(*s)
		}
		return nil
	})
}

func (t *Traffic) storeCounters(ctx context.Context, moved map[model.PublicKey]share) error {
	return t.DB.Update(ctx, func(tx *store.Tx) error {
		for key, d := range moved {
			p, err := store.Peers.Find(tx, "public_key", key.String())
			if err != nil {
				return err
			}
			if p == nil {
				continue // deleted meanwhile
			}
			c, err := store.Counters.Get(tx, p.ID)
			if err != nil {
				return err
			}
			if c == nil {
				c = &model.PeerCounters{ID: p.ID}
			}
			c.TotalRx += d.rx
			c.TotalTx += d.tx
			c.LastHandshake = d.handshake.UTC()
			if err := store.Counters.Put(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *Traffic) storeSample(now time.Time, s *model.TrafficSample) error {
	return t.DB.UpdateHistory(func(tx *store.Tx) error {
		if _, err := store.Traffic.Prune(tx, now.Add(-trafficRetention), pruneBatch); err != nil {
			return err
		}
		return store.Traffic.Append(tx, now, s)
	})
}
