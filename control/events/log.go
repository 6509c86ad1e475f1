package events

import (
	"context"
	"log/slog"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// MaxEvents bounds the activity log: the oldest beyond it are dropped. At a few
// hundred bytes each that is some tens of megabytes.
const MaxEvents = 100_000

// drainBatch is how many events move in one transaction.
const drainBatch = 500

// Log reads the activity log and keeps it.
type Log struct {
	db  *store.DB
	log *slog.Logger
}

// NewLog returns the activity log of db.
func NewLog(db *store.DB, log *slog.Logger) *Log { return &Log{db: db, log: log} }

// Run moves events into the history file until ctx ends; what is left then
// moves at the next start.
func (l *Log) Run(ctx context.Context) error {
	for {
		if err := l.Drain(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("the activity log cannot be written; events wait in the store", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.db.Committed():
		}
		// Changes come in bursts; one sync for many events.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Drain moves what is in the outbox. Moving an event twice is harmless, since
// it keeps its number.
func (l *Log) Drain(ctx context.Context) error {
	for {
		batch, err := l.pending(drainBatch)
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := l.db.UpdateHistory(func(tx *store.Tx) error {
			for _, e := range batch {
				if err := store.Activity.Put(tx, e); err != nil {
					return err
				}
				if e.ID > MaxEvents {
					if _, err := store.Activity.Delete(tx, e.ID-MaxEvents); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := l.db.Update(ctx, func(tx *store.Tx) error {
			for _, e := range batch {
				if _, err := store.Outbox.Delete(tx, e.ID); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

func (l *Log) pending(limit int) (batch []*model.Event, err error) {
	err = l.db.View(func(tx *store.Tx) error {
		for e, err := range store.Outbox.All(tx) {
			if err != nil {
				return err
			}
			if batch = append(batch, e); len(batch) == limit {
				break
			}
		}
		return nil
	})
	return batch, err
}

// Filter narrows a listing; zero members match everything.
type Filter struct {
	Severity     model.Severity
	Source, Type string
	Since, Until time.Time // Since included, Until excluded
}

func (f *Filter) match(e *model.Event) bool {
	return (f.Severity == "" || e.Severity == f.Severity) &&
		(f.Source == "" || e.Source == f.Source) &&
		(f.Type == "" || e.Type == f.Type) &&
		(f.Since.IsZero() || !e.At.Before(f.Since)) &&
		(f.Until.IsZero() || e.At.Before(f.Until))
}

// List returns the events that match f, newest first, at most limit of them
// after skipping offset, and how many match in all. Events still in the outbox
// are among them, so a change sees its own event at once.
func (l *Log) List(f Filter, limit, offset int) (page []*model.Event, total int, err error) {
	waiting, err := l.pending(MaxEvents)
	if err != nil {
		return nil, 0, err
	}
	take := func(e *model.Event) {
		if !f.match(e) {
			return
		}
		if total >= offset && len(page) < limit {
			page = append(page, e)
		}
		total++
	}
	seen := make(map[model.EventID]bool, len(waiting))
	for i := len(waiting) - 1; i >= 0; i-- {
		seen[waiting[i].ID] = true
		take(waiting[i])
	}
	err = l.db.ViewHistory(func(tx *store.Tx) error {
		for e, err := range store.Activity.Backward(tx) {
			if err != nil {
				return err
			}
			if !seen[e.ID] {
				take(e)
			}
		}
		return nil
	})
	return page, total, err
}
