package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// meter is what the tunnel has counted and the store does not hold yet.
type meter struct {
	mu    sync.Mutex
	moved map[model.PublicKey]model.PeerTraffic
	reads int
}

func (m *meter) Read() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
}

func (m *meter) Unsaved(key model.PublicKey) model.PeerTraffic {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved[key]
}

// move has a peer move bytes in the month that b shows.
func (b *bench) move(p Created, bytes uint64) {
	b.meter.mu.Lock()
	defer b.meter.mu.Unlock()
	if b.meter.moved == nil {
		b.meter.moved = make(map[model.PublicKey]model.PeerTraffic)
	}
	now := model.PeerTraffic{RxBytes: bytes, Months: model.Months{{Month: model.MonthOf(b.now), N: bytes}}}
	b.meter.moved[p.PublicKey] = b.meter.moved[p.PublicKey].Plus(now)
}

// save stores what was moved, as telemetry does once a minute.
func (b *bench) save(t testing.TB, p Created) {
	t.Helper()
	b.write(t, func(tx *store.Tx) error {
		c, err := store.Counters.Get(tx, p.ID)
		if err != nil {
			return err
		}
		if c == nil {
			c = &model.PeerCounters{ID: p.ID}
		}
		c.Add(b.meter.moved[p.PublicKey])
		delete(b.meter.moved, p.PublicKey)
		return store.Counters.Put(tx, c)
	})
}

func (b *bench) check(t testing.TB) {
	t.Helper()
	if err := b.CheckQuotas(t.Context(), b.now); err != nil {
		t.Fatal(err)
	}
}

// restart makes a new service on the same store. What was not saved is lost.
func (b *bench) restart() {
	b.meter.moved = nil
	b.Service = New(b.o)
}

// quotaEvents names the events about quotas, oldest first, and forgets nothing.
func (b *bench) quotaEvents(t testing.TB) string {
	t.Helper()
	var list []string
	for _, e := range b.events(t) {
		if name, ok := strings.CutPrefix(e.Type, "peer_quota_"); ok {
			list = append(list, name)
		}
	}
	return strings.Join(list, " ")
}

func quota(bytes int64, action string) func(*Input) {
	return func(in *Input) { in.QuotaBytes, in.QuotaAction = model.Value(bytes), model.Value(action) }
}

func (b *bench) update(t testing.TB, p Created, body string) View {
	t.Helper()
	v, err := b.Update(t.Context(), p.ID, input(t, body))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// want checks what is shown of p and whether it belongs into the tunnel.
func (b *bench) want(t testing.TB, p Created, live, exceeded bool, used uint64) {
	t.Helper()
	v := b.get(t, p.ID)
	if v.Live(b.now) != live || v.QuotaExceeded != exceeded || v.QuotaUsed != used {
		t.Errorf("live %t, exceeded %t, used %d; want %t, %t, %d", v.Live(b.now), v.QuotaExceeded, v.QuotaUsed, live, exceeded, used)
	}
}

func TestQuota(t *testing.T) {
	for _, c := range []struct {
		name, action string
		cut          bool
	}{{"the default", "", true}, {"block", "block", true}, {"notify", "notify", false}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			p, other := b.create(t, "a", quota(1000, c.action)), b.create(t, "b", quota(0, c.action))
			b.move(other, 1_000_000)
			for _, s := range []struct {
				bytes          uint64
				events         string
				live, exceeded bool
			}{
				{0, "", true, false},
				{799, "", true, false},
				{1, "warning", true, false},
				{0, "warning", true, false},
				{199, "warning", true, false},
				{1, "warning exceeded", !c.cut, true},
				{5000, "warning exceeded", !c.cut, true},
			} {
				used := b.get(t, p.ID).QuotaUsed + s.bytes
				b.move(p, s.bytes)
				b.check(t)
				b.want(t, p, s.live, s.exceeded, used)
				if got := b.quotaEvents(t); got != s.events {
					t.Fatalf("after %d bytes the events are %q, want %q", used, got, s.events)
				}
				if s.bytes%2 == 1 { // it does not matter where the count is
					b.save(t, p)
					b.check(t)
					b.want(t, p, s.live, s.exceeded, used)
				}
			}
			b.want(t, other, true, false, 1_000_000)
			if got := b.quotaEvents(t); got != "warning exceeded" {
				t.Errorf("events %q", got)
			}
		})
	}
}

