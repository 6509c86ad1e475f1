package routes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// result is what a check of a route comes to that begins now.
func (b *bench) result(t testing.TB, id model.RouteID, up bool) model.ProbeResult {
	t.Helper()
	p, ok := b.probe(id)
	if !ok {
		t.Fatalf("there is no route %d", id)
	}
	r := model.ProbeResult{Probe: p, Up: up, Took: 1234567 * time.Microsecond}
	if !up {
		r.Reason = "why"
	}
	return r
}

// tell has checks begin and end.
func (b *bench) tell(t testing.TB, list ...model.ProbeResult) []model.Checked {
	t.Helper()
	for _, r := range list {
		if err := b.BeginCheck(t.Context(), r.Probe.Route); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.EndChecks(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// stored is what the store knows of checks of a route, and the state of it.
func (b *bench) stored(t testing.TB, id model.RouteID) (c *model.RouteCheck, revision model.Revision) {
	t.Helper()
	if err := b.db.View(func(tx *store.Tx) (err error) {
		revision = tx.Revision()
		c, err = store.RouteChecks.Get(tx, id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c, revision
}

// checkText is what checks have made of a route, on one line.
func checkText(v View) string {
	w := v.Options()
	s := v.Check.BreakerOf(&w.Breaker)
	text := fmt.Sprintf("%s open=%t %s %d", v.Check.Status, w.Breaker.Open, s.State, s.Failures)
	if s.OpenedAt != nil {
		text += s.OpenedAt.Format(" 15:04:05")
	}
	return strings.TrimSpace(text)
}

// TestEndChecks follows a route whose service goes away and returns, tells what is
// news and writes nothing of what is not.
func TestEndChecks(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"monitoring_enabled":true,
		"circuit_breaker_enabled":true,"circuit_breaker_threshold":2,"circuit_breaker_timeout":30}`)
	for i, step := range []struct {
		pass    time.Duration
		up      bool
		changed bool
		want    string
		events  string // new ones; empty: nothing is written
		intent  bool   // the plan may have changed
	}{
		{0, true, false, "up open=false closed 0", "", false},
		{time.Minute, true, false, "up open=false closed 0", "", false},
		{time.Minute, false, true, "down open=false closed 1", "route_down error", false},
		{time.Minute, true, true, "up open=false closed 0", "route_up success", false},
		{time.Minute, false, true, "down open=false closed 1", "route_down error", false},
		{time.Minute, false, false, "down open=true open 0 12:05:00", "circuit_breaker_open warning", true},
		{10 * time.Second, true, true, "up open=true open 0 12:05:00", "route_up success", false},
		{10 * time.Second, false, true, "down open=true open 0 12:05:00", "route_down error", false},
		{10 * time.Second, false, false, "down open=true open 0 12:05:30", "", false}, // half-open, and open again
		{30 * time.Second, true, true, "up open=false closed 0", "route_up success, circuit_breaker_closed success", true},
		{time.Minute, true, false, "up open=false closed 0", "", false},
	} {
		b.now = b.now.Add(step.pass)
		_, revision := b.stored(t, v.ID)
		before := len(b.events(t))
		got := b.tell(t, b.result(t, v.ID, step.up))[0]
		is := b.get(t, v.ID)
		if text := checkText(is); text != step.want || got.Changed != step.changed || got.Status != is.Check.Status || got.Took != 1234567*time.Microsecond ||
			!is.Check.At.Equal(b.now) || (got.Reason == "") != step.up {
			t.Errorf("step %d: %s, want %s; answer %+v, check at %s", i, text, step.want, got, is.Check.At)
		}
		if step.changed && !is.Check.ChangedAt.Equal(b.now) {
			t.Errorf("step %d: changed at %s", i, is.Check.ChangedAt)
		}
		var events []string
		for _, e := range b.events(t)[before:] {
			events = append(events, e.Type+" "+string(e.Severity))
			if e.Source != "monitor" || !strings.Contains(string(e.Details), `"routeId":1`) || !strings.Contains(string(e.Details), `"domain":"a.example.com"`) {
				t.Errorf("step %d: event %+v", i, e)
			}
		}
		if got := strings.Join(events, ", "); got != step.events {
			t.Errorf("step %d: events %q, want %q", i, got, step.events)
		}
		c, now := b.stored(t, v.ID)
		if onDisk := c != nil && c.Version == is.Check.Version; onDisk != (step.events != "") {
			t.Errorf("step %d: on disk is %+v", i, c)
		}
		if (now != revision) != step.intent {
			t.Errorf("step %d: the revision went from %d to %d", i, revision, now)
		}
	}
	details := string(b.events(t)[1].Details)
	if details != `{"domain":"a.example.com","previousStatus":"up","reason":"why","responseTime":1234,"routeId":1,"status":"down"}` {
		t.Errorf("the first change tells %s", details)
	}
}

// TestHalfOpen shows that a check decides while it runs.
func TestHalfOpen(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"circuit_breaker_enabled":true,"circuit_breaker_threshold":1,"circuit_breaker_timeout":30}`)
	b.tell(t, b.result(t, v.ID, false))
	begin := func() string {
		t.Helper()
		if err := b.BeginCheck(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		return checkText(b.get(t, v.ID))
	}
	b.now = b.now.Add(29 * time.Second)
	if got := begin(); got != "down open=true open 0 12:00:00" {
		t.Errorf("too early it is %s", got)
	}
	b.now = b.now.Add(time.Second)
	if got := begin(); got != "down open=true half-open 0 12:00:00" {
		t.Errorf("it is %s", got)
	}
	if err := b.saveChecks(t.Context()); err != nil { // and a restart changes nothing about that
		t.Fatal(err)
	}
	b.Service = New(b.o)
	if got := checkText(b.get(t, v.ID)); got != "down open=true half-open 0 12:00:00" {
		t.Errorf("after a restart it is %s", got)
	}
	if _, err := b.EndChecks(t.Context(), []model.ProbeResult{b.result(t, v.ID, true)}); err != nil {
		t.Fatal(err)
	}
	if got := checkText(b.get(t, v.ID)); got != "up open=false closed 0" {
		t.Errorf("the check has made it %s", got)
	}
	if err := b.BeginCheck(t.Context(), 99); err != nil {
		t.Error(err)
	}
}

// TestOutdatedChecks has nothing come of a check that began before the route was
// changed, or its breaker closed by hand, or that has no route any more.
func TestOutdatedChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*bench, model.RouteID) error
	}{
		{"a change", func(b *bench, id model.RouteID) error {
			_, err := b.Update(context.Background(), id, Input{Description: model.Value("x")})
			return err
		}},
		{"another target", func(b *bench, id model.RouteID) error {
			_, err := b.Update(context.Background(), id, Input{TargetPort: model.Value[int64](9)})
			return err
		}},
		{"a reset", func(b *bench, id model.RouteID) error { return b.ResetBreaker(context.Background(), id) }},
		{"the end of the route", func(b *bench, id model.RouteID) error { return b.Delete(context.Background(), id) }},
		{"a toggle", func(b *bench, id model.RouteID) error { _, err := b.Toggle(context.Background(), id); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			v := b.create(t, `{"domain":"a.example.com","target_port":8080,"circuit_breaker_enabled":true,"circuit_breaker_threshold":1}`)
			other := b.create(t, `{"domain":"b.example.com","target_port":8080}`)
			r, theirs := b.result(t, v.ID, false), b.result(t, other.ID, true)
			r.Asked = true
			b.now = b.now.Add(time.Second)
			if err := c.change(b, v.ID); err != nil {
				t.Fatal(err)
			}
			out, err := b.EndChecks(t.Context(), []model.ProbeResult{r, theirs})
			if err != nil || !out[0].Outdated || out[0].Status != "" || out[1].Status != model.StatusUp {
				t.Errorf("%+v, %v", out, err)
			}
			if got := checkText(b.get(t, other.ID)); got != "up open=false closed 0" {
				t.Errorf("the other route is %s", got)
			}
			if stored, _ := b.stored(t, v.ID); stored != nil && (stored.Status != "" || stored.Breaker.Refuses()) {
				t.Errorf("stored is %+v", stored)
			}
			if v, err := b.Get(t.Context(), v.ID); err == nil && checkText(v) != "open=false closed 0" {
				t.Errorf("the route is %s", checkText(v))
			}
		})
	}
}

// TestRefusedTransition has a breaker that cannot be opened be as it was, and opened
// by the next check.
func TestRefusedTransition(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"circuit_breaker_enabled":true,"circuit_breaker_threshold":2}`)
	b.tell(t, b.result(t, v.ID, true))
	b.tell(t, b.result(t, v.ID, false))
	before := b.get(t, v.ID)
	full := errors.New("the disk is full")
	b.db.SetPrepare(func(context.Context, *store.Tx) (store.Pending, error) { return nil, full })
	if _, err := b.EndChecks(t.Context(), []model.ProbeResult{b.result(t, v.ID, false)}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if after := b.get(t, v.ID); checkText(after) != checkText(before) || after.Check.Version != before.Check.Version {
		t.Errorf("it is %s, was %s", checkText(after), checkText(before))
	}
	b.db.SetPrepare(nil)
	b.tell(t, b.result(t, v.ID, false))
	if got := checkText(b.get(t, v.ID)); got != "down open=true open 0 12:00:00" {
		t.Errorf("in the end it is %s", got)
	}
}

// TestSaveChecks stores what is known in memory alone, and nothing older than what
// the store has.
func TestSaveChecks(t *testing.T) {
	b := newBench(t)
	one := b.create(t, `{"domain":"a.example.com","target_port":8080,"circuit_breaker_enabled":true}`)
	two := b.create(t, `{"domain":"b.example.com","target_port":8080}`)
	gone := b.create(t, `{"domain":"c.example.com","target_port":8080}`)
	b.tell(t, b.result(t, one.ID, false), b.result(t, two.ID, true), b.result(t, gone.ID, true))
	if c, _ := b.stored(t, two.ID); c != nil {
		t.Errorf("stored is %+v", c)
	}
	if err := b.Delete(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Second)
	if err := b.ResetBreaker(t.Context(), one.ID); err != nil { // which is newer than what is in memory
		t.Fatal(err)
	}
	_, revision := b.stored(t, one.ID)
	if err := b.saveChecks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, now := b.stored(t, two.ID); c == nil || c.Status != model.StatusUp || !c.At.Equal(noon) || now != revision {
		t.Errorf("stored is %+v, the revision %d, was %d", c, now, revision)
	}
	if c, _ := b.stored(t, one.ID); c.Status != model.StatusDown || c.Breaker.Failures != 0 {
		t.Errorf("after a reset %+v", c)
	}
	if c, _ := b.stored(t, gone.ID); c != nil {
		t.Errorf("of a deleted route %+v is stored", c)
	}
	if n := len(b.unsaved.checks); n != 0 {
		t.Errorf("%d are left in memory", n)
	}
	for _, v := range []View{one, two} {
		if err := b.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	b.write(t, func(tx *store.Tx) error {
		if n := store.RouteChecks.Len(tx); n != 0 {
			t.Errorf("%d checks are left", n)
		}
		return nil
	})
}

func TestCheck(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	udp := b.create(t, `{"route_type":"l4","l4_protocol":"udp","l4_listen_port":5000,"target_port":1,"monitoring_enabled":true}`)
	b.check = func(p model.Probe) (model.Checked, error) {
		r := b.result(t, p.Route, true)
		r.Asked = true
		return b.tell(t, r)[0], nil
	}
	if c, err := b.Check(t.Context(), v.ID); err != nil || c.Status != model.StatusUp {
		t.Errorf("%+v, %v", c, err)
	}
	if c, _ := b.stored(t, v.ID); c == nil || c.Status != model.StatusUp { // somebody has seen it
		t.Errorf("stored is %+v", c)
	}
	if c, err := b.Check(t.Context(), udp.ID); err != nil || c.Status != "" || c.Reason != "it is UDP" {
		t.Errorf("%+v, %v", c, err)
	}
	b.check = func(model.Probe) (model.Checked, error) { return model.Checked{Outdated: true}, nil }
	_, err := b.Check(t.Context(), v.ID)
	wantError(t, err, model.KindConflict, "")
	_, err = b.Check(t.Context(), 99)
	wantError(t, err, model.KindNotFound, "")
}

// TestMonitoringSwitch says which routes are monitored, and what becomes of a breaker
// that nothing checks any more.
func TestMonitoringSwitch(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"b.example.com","target_port":8080,"monitoring_enabled":"1","circuit_breaker_enabled":true,"circuit_breaker_threshold":1}`)
	b.create(t, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"6000","target_port":1,"monitoring_enabled":true}`)
	b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	off := b.create(t, `{"domain":"c.example.com","target_port":8080,"monitoring_enabled":true}`)
	if _, err := b.Toggle(t.Context(), off.ID); err != nil {
		t.Fatal(err)
	}
	b.tell(t, b.result(t, v.ID, false))
	list, err := b.Monitored(t.Context())
	if got := fmt.Sprint(list); err != nil || got != "[{b.example.com down} {tcp 6000 }]" {
		t.Errorf("%s, %v", got, err)
	}
	for _, step := range []struct {
		body, want string
		monitored  bool
	}{
		{`{"description":"x"}`, "down open=true open 0 12:00:00", true},
		{`{"monitoring_enabled":true}`, "down open=true open 0 12:00:00", true},
		{`{"monitoring_enabled":null}`, "down open=true open 0 12:00:00", true},
		{`{"monitoring_enabled":0}`, "down open=false closed 0", false},
	} {
		if _, err := b.Update(t.Context(), v.ID, input(t, step.body)); err != nil {
			t.Fatal(err)
		}
		if v := b.get(t, v.ID); checkText(v) != step.want || v.Monitored != step.monitored {
			t.Errorf("%s: %s, monitored %t", step.body, checkText(v), v.Monitored)
		}
	}
}

// TestWhatCannotBeTold has nothing left of what checks found, and no breaker open, once
// a route is one whose service cannot be asked.
func TestWhatCannotBeTold(t *testing.T) {
	for _, c := range []struct{ name, before, change, back, after string }{
		{"UDP", `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":5000,"target_port":1,"monitoring_enabled":true}`,
			`{"l4_protocol":"udp"}`, `{"l4_protocol":"tcp"}`, "up open=false closed 0"},
		{"a redirect of everything", `{"domain":"a.example.com","target_port":8080,"monitoring_enabled":true,
			"circuit_breaker_enabled":true,"circuit_breaker_threshold":1}`,
			`{"paths":[{"prefix":"/","redirect":"https://b.example.com/"}]}`, `{"paths":null}`, "up open=false closed 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			v := b.create(t, c.before)
			b.tell(t, b.result(t, v.ID, false))
			if got := b.get(t, v.ID); got.Check.Status != model.StatusDown || got.Options().Breaker.Open != got.Options().Breaker.Enabled {
				t.Fatalf("before: %s", checkText(got))
			}
			if _, err := b.Update(t.Context(), v.ID, input(t, c.change)); err != nil {
				t.Fatal(err)
			}
			if err := b.saveChecks(t.Context()); err != nil { // nor does what was in memory come back
				t.Fatal(err)
			}
			if got := b.get(t, v.ID); checkText(got) != "open=false closed 0" || !got.Check.At.IsZero() || got.Check.Reason != "" {
				t.Errorf("then: %s, %+v", checkText(got), got.Check)
			}
			list, err := b.Monitored(t.Context())
			if err != nil || len(list) != 1 || list[0].Status != "" {
				t.Errorf("monitored are %+v, %v", list, err)
			}
			if _, err := b.Update(t.Context(), v.ID, input(t, c.back)); err != nil {
				t.Fatal(err)
			}
			b.tell(t, b.result(t, v.ID, true))
			if got := checkText(b.get(t, v.ID)); got != c.after {
				t.Errorf("in the end: %s", got)
			}
			if len(b.events(t)) == 0 || b.lastEvent(t).Type == "route_up" {
				t.Error("what was found anew is told as a change")
			}
		})
	}
}

// TestSaveChecksEnds stores what there is in one transaction, however fast more is
// found meanwhile: that waits for the next time.
func TestSaveChecksEnds(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	<-b.db.Committed()
	put := func(version uint64) {
		b.unsaved.put(model.RouteCheck{ID: v.ID, Version: version, Status: model.StatusUp})
	}
	put(1)
	var finder sync.WaitGroup
	stop, commits := make(chan struct{}), 0
	finder.Go(func() {
		for n := uint64(2); ; n++ {
			put(n)
			select {
			case <-b.db.Committed():
				commits++
			case <-stop:
				return
			default:
			}
		}
	})
	if err := b.saveChecks(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	finder.Wait()
	if c, _ := b.stored(t, v.ID); commits > 1 || c == nil || c.Status != model.StatusUp {
		t.Errorf("stored is %+v, in %d transactions at least", c, commits)
	}
}
