package peers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func expires(s string) func(*Input) { return func(in *Input) { in.ExpiresAt = model.Value(s) } }

func TestExpire(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	due := b.create(t, "due", expires("2026-11-21T12:00:00Z"))
	past := b.create(t, "past", expires("2020-01-01"))
	later := b.create(t, "later", expires("2026-11-21T12:00:00.001Z"))
	never := b.create(t, "never")
	off := b.create(t, "off", expires("2020-01-01"))
	if _, err := b.Toggle(t.Context(), off.ID); err != nil {
		t.Fatal(err)
	}
	before := len(b.events(t))
	if err := b.Expire(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		Created
		want bool
	}{{due, false}, {past, false}, {later, true}, {never, true}, {off, false}} {
		v := b.get(t, c.ID)
		if v.Enabled != c.want {
			t.Errorf("%s: enabled %t", v.Name, v.Enabled)
		}
		if v.ExpiresAt == nil && c.ExpiresAt != nil {
			t.Errorf("%s lost its date", v.Name)
		}
	}
	list := b.events(t)[before:]
	if len(list) != 2 {
		t.Fatalf("%d events", len(list))
	}
	if e := list[1]; e.Type != "peer_expired" || e.Source != "system" || e.Severity != model.SeverityWarning || string(e.Details) != `{"expiresAt":"2026-11-21T12:00:00.000Z","peerId":1}` {
		t.Errorf("event %+v %s", e, e.Details)
	}

	// Enabled again without a new date, it goes with the next run; with a new
	// date it stays, and a new date alone does not enable it.
	if _, err := b.Toggle(t.Context(), due.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(t.Context(), past.ID, input(t, `{"expires_at":"2030-01-01"}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Expire(t.Context(), noon.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if b.get(t, due.ID).Enabled || b.get(t, past.ID).Enabled || b.get(t, later.ID).Enabled {
		t.Error("an expired peer is enabled")
	}
}

// A store that is not asked to write does not move its revision.
func TestExpireWritesOnlyWhenDue(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.create(t, "later", expires("2030-01-01"))
	before := len(b.events(t))
	for range 3 {
		if err := b.Expire(t.Context(), noon); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // any write would fail
	if err := b.Expire(ctx, noon); err != nil || len(b.events(t)) != before {
		t.Errorf("nothing was due, yet something was written: %v", err)
	}
}

// applied is what a plane makes of the store.
type applied struct{ count int }

func (a *applied) Commit() { a.count++ }
func (a *applied) Abort()  {}

// TestExpiryWhileTheStoreRefuses brings the planes to what the time says, even
// when that cannot be written down: access ends on a full disk, too.
func TestExpiryWhileTheStoreRefuses(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.create(t, "due", expires("2026-11-21T12:00:00Z"))
	var planes applied
	b.db.SetPrepare(func(_ context.Context, tx *store.Tx) (store.Pending, error) {
		if len(tx.Changes()) > 0 {
			return nil, errors.New("no room")
		}
		return &planes, nil
	})
	if wait := b.step(t.Context()); wait != expiryRetry || planes.count != 1 {
		t.Errorf("waits %s; the planes were brought up %d times, want once", wait, planes.count)
	}
}

func TestRunExpiresInTime(t *testing.T) {
	// The store is opened outside: it lives in real time.
	b := newBench(t, "10.8.0.0/24")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := New(Options{DB: b.db, Now: time.Now, Tunnel: b.o.Tunnel})
		at := func(d time.Duration) model.Field[string] {
			return model.Value(start.Add(d).UTC().Format(time.RFC3339Nano))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()

		// One that comes while Run waits for nothing, and an earlier one after it.
		far, err := s.Create(t.Context(), Input{Name: model.Value("far"), ExpiresAt: at(10 * time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		near, err := s.Create(t.Context(), Input{Name: model.Value("near"), ExpiresAt: at(7 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		enabled := func(id model.PeerID) bool {
			synctest.Wait()
			v, err := s.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return v.Enabled
		}
		time.Sleep(7*time.Second - time.Millisecond)
		if !enabled(near.ID) {
			t.Error("disabled before its time")
		}
		time.Sleep(time.Millisecond)
		if enabled(near.ID) {
			t.Error("enabled after its time")
		}
		time.Sleep(10*time.Minute - 7*time.Second - time.Millisecond)
		if !enabled(far.ID) {
			t.Error("disabled before its time")
		}
		time.Sleep(time.Millisecond)
		if enabled(far.ID) {
			t.Error("enabled after its time")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunRetriesWhatTheStoreRefused(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a", expires("2020-01-01"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if wait := b.step(ctx); wait != expiryRetry {
		t.Errorf("waits %s after a failure", wait)
	}
	if wait := b.step(t.Context()); wait != expiryInterval || b.get(t, p.ID).Enabled {
		t.Errorf("waits %s, enabled %t", wait, b.get(t, p.ID).Enabled)
	}
}