func TestQuotaEvent(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a", quota(1000, "block"))
	b.move(p, 1234) // from nothing over the end in one step: the warning would come late
	b.check(t)
	e := b.lastEvent(t)
	want := `{"action":"block","month":"2026-11","peerId":1,"quotaBytes":1000,"resetsAt":"2026-12-01T00:00:00.000Z","usedBytes":1234}`
	if e.Type != "peer_quota_exceeded" || e.Source != "system" || e.Severity != model.SeverityWarning || string(e.Details) != want ||
		e.Message != "peer a has used up its monthly quota and is cut until the next month or a higher quota" {
		t.Errorf("event %+v %s, want %s", e, e.Details, want)
	}
	if got := b.quotaEvents(t); got != "exceeded" {
		t.Errorf("events %q", got)
	}
	if v := b.get(t, p.ID); !v.QuotaResets.Equal(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)) || !v.Enabled {
		t.Errorf("%+v", v)
	}
}

func TestQuotaChanges(t *testing.T) {
	for _, c := range []struct {
		name, body     string
		live, exceeded bool
		events         string // besides the first two
	}{
		{"raised above the use", `{"quota_bytes":5000}`, true, false, ""},
		{"raised so that the warning holds", `{"quota_bytes":1200}`, true, false, ""},
		{"raised, but not enough", `{"quota_bytes":1050}`, false, true, ""},
		{"lowered", `{"quota_bytes":10}`, false, true, ""},
		{"removed", `{"quota_bytes":0}`, true, false, ""},
		{"removed by null", `{"quota_bytes":null}`, true, false, ""},
		{"the same", `{"quota_bytes":"1000"}`, false, true, ""},
		{"only to be told", `{"quota_action":"notify"}`, true, true, ""},
		{"something else", `{"description":"x"}`, false, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			p := b.create(t, "a", quota(1000, "block"))
			for range 2 {
				b.move(p, 550)
				b.check(t)
			}
			b.move(p, 0)
			b.want(t, p, false, true, 1100)
			before := b.quotaEvents(t)
			v := b.update(t, p, c.body)
			if v.Live(b.now) != c.live || v.QuotaExceeded != c.exceeded {
				t.Errorf("answered live %t, exceeded %t", v.Live(b.now), v.QuotaExceeded)
			}
			b.want(t, p, c.live, c.exceeded, 1100)
			b.check(t)
			b.want(t, p, c.live, c.exceeded, 1100)
			if got := b.quotaEvents(t); got != before {
				t.Errorf("events %q, before %q", got, before)
			}
		})
	}
}

// A quota that was changed is told anew, and one that is below the use holds at
// once, with the answer.
func TestQuotaIsToldAnew(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a")
	b.check(t) // nobody has a quota
	b.move(p, 1000)
	if v := b.update(t, p, `{"quota_bytes":900}`); v.Live(b.now) || !v.QuotaExceeded {
		t.Error("live with a quota below its use")
	}
	if got := b.quotaEvents(t); got != "exceeded" {
		t.Errorf("events %q", got)
	}
	b.update(t, p, `{"quota_bytes":10000}`)
	b.move(p, 7000)
	b.check(t)
	b.move(p, 2000)
	b.check(t)
	b.want(t, p, false, true, 10_000)
	if got := b.quotaEvents(t); got != "exceeded warning exceeded" {
		t.Errorf("events %q", got)
	}
}

// TestQuotaAcrossMonths lets the clock pass the end of a month, go back by a day,
// and pass it again.
func TestQuotaAcrossMonths(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	var planes applied
	b.db.SetPrepare(func(context.Context, *store.Tx) (store.Pending, error) { return &planes, nil })
	p := b.create(t, "a", quota(1000, "block"))
	look := func(at string) (compiled int) {
		t.Helper()
		var err error
		if b.now, err = time.Parse(time.DateTime, at); err != nil {
			t.Fatal(err)
		}
		b.quotas.at = time.Time{} // its time has come
		before := planes.count
		if wait := b.stepQuotas(t.Context()); wait != DefaultQuotaInterval {
			t.Errorf("%s: waits %s", at, wait)
		}
		return planes.count - before
	}
	look("2026-11-30 23:59:50")
	b.move(p, 1500)
	if n := look("2026-11-30 23:59:58"); n != 1 {
		t.Errorf("compiled %d times for the cut", n)
	}
	b.want(t, p, false, true, 1500)

	if n := look("2026-12-01 00:00:00"); n != 1 {
		t.Errorf("compiled %d times at the start of a month", n)
	}
	b.want(t, p, true, false, 0)
	b.move(p, 300)
	b.save(t, p)
	if n := look("2026-12-01 00:00:10"); n != 0 {
		t.Errorf("compiled %d times for nothing", n)
	}

	if n := look("2026-11-30 00:00:10"); n != 1 { // the clock is set back by a day
		t.Errorf("compiled %d times for a clock that was set back", n)
	}
	b.want(t, p, false, true, 1500)
	look("2026-12-01 00:00:20")
	b.want(t, p, true, false, 300)
	b.move(p, 500)
	look("2026-12-01 00:00:30")
	b.want(t, p, true, false, 800)
	if got := b.quotaEvents(t); got != "exceeded warning" {
		t.Errorf("events %q", got)
	}
}

