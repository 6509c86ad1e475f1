package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newLog(t *testing.T) (*Log, *store.DB) {
	t.Helper()
	db := storetest.Open(t)
	return NewLog(db, slog.New(slog.DiscardHandler)), db
}

func add(t *testing.T, db *store.DB, ctx context.Context, at time.Time, e Entry) {
	t.Helper()
	if err := db.Update(ctx, func(tx *store.Tx) error { return Append(ctx, tx, at, e) }); err != nil {
		t.Fatal(err)
	}
}

func types(list []*model.Event) (s []string) {
	for _, e := range list {
		s = append(s, e.Type)
	}
	return s
}

func TestEventOfARolledBackChangeIsNotTold(t *testing.T) {
	l, db := newLog(t)
	refused := errors.New("refused")
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		if err := Append(t.Context(), tx, day, Entry{Type: "peer_created"}); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if list, total, err := l.List(Filter{}, 10, 0); err != nil || total != 0 || len(list) != 0 {
		t.Errorf("%v %d %v", types(list), total, err)
	}
}

func TestActorOfAnEvent(t *testing.T) {
	l, db := newLog(t)
	session := model.Actor{User: 1, Session: &model.Session{}, Addr: netip.MustParseAddr("::ffff:192.0.2.7")}
	add(t, db, model.WithActor(t.Context(), session), day, Entry{Type: "a", Details: map[string]any{"peerId": 7}})
	add(t, db, t.Context(), day, Entry{Type: "b", Severity: model.SeverityWarning})
	add(t, db, t.Context(), day, Entry{Type: "c", Source: "monitor"})
	list, _, err := l.List(Filter{}, 10, 0)
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	c, b, a := list[0], list[1], list[2]
	if a.Source != "admin" || a.Addr != netip.MustParseAddr("192.0.2.7") || a.Severity != model.SeverityInfo || string(a.Details) != `{"peerId":7}` {
		t.Errorf("of a person: %+v", a)
	}
	if b.Source != "system" || b.Addr.IsValid() || b.Severity != model.SeverityWarning {
		t.Errorf("of the server: %+v", b)
	}
	if c.Source != "monitor" {
		t.Errorf("with a source of its own: %+v", c)
	}
}

func TestListBeforeAndAfterTheMove(t *testing.T) {
	l, db := newLog(t)
	for i := range 5 {
		severity := model.SeverityInfo
		if i%2 == 1 {
			severity = model.SeverityError
		}
		add(t, db, t.Context(), day.Add(time.Duration(i)*time.Hour), Entry{Type: fmt.Sprint("e", i), Severity: severity})
		if i == 2 { // the first three move, the others wait
			if err := l.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		for _, c := range []struct {
			name          string
			f             Filter
			limit, offset int
			want          string
			total         int
		}{
			{"all", Filter{}, 10, 0, "[e4 e3 e2 e1 e0]", 5},
			{"page", Filter{}, 2, 1, "[e3 e2]", 5},
			{"past the end", Filter{}, 2, 9, "[]", 5},
			{"severity", Filter{Severity: model.SeverityError}, 10, 0, "[e3 e1]", 2},
			{"type", Filter{Type: "e2"}, 10, 0, "[e2]", 1},
			{"source", Filter{Source: "admin"}, 10, 0, "[]", 0},
			{"since and until", Filter{Since: day.Add(time.Hour), Until: day.Add(3 * time.Hour)}, 10, 0, "[e2 e1]", 2},
		} {
			list, total, err := l.List(c.f, c.limit, c.offset)
			if got := fmt.Sprint(types(list)); err != nil || got != c.want || total != c.total {
				t.Errorf("%s: %s of %d, %v; want %s of %d", c.name, got, total, err, c.want, c.total)
			}
		}
		if err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInterruptedMove ends between the two halves of a move, as a kill would.
func TestInterruptedMove(t *testing.T) {
	l, db := newLog(t)
	add(t, db, t.Context(), day, Entry{Type: "once"})
	batch, err := l.pending(drainBatch)
	if err != nil || len(batch) != 1 {
		t.Fatal(batch, err)
	}
	if err := db.UpdateHistory(func(tx *store.Tx) error { return store.Activity.Put(tx, batch[0]) }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if list, total, err := l.List(Filter{}, 10, 0); err != nil || total != 1 || len(list) != 1 {
			t.Errorf("%v of %d, %v", types(list), total, err)
		}
		if err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	l, db := newLog(t)
	old, recent := &model.Event{ID: 1, Type: "old", At: day}, &model.Event{ID: MaxEvents + 1, Type: "recent", At: day}
	if err := db.UpdateHistory(func(tx *store.Tx) error { return store.Activity.Put(tx, old) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return store.Outbox.Put(tx, recent) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, _, err := l.List(Filter{}, 10, 0); err != nil || fmt.Sprint(types(list)) != "[recent]" {
		t.Errorf("%v %v", types(list), err)
	}
}

// TestMovesWhileRunning lists while events come and move: each is there once.
func TestMovesWhileRunning(t *testing.T) {
	l, db := newLog(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	const n = 200
	for i := range n {
		add(t, db, t.Context(), day, Entry{Type: fmt.Sprint(i)})
		if i%20 == 0 {
			list, total, err := l.List(Filter{}, n, 0)
			if err != nil || total != i+1 || len(list) != i+1 {
				t.Fatalf("after %d events: %d of %d, %v", i+1, len(list), total, err)
			}
		}
	}
	stop()
	wg.Wait()
	if err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waiting, err := l.pending(n); err != nil || len(waiting) != 0 {
		t.Errorf("%d still wait, %v", len(waiting), err)
	}
	if _, total, err := l.List(Filter{}, 1, 0); err != nil || total != n {
		t.Errorf("%d of %d, %v", total, n, err)
	}
}
