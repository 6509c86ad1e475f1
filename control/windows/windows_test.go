package windows

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const always = "Mo-So 00:00-24:00"

// bench is a service on a store of its own, with a web route (1), a disabled one (2)
// and a peer (1).
type bench struct {
	*Service
	db       *store.DB
	applied  atomic.Int64 // how often the planes were to look at the clock
	refusing atomic.Bool
	counted  int
}

var (
	route1 = Target{Route: 1}
	route2 = Target{Route: 2}
	peer1  = Target{Peer: 1}
)

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{db: storetest.Open(t)}
	b.Service = New(Options{DB: b.db, Now: time.Now, Count: func() { b.counted++ }})
	if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(
			store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "a.example.com", Enabled: true}),
			store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "b.example.com"}),
			store.Peers.Insert(tx, &model.Peer{Name: "laptop", Type: model.PeerRegular, Enabled: true, PublicKey: model.PublicKey{1}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")}}),
		)
	}); err != nil {
		t.Fatal(err)
	}
	b.db.SetPrepare(func(_ context.Context, tx *store.Tx) (store.Pending, error) {
		if len(tx.Changes()) == 0 {
			b.applied.Add(1)
		}
		if b.refusing.Load() {
			return nil, errRefused
		}
		return nothing{}, nil
	})
	return b
}

var errRefused = errors.New("no")

type nothing struct{}

func (nothing) Commit() {}
func (nothing) Abort()  {}

func input(t testing.TB, body string) (in Input) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &in); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return in
}

func window(mode, schedule string) Input {
	return Input{Mode: model.Value(mode), Schedule: model.Value(schedule)}
}