// TestQuotaAfterRestart loses what was not stored, and nothing else.
func TestQuotaAfterRestart(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a", quota(1000, "block"))
	b.move(p, 900)
	b.check(t)
	b.save(t, p)
	b.restart()
	b.check(t)
	b.want(t, p, true, false, 900)
	b.move(p, 50)
	b.restart() // killed within the minute
	b.want(t, p, true, false, 900)
	b.move(p, 100)
	b.check(t)
	b.want(t, p, false, true, 1000)
	b.restart() // the cut holds, though the last bytes are lost
	b.check(t)
	b.want(t, p, false, true, 900)
	if got := b.quotaEvents(t); got != "warning exceeded" {
		t.Errorf("events %q", got)
	}
	b.now = b.now.AddDate(0, 1, 0) // down over the end of the month
	b.restart()
	b.check(t)
	b.want(t, p, true, false, 0)
}

// Without a quota anywhere, a look costs no write and comes once a minute; with
// one that is not reached, it costs no write.
func TestQuotaWritesOnlyWhenDue(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a")
	if wait := b.stepQuotas(t.Context()); wait != quotaScan {
		t.Errorf("waits %s without a quota", wait)
	}
	b.update(t, p, `{"quota_bytes":1000}`)
	if wait := b.stepQuotas(t.Context()); wait != DefaultQuotaInterval {
		t.Errorf("waits %s with one", wait)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // any write would fail
	b.move(p, 799)
	if err := b.CheckQuotas(ctx, b.now); err != nil {
		t.Errorf("nothing was due, yet something was written: %v", err)
	}
	b.move(p, 1)
	if err := b.CheckQuotas(ctx, b.now); !errors.Is(err, context.Canceled) {
		t.Errorf("a warning was due: %v", err)
	}
	reads := b.meter.reads
	b.create(t, "b") // wakes Run
	if wait := b.stepQuotas(t.Context()); wait != DefaultQuotaInterval || b.meter.reads != reads {
		t.Errorf("a change that has nothing to do with it made %d readings, wait %s", b.meter.reads-reads, wait)
	}
}

// A store that refuses is asked again, and nothing is told twice.
func TestQuotaWhileTheStoreRefuses(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a", quota(1000, "block"))
	b.move(p, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if wait := b.stepQuotas(ctx); wait != expiryRetry {
		t.Errorf("waits %s after a failure", wait)
	}
	b.now = b.now.Add(expiryRetry)
	if wait := b.stepQuotas(t.Context()); wait != DefaultQuotaInterval {
		t.Errorf("waits %s", wait)
	}
	b.want(t, p, false, true, 1000)
	if got := b.quotaEvents(t); got != "exceeded" {
		t.Errorf("events %q", got)
	}
}

func TestQuotaOfADeletedPeer(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p, stays := b.create(t, "a", quota(1000, "block")), b.create(t, "b", quota(1000, "block"))
	b.check(t)
	if err := b.Delete(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	b.move(p, 2000)
	b.move(stays, 2000)
	b.check(t)
	b.want(t, stays, false, true, 2000)
}

// Another writer, such as a restore, gave a quota: it holds within a minute.
func TestQuotaOfAnotherWriter(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a")
	b.create(t, "b", quota(1000, "block"))
	b.move(p, 1000)
	b.check(t)
	b.write(t, func(tx *store.Tx) error {
		stored, err := load(tx, p.ID)
		if err != nil {
			return err
		}
		stored.QuotaBytes = 500
		return store.Peers.Put(tx, stored)
	})
	b.now = b.now.Add(quotaScan)
	b.check(t)
	b.want(t, p, false, true, 1000)
}

// TestRunLooksAfterQuotas lets Run itself find what is due, month's end included.
func TestRunLooksAfterQuotas(t *testing.T) {
	b := newBench(t, "10.8.0.0/24") // opened outside: it lives in real time
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Until(time.Date(2026, 11, 30, 23, 59, 40, 0, time.UTC))
		now := func() time.Time { return time.Now().Add(ahead) }
		b.now = now()
		s := New(Options{DB: b.db, Now: now, Tunnel: b.o.Tunnel, Meter: &b.meter, QuotaInterval: 3 * time.Second})
		var compiled atomic.Int32
		b.db.SetPrepare(func(context.Context, *store.Tx) (store.Pending, error) {
			compiled.Add(1)
			return new(applied), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		p, err := s.Create(t.Context(), Input{Name: model.Value("a"), QuotaBytes: model.Value[int64](1000)})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.move(p, 1000)
		live := func() bool {
			synctest.Wait()
			v, err := s.Get(t.Context(), p.ID)
			if err != nil {
				t.Fatal(err)
			}
			return v.Live(now())
		}
		if time.Sleep(3*time.Second - time.Millisecond); !live() {
			t.Error("cut before its time")
		}
		if time.Sleep(time.Millisecond); live() {
			t.Error("not cut in time")
		}
		before := compiled.Load()
		time.Sleep(model.MonthOf(now()).End().Sub(now()) - time.Millisecond)
		if live() || compiled.Load() != before {
			t.Errorf("something was applied %d times before the month's end", compiled.Load()-before)
		}
		if time.Sleep(3*time.Second + time.Millisecond); !live() || compiled.Load() != before+1 {
			t.Errorf("live %t, applied %d times", live(), compiled.Load()-before)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUpdateLimits(t *testing.T) {
	show := func(p *model.Peer) string {
		return fmt.Sprintf("%d %d %d %s %t %t %t", p.RateLimitUp, p.RateLimitDown, p.QuotaBytes, p.QuotaAction, p.Isolated, p.NoExit, p.Trusted)
	}
	const was = "64000 128000 1000 notify true true true"
	for _, c := range []struct{ name, body, want, field string }{
		{name: "nothing", body: `{}`, want: was},
		{name: "null", body: `{"rate_limit_up":null,"rate_limit_down":null,"quota_bytes":null,"quota_action":null,"isolated":null,"no_exit":null,"trusted":null}`, want: "0 0 0 block false false false"},
		{name: "zero", body: `{"rate_limit_up":0,"rate_limit_down":"0","quota_bytes":0,"isolated":0,"no_exit":"0","trusted":false}`, want: "0 0 0 notify false false false"},
		{name: "one", body: `{"rate_limit_down":"1000000"}`, want: strings.Replace(was, "128000", "1000000", 1)},
		{name: "the action stays without a quota", body: `{"quota_bytes":0}`, want: strings.Replace(was, "1000", "0", 1)},
		{name: "rate", body: `{"rate_limit_up":1}`, field: "rate_limit_up"},
		{name: "quota", body: `{"quota_bytes":-5}`, field: "quota_bytes"},
		{name: "action", body: `{"quota_action":"Block"}`, field: "quota_action"},
		{name: "flag", body: `{"trusted":"maybe"}`, field: "trusted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			p := b.create(t, "a")
			b.update(t, p, `{"rate_limit_up":64000,"rate_limit_down":128000,"quota_bytes":1000,"quota_action":"notify","isolated":true,"no_exit":1,"trusted":"1"}`)
			var in Input
			err := in.UnmarshalJSON([]byte(c.body))
			if err == nil {
				_, err = b.Update(t.Context(), p.ID, in)
			}
			stored, want := b.get(t, p.ID), c.want
			if c.field != "" {
				wantError(t, err, model.KindInvalid, c.field)
				want = was
			} else if err != nil {
				t.Fatal(err)
			}
			if got := show(&stored.Peer); got != want {
				t.Errorf("stored %s, want %s", got, want)
			}
		})
	}
}

// BenchmarkCheckQuotas is the look at ten thousand peers that all have a quota,
// when none of them is due.
func BenchmarkCheckQuotas(b *testing.B) {
	s := newBench(b, "10.0.0.0/8")
	s.write(b, func(tx *store.Tx) error {
		addr := s.o.Tunnel.Gateway.Next()
		for i := range MaxPeers {
			addr = addr.Next()
			p := &model.Peer{
				Name: fmt.Sprint("peer ", i), Enabled: true, PublicKey: model.NewPrivateKey().Public(), QuotaBytes: 1 << 40,
				AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)},
			}
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
			if err := store.Counters.Put(tx, &model.PeerCounters{ID: p.ID, Months: model.Months{{Month: "2026-11", N: 1 << 30}}}); err != nil {
				return err
			}
		}
		return nil
	})
	b.ReportAllocs()
	for b.Loop() {
		s.check(b)
	}
}
