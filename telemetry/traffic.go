// Package telemetry turns what the planes count and tell into what people look
// at: traffic over time, totals that outlive a restart, and the conditions that
// last. Of ours it imports model and store.
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

// Traffic reads the counters of the tunnel and keeps their sums. Its methods may
// be called from any goroutine.
type Traffic struct {
	TrafficOptions

	// One reading at a time: an older one that came after a newer one would look
	// like counters that started over. Held while Status is asked.
	reading sync.Mutex

	mu      sync.Mutex
	last    map[model.PublicKey]model.PeerTraffic // of the device, Months unused
	unsaved map[model.PublicKey]model.PeerTraffic // what the store does not hold yet
	sample  model.TrafficSample                   // what came since the last one
	at      time.Time                             // of the last one
	rate    Rate
	day     time.Time // 00:00 UTC of the day that today sums
	sum     model.TrafficSample
	failed  error // why the last sample was not stored
}

// Rate is bytes per second between the last two samples. Upload is what this
// server sent to peers.
type Rate struct{ Upload, Download uint64 }

// NewTraffic returns a Traffic that has seen nothing yet.
func NewTraffic(o TrafficOptions) *Traffic {
	return &Traffic{
		TrafficOptions: o,
		last:           make(map[model.PublicKey]model.PeerTraffic), unsaved: make(map[model.PublicKey]model.PeerTraffic),
	}
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

// Read counts in memory what the device moved since the last reading. A counter
// that went back, as after a restart of the device, starts over from 0. It may
// be called as often as one likes; Sample stores.
func (t *Traffic) Read() {
	t.reading.Lock()
	defer t.reading.Unlock()
	now, status := t.Now().UTC(), t.Status()
	month := model.MonthOf(now)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.sample.Peers = 0
	current := make(map[model.PublicKey]model.PeerTraffic, len(status))
	for i := range status {
		s := &status[i]
		is := model.PeerTraffic{RxBytes: s.RxBytes, RxPackets: s.RxPackets, TxBytes: s.TxBytes, TxPackets: s.TxPackets}
		current[s.PublicKey] = is
		if s.Online(now) {
			t.sample.Peers++
		}
		d := since(t.last[s.PublicKey], is)
		if d.RxBytes|d.TxBytes|d.RxPackets|d.TxPackets == 0 {
			continue
		}
		d.LastHandshake, d.Endpoint, d.Stamped = s.LastHandshake, s.Endpoint, s.Stamped
		d.Months = d.Months.With(month, d.RxBytes+d.TxBytes)
		t.unsaved[s.PublicKey] = t.unsaved[s.PublicKey].Plus(d)
		t.sample.DownloadBytes += d.RxBytes
		t.sample.UploadBytes += d.TxBytes
	}
	t.last = current
}

// since returns what was counted from one reading to the next.
func since(was, is model.PeerTraffic) model.PeerTraffic {
	if is.RxBytes < was.RxBytes || is.TxBytes < was.TxBytes || is.RxPackets < was.RxPackets || is.TxPackets < was.TxPackets {
		return is
	}
	return model.PeerTraffic{
		RxBytes: is.RxBytes - was.RxBytes, RxPackets: is.RxPackets - was.RxPackets,
		TxBytes: is.TxBytes - was.TxBytes, TxPackets: is.TxPackets - was.TxPackets,
	}
}

// Unsaved returns what a peer moved until the last reading and the store does
// not hold yet. Inside a write transaction that and the peer's stored counters
// are all it moved; outside of one, what is just being stored may be in neither.
func (t *Traffic) Unsaved(key model.PublicKey) model.PeerTraffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unsaved[key]
}

// Sample reads the counters and stores what is not stored yet.
func (t *Traffic) Sample(ctx context.Context) error {
	t.Read()
	now := t.Now().UTC()

	t.mu.Lock()
	sample, nothing := t.sample, len(t.unsaved) == 0
	t.sample = model.TrafficSample{}
	sample.At = now
	if passed := now.Sub(t.at).Seconds(); !t.at.IsZero() && passed > 0 {
		t.rate = Rate{uint64(float64(sample.UploadBytes) / passed), uint64(float64(sample.DownloadBytes) / passed)}
	}
	t.at = now
	t.addLocked(sample)
	t.mu.Unlock()

	if nothing {
		return nil
	}
	err := errors.Join(t.storeCounters(ctx), t.storeSample(now, &sample))
	t.mu.Lock()
	t.failed = err
	t.mu.Unlock()
	return err
}

// take hands out what is not stored yet, and owe puts back what the store
// refused, as on a full disk.
func (t *Traffic) take() map[model.PublicKey]model.PeerTraffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved := t.unsaved
	t.unsaved = make(map[model.PublicKey]model.PeerTraffic)
	return moved
}

func (t *Traffic) owe(moved map[model.PublicKey]model.PeerTraffic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, d := range moved {
		t.unsaved[key] = d.Plus(t.unsaved[key])
	}
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

func (t *Traffic) storeCounters(ctx context.Context) error {
	var moved map[model.PublicKey]model.PeerTraffic
	err := t.DB.Update(ctx, func(tx *store.Tx) error {
		// Taken inside, so that no other writer counts it twice.
		moved = t.take()
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
			c.Add(d)
			if err := store.Counters.Put(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.owe(moved)
	}
	return err
}

// Memories returns what is stored of peers that the tunnel has to know after a
// restart: where those were heard last that have had a handshake since a time,
// and which have seen times of this server that its clock has yet to show.
func (t *Traffic) Memories(since time.Time) (map[model.PublicKey]model.PeerMemory, error) {
	now := t.Now()
	memories := make(map[model.PublicKey]model.PeerMemory)
	err := t.DB.View(func(tx *store.Tx) error {
		for c, err := range store.Counters.All(tx) {
			if err != nil {
				return err
			}
			var m model.PeerMemory
			if !c.LastHandshake.Before(since) {
				m.Endpoint = c.Endpoint
			}
			if c.Stamped.After(now) {
				m.Stamped = c.Stamped
			}
			if m == (model.PeerMemory{}) {
				continue
			}
			p, err := store.Peers.Get(tx, c.ID)
			if err != nil {
				return err
			}
			if p != nil {
				memories[p.PublicKey] = m
			}
		}
		return nil
	})
	return memories, err
}

func (t *Traffic) storeSample(now time.Time, s *model.TrafficSample) error {
	return t.DB.UpdateHistory(func(tx *store.Tx) error {
		if _, err := store.Traffic.Prune(tx, now.Add(-trafficRetention), pruneBatch); err != nil {
			return err
		}
		return store.Traffic.Append(tx, now, s)
	})
}