func (b *bench) add(t testing.TB, to Target, in Input) model.WindowID {
	t.Helper()
	id, err := b.Add(t.Context(), to, in)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// events lists the types of events, and whom each is about.
func (b *bench) events(t testing.TB) (list []string) {
	t.Helper()
	if err := b.db.View(func(tx *store.Tx) error {
		for e, err := range store.Outbox.All(tx) {
			if err != nil {
				return err
			}
			list = append(list, e.Type+" "+string(e.Details))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *bench) list(t testing.TB, of Target) View {
	t.Helper()
	v, err := b.List(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWindows(t *testing.T) {
	b := newBench(t)
	if v := b.list(t, route1); len(v.List) != 0 || !v.Open || v.By != nil {
		t.Errorf("none: %+v", v)
	}
	first := b.add(t, route1, input(t, `{"mode":" allow ","schedule":" Mo-So 00:00-24:00\n","valid_from":"2020-01-01","valid_until":null,"label":"x"}`))
	second := b.add(t, route1, window("block", always))
	if v := b.list(t, route1); first != 1 || second != 2 || v.Open || v.By == nil || v.By.ID != 2 ||
		!slices.Equal(v.List, []model.Window{
			{ID: 1, Mode: "allow", Schedule: always, From: "2020-01-01", Label: "x"}, {ID: 2, Mode: "block", Schedule: always},
		}) {
		t.Errorf("two: %+v", v)
	}
	if err := b.Change(t.Context(), route1, first, window("allow", "Mo 00:00-24:00")); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), route1, second); err != nil {
		t.Fatal(err)
	}
	// Numbers are not used again, and belong to one target.
	if id := b.add(t, route1, window("allow", always)); id != 3 {
		t.Errorf("the third one is %d", id)
	}
	if v := b.list(t, route1); !v.Open || v.By == nil || len(v.List) != 2 || v.List[0].From != "" {
		t.Errorf("changed: %+v", v)
	}
	if id := b.add(t, peer1, window("allow", always)); id != 1 {
		t.Errorf("the first one of another is %d", id)
	}
	for what, err := range map[string]error{
		"change":        b.Change(t.Context(), peer1, 3, window("allow", always)),
		"remove":        b.Remove(t.Context(), peer1, 3),
		"a route":       b.Remove(t.Context(), Target{Route: 9}, 1),
		"a peer":        b.Remove(t.Context(), Target{Peer: 9}, 1),
		"removed twice": b.Remove(t.Context(), route1, second),
	} {
		if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := strings.Join(b.events(t), "\n"); strings.Count(got, `route_updated {"routeId":1}`) != 5 || strings.Count(got, `peer_updated {"peerId":1}`) != 1 {
		t.Errorf("events\n%s", got)
	}
	if b.counted < 6 {
		t.Errorf("traffic was counted %d times", b.counted)
	}
}

func TestTooManyWindows(t *testing.T) {
	b := newBench(t)
	for range model.MaxWindows {
		b.add(t, peer1, window("allow", always))
	}
	_, err := b.Add(t.Context(), peer1, window("allow", always))
	if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindConflict {
		t.Errorf("one more: %v", err)
	}
}

func TestRefusedWindowsChangeNothing(t *testing.T) {
	b := newBench(t)
	id := b.add(t, route1, window("allow", always))
	before := len(b.events(t))
	b.refusing.Store(true)
	if _, err := b.Add(t.Context(), route1, window("block", always)); !errors.Is(err, errRefused) {
		t.Errorf("add: %v", err)
	}
	b.refusing.Store(false)
	if err := b.Change(t.Context(), route1, id, window("block", "always")); err == nil {
		t.Error("a schedule that nobody can read is taken")
	}
	if v := b.list(t, route1); len(v.List) != 1 || !v.Open || len(b.events(t)) != before {
		t.Errorf("%+v, %d events", v, len(b.events(t))-before)
	}
}

// TestRun goes by the clock of the bubble, which begins on a Saturday at midnight, UTC.
func TestRun(t *testing.T) {
	b := newBench(t)
	synctest.Test(t, func(t *testing.T) {
		b.Service = New(Options{DB: b.db, Now: func() time.Time { return time.Now().UTC() }})
		b.add(t, route1, window("allow", "Sa 00:02-00:04"))
		b.add(t, peer1, window("block", "Sa 00:04-00:05"))
		b.add(t, route2, window("block", "Sa 00:04-00:05")) // which is disabled
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		told := len(b.events(t))
		step := func(d time.Duration, applied int64, want ...string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			list := b.events(t)
			if got := list[told:]; b.applied.Load() != applied || !slices.Equal(got, want) {
				t.Errorf("at %s: applied %d times, %q", time.Now().UTC().Format("15:04:05"), b.applied.Load(), got)
			}
			told = len(list)
		}
		step(0, 1) // the planes have started at another time
		step(2*time.Minute-time.Nanosecond, 1)
		step(time.Nanosecond, 2, `access_window_allowed {"routeId":1}`)
		step(2*time.Minute, 3, `access_window_denied {"routeId":1}`, `access_window_denied {"peerId":1}`)
		step(30*time.Second, 3)

		// A change wakes it, also one that takes all windows away.
		if err := b.Remove(t.Context(), route1, 1); err != nil {
			t.Fatal(err)
		}
		step(0, 4, `route_updated {"routeId":1}`, `access_window_allowed {"routeId":1}`)

		// What refuses is asked again before the next minute.
		b.refusing.Store(true)
		step(31*time.Second, 5)
		b.refusing.Store(false)
		step(5*time.Second, 6, `access_window_allowed {"peerId":1}`)

		// Who is disabled meanwhile does not open.
		b.add(t, peer1, window("block", "Sa 00:06-00:07"))
		step(time.Minute, 8, `peer_updated {"peerId":1}`, `access_window_denied {"peerId":1}`)
		if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
			p, err := store.Peers.Get(tx, 1)
			p.Enabled = false
			return errors.Join(err, store.Peers.Put(tx, p))
		}); err != nil {
			t.Fatal(err)
		}
		step(time.Hour, 9)

		// What others change, they do by a clock that may be another one a moment later.
		b.add(t, route1, window("allow", always))
		step(0, 10, `route_updated {"routeId":1}`)
		if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
			r, err := store.Routes.Get(tx, 1)
			r.Domain = "c.example.com"
			return errors.Join(err, store.Routes.Put(tx, r))
		}); err != nil {
			t.Fatal(err)
		}
		step(time.Minute, 11)
		step(time.Hour, 11)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
