package peers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// DefaultQuotaInterval is how often the traffic of peers with a quota is looked
// at: what one moves over its quota is what it moves in that time. Nothing is
// looked at while no peer has one.
const DefaultQuotaInterval = 2 * time.Second

// quotaScan is how soon a quota is seen that another writer than this service
// has stored, such as a restore.
const quotaScan = time.Minute

// Meter counts what peers move. *telemetry.Traffic is one.
type Meter interface {
	// Read brings the counts in memory up to date.
	Read()
	// Unsaved is what a peer moved until then and its stored counters do not
	// hold yet; inside a write transaction the two never overlap.
	Unsaved(model.PublicKey) model.PeerTraffic
}

type noMeter struct{}

func (noMeter) Read()                                     {}
func (noMeter) Unsaved(model.PublicKey) model.PeerTraffic { return model.PeerTraffic{} }

// quotas is what Run knows of the peers that have a quota, so that it need not
// read every peer every time. It is for one goroutine, but for stale.
type quotas struct {
	month model.Month // that the planes know to be the present one
	at    time.Time   // of the last look
	list  []limited
	cut   bool // one of them was found to have used up its quota, in some month

	stale    atomic.Bool // a quota was written since list was read
	scanned  time.Time
	revision model.Revision // that list was read at
}

// limited is a peer with a quota.
type limited struct {
	id    model.PeerID
	key   model.PublicKey
	bytes uint64
	marks model.Months
}

// used is what counts against a quota in the month m. c may be nil.
func (s *Service) used(key model.PublicKey, c *model.PeerCounters, m model.Month) uint64 {
	used := uint64(0)
	if c != nil {
		used = c.Months.In(m)
	}
	return used + s.o.Meter.Unsaved(key).Months.In(m)
}

// stepQuotas does what is due and returns how long until it should be called
// again.
func (s *Service) stepQuotas(ctx context.Context) time.Duration {
	now := s.o.Now()
	if wait := s.quotaWait(now); wait > 0 {
		return wait
	}
	if err := errors.Join(s.CheckQuotas(ctx, now), s.turnMonth(ctx, now)); err != nil {
		if ctx.Err() == nil {
			s.o.Log.Error("quotas cannot be looked after", "err", err)
		}
		return expiryRetry
	}
	return s.quotaWait(now)
}

// quotaWait is how long it is from now until the next look. Changes wake Run
// more often than that.
func (s *Service) quotaWait(now time.Time) time.Duration {
	q := &s.quotas
	interval := s.o.QuotaInterval
	if len(q.list) == 0 {
		if interval = quotaScan; q.stale.Load() {
			return 0
		}
	}
	passed := now.Sub(q.at)
	if q.at.IsZero() || passed < 0 { // the clock was set back
		return 0
	}
	return max(interval-passed, 0)
}

// CheckQuotas reads the traffic of the peers that have a quota and stores, with
// an event each, which of them have newly come to the warning or the end of it.
// A peer that is to be cut is out of the tunnel when it returns. What was stored
// holds for the month of now, until the quota is changed. It is for one goroutine,
// which is that of Run.
func (s *Service) CheckQuotas(ctx context.Context, now time.Time) error {
	now = now.UTC()
	s.o.Meter.Read()
	due, err := s.quotasDue(now)
	if err != nil || len(due) == 0 {
		return err
	}
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for _, id := range due {
			p, err := store.Peers.Get(tx, id)
			if err != nil {
				return err
			}
			if p == nil {
				continue // deleted meanwhile
			}
			tell, err := s.judge(ctx, tx, p, now)
			if err != nil {
				return err
			}
			if tell == nil {
				continue
			}
			if err := store.Peers.Put(tx, p); err != nil {
				return err
			}
			if err := tell(); err != nil {
				return err
			}
		}
		return nil
	})
	s.quotas.stale.Store(true)
	return err
}

