package telemetry

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// BotCountsOptions are what BotCounts works with.
type BotCountsOptions struct {
	DB       *store.DB
	Log      *slog.Logger
	Interval time.Duration
	// Counts tells how many requests the bot blocker of each route has refused since
	// the start of the process. The numbers only grow, and the map is only read.
	Counts func() map[model.RouteID]uint64
	// Counted is told what of Counts is stored. It returns the routes that it has
	// stopped counting for, which begin at zero if they come back.
	Counted func(map[model.RouteID]uint64) []model.RouteID
}

// BotCounts adds what bot blockers refuse to what is stored of their routes: a
// flood of bots is counted in memory and costs the disk one write per interval. Its
// methods may be called from any goroutine.
type BotCounts struct {
	BotCountsOptions

	mu    sync.Mutex
	saved map[model.RouteID]uint64 // of Counts, what the store knows of
}

// NewBotCounts returns a BotCounts that has stored nothing yet.
func NewBotCounts(o BotCountsOptions) *BotCounts {
	return &BotCounts{BotCountsOptions: o, saved: make(map[model.RouteID]uint64)}
}

// Run saves once per interval, and when ctx ends.
func (b *BotCounts) Run(ctx context.Context) error {
	tick := time.NewTicker(b.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.Save(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		if err := b.Save(context.WithoutCancel(ctx)); err != nil {
			b.Log.Warn("what bot blockers refused was not stored", "err", err)
		}
	}
}

// Unsaved is what the store does not know of yet.
func (b *BotCounts) Unsaved() map[model.RouteID]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsavedLocked(b.Counts())
}

func (b *BotCounts) unsavedLocked(counts map[model.RouteID]uint64) map[model.RouteID]uint64 {
	unsaved := make(map[model.RouteID]uint64)
	for id, n := range counts {
		if n > b.saved[id] {
			unsaved[id] = n - b.saved[id]
		}
	}
	return unsaved
}

// Save stores it. Of a route that is not there any more nothing is.
func (b *BotCounts) Save(ctx context.Context) error {
	counts := b.Counts()
	b.mu.Lock()
	unsaved := b.unsavedLocked(counts)
	b.mu.Unlock()
	if len(unsaved) == 0 {
		b.settle(counts)
		return nil
	}
	if err := b.DB.Update(ctx, func(tx *store.Tx) error {
		for id, n := range unsaved {
			r, err := store.Routes.Get(tx, id)
			if err != nil || r == nil {
				continue
			}
			c, err := store.RouteCounters.Get(tx, id)
			if err != nil {
				return err
			}
			if c == nil {
				c = &model.RouteCounters{ID: id}
			}
			c.BotsBlocked += n
			if err := store.RouteCounters.Put(tx, c); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	b.settle(counts)
	return nil
}

// settle remembers that counts are stored, and forgets routes that are gone.
func (b *BotCounts) settle(counts map[model.RouteID]uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(b.saved, counts)
	for _, id := range b.Counted(counts) {
		delete(b.saved, id)
	}
}
