package telemetry

import (
	"context"
	"log/slog"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

// TestBotCounts counts while things are saved, routes are deleted and the process
// starts anew.
func TestBotCounts(t *testing.T) {
	db := storetest.Open(t)
	counts := map[model.RouteID]uint64{}
	gone := map[model.RouteID]bool{} // routes that are not served
	counted := func(stored map[model.RouteID]uint64) (dropped []model.RouteID) {
		for id, n := range stored {
			if gone[id] && counts[id] == n {
				counts = maps.Clone(counts)
				delete(counts, id)
				dropped = append(dropped, id)
			}
		}
		return dropped
	}
	fresh := func() *BotCounts {
		return NewBotCounts(BotCountsOptions{DB: db, Log: slog.New(slog.DiscardHandler), Counts: func() map[model.RouteID]uint64 { return counts }, Counted: counted})
	}
	change := func(f func(*store.Tx) error) {
		t.Helper()
		if err := db.Update(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	change(func(tx *store.Tx) error {
		for _, domain := range []string{"a.example.com", "b.example.com"} {
			if err := store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: domain}); err != nil {
				return err
			}
		}
		return nil
	})
	b := fresh()
	for _, step := range []struct {
		name            string
		do              func()
		unsaved, stored map[model.RouteID]uint64
	}{
		{"nothing", func() {}, nil, nil},
		{"some", func() { counts = map[model.RouteID]uint64{1: 3, 2: 1} }, map[model.RouteID]uint64{1: 3, 2: 1}, map[model.RouteID]uint64{1: 3, 2: 1}},
		{"more", func() { counts = map[model.RouteID]uint64{1: 5, 2: 1} }, map[model.RouteID]uint64{1: 2}, map[model.RouteID]uint64{1: 5, 2: 1}},
		{"a restart", func() { counts, b = map[model.RouteID]uint64{1: 1}, fresh() }, map[model.RouteID]uint64{1: 1}, map[model.RouteID]uint64{1: 6, 2: 1}},
		{"a route is not served", func() { gone[1], counts = true, map[model.RouteID]uint64{1: 3} }, map[model.RouteID]uint64{1: 2}, map[model.RouteID]uint64{1: 8, 2: 1}},
		{"and is again, from zero", func() { gone[1], counts = false, map[model.RouteID]uint64{1: 1} }, map[model.RouteID]uint64{1: 1}, map[model.RouteID]uint64{1: 9, 2: 1}},
		{"a route is gone", func() {
			change(func(tx *store.Tx) error {
				_, err := store.Routes.Delete(tx, 2)
				if err == nil {
					_, err = store.RouteCounters.Delete(tx, 2)
				}
				return err
			})
			gone[2], counts = true, map[model.RouteID]uint64{1: 1, 2: 9}
		}, map[model.RouteID]uint64{2: 9}, map[model.RouteID]uint64{1: 9}},
	} {
		step.do()
		if got := b.Unsaved(); !maps.Equal(got, step.unsaved) {
			t.Errorf("%s: unsaved %v, want %v", step.name, got, step.unsaved)
		}
		if err := b.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := map[model.RouteID]uint64{}
		if err := db.View(func(tx *store.Tx) error {
			for c, err := range store.RouteCounters.All(tx) {
				if err != nil {
					return err
				}
				got[c.ID] = c.BotsBlocked
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, step.stored) || len(b.Unsaved()) > 0 {
			t.Errorf("%s: stored %v, want %v, and %v still unsaved", step.name, got, step.stored, b.Unsaved())
		}
	}
	if len(b.saved) != 1 {
		t.Errorf("remembered after a route is gone: %v", b.saved)
	}
}

func TestBotCountsRun(t *testing.T) {
	db := storetest.Open(t)
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		return store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "a.example.com"})
	}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Uint64
		b := NewBotCounts(BotCountsOptions{
			DB: db, Log: slog.New(slog.DiscardHandler), Interval: time.Minute,
			Counts:  func() map[model.RouteID]uint64 { return map[model.RouteID]uint64{1: n.Load()} },
			Counted: func(map[model.RouteID]uint64) []model.RouteID { return nil },
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		n.Store(4)
		time.Sleep(61 * time.Second)
		if len(b.Unsaved()) > 0 {
			t.Error("nothing was saved within a minute")
		}
		n.Store(6)
		stop()
		if err := <-done; err != nil || len(b.Unsaved()) > 0 {
			t.Errorf("the end: %v, %v unsaved", err, b.Unsaved())
		}
	})
}