// quotasDue returns the peers for which judge would have something to tell.
func (s *Service) quotasDue(now time.Time) (due []model.PeerID, err error) {
	q := &s.quotas
	month := model.MonthOf(now)
	err = s.o.DB.View(func(tx *store.Tx) error {
		q.scan(tx, now)
		for i := range q.list {
			p := &q.list[i]
			c, err := store.Counters.Get(tx, p.id)
			if err != nil {
				return err
			}
			if model.QuotaLevel(s.used(p.key, c, month), p.bytes) > p.marks.In(month) {
				due = append(due, p.id)
			}
		}
		return nil
	})
	if err == nil {
		q.at = now
	}
	return due, err
}

// scan reads which peers have a quota, if that may have changed.
func (q *quotas) scan(tx *store.Tx, now time.Time) {
	revision := tx.Revision()
	passed := now.Sub(q.scanned)
	if !q.stale.Swap(false) && !q.scanned.IsZero() && (revision == q.revision || passed >= 0 && passed < quotaScan) {
		return
	}
	q.scanned, q.revision = now, revision
	q.list, q.cut = nil, false
	for p, err := range store.Peers.All(tx) {
		if err != nil || p.QuotaBytes == 0 {
			continue // one that cannot be read is not in the tunnel
		}
		q.list = append(q.list, limited{p.ID, p.PublicKey, p.QuotaBytes, p.QuotaMarks})
		for _, mark := range p.QuotaMarks {
			q.cut = q.cut || mark.N >= model.QuotaExceeded
		}
	}
}

// quotaWritten has Run read anew which peers have a quota.
func (s *Service) quotaWritten() {
	s.quotas.stale.Store(true)
	s.poke()
}

// turnMonth has the planes look at the time anew once the month is another one
// than before: who was cut in that one returns. A clock that was set back is no
// exception: who was cut in the month that it shows again goes.
func (s *Service) turnMonth(ctx context.Context, now time.Time) error {
	q := &s.quotas
	month := model.MonthOf(now)
	if month != q.month && q.cut {
		if err := s.o.DB.Apply(ctx); err != nil {
			return err
		}
	}
	q.month = month
	return nil
}

// judge marks in p, which the caller then stores, how far its quota is used, if
// that is farther than it was marked before in this month, and returns what
// writes the event of it. Nil: there is nothing new.
func (s *Service) judge(ctx context.Context, tx *store.Tx, p *model.Peer, now time.Time) (tell func() error, err error) {
	c, err := store.Counters.Get(tx, p.ID)
	if err != nil {
		return nil, err
	}
	month := model.MonthOf(now)
	used := s.used(p.PublicKey, c, month)
	level := model.QuotaLevel(used, p.QuotaBytes)
	if level <= p.QuotaMarks.In(month) {
		return nil, nil
	}
	p.QuotaMarks = p.QuotaMarks.With(month, level)
	e := events.Entry{
		Type: "peer_quota_warning", Message: fmt.Sprintf("peer %s has used %d %% of its monthly quota", p.Name, model.QuotaWarning),
		Severity: model.SeverityWarning, Source: "system",
		Details: map[string]any{
			"peerId": p.ID, "month": month, "quotaBytes": p.QuotaBytes, "usedBytes": used,
			"action": p.OnQuota(), "resetsAt": month.End().Format("2006-01-02T15:04:05.000Z"),
		},
	}
	if level >= model.QuotaExceeded {
		e.Type, e.Message = "peer_quota_exceeded", "peer "+p.Name+" has used up its monthly quota"
		if p.OnQuota() == model.QuotaBlock {
			e.Message += " and is cut until the next month or a higher quota"
		}
	}
	return func() error { return events.Append(ctx, tx, now, e) }, nil
}

// judgeAnew is judge for a quota that was changed: what the peer was told of the
// old one is forgotten, but for the part that the new one has in common with it.
func (s *Service) judgeAnew(ctx context.Context, tx *store.Tx, p *model.Peer, now time.Time) (tell func() error, err error) {
	month := model.MonthOf(now)
	mark := p.QuotaMarks.In(month)
	p.QuotaMarks = nil
	if p.QuotaBytes == 0 {
		return nil, nil
	}
	c, err := store.Counters.Get(tx, p.ID)
	if err != nil {
		return nil, err
	}
	p.QuotaMarks = p.QuotaMarks.With(month, min(mark, model.QuotaLevel(s.used(p.PublicKey, c, month), p.QuotaBytes)))
	return s.judge(ctx, tx, p, now)
}
