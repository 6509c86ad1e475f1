package model

import (
	"net/netip"
	"testing"
	"time"
)

func TestRouteCheck(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	on, off := &Breaker{Enabled: true, Threshold: 1, Timeout: time.Minute}, &Breaker{Threshold: 1, Timeout: time.Minute}
	up, down := &ProbeResult{Up: true, Took: time.Second}, &ProbeResult{Took: 2 * time.Second, Reason: "why"}
	var c RouteCheck
	for i, step := range []struct {
		b       *Breaker
		r       *ProbeResult
		changed bool
		breaker string
	}{
		{off, up, false, ""}, {off, up, false, ""}, {off, down, true, ""}, {off, down, false, ""},
		{on, down, false, BreakerOpen}, {on, up, true, BreakerOpen}, {off, down, true, BreakerOpen},
	} {
		now := noon.Add(time.Duration(i) * time.Hour)
		on.Open = c.Breaker.Refuses()
		next, changed := c.End(step.b, step.r, now)
		status := StatusDown
		if step.r.Up {
			status = StatusUp
		}
		if changed != step.changed || next.Status != status || next.Version != c.Version+1 || !next.At.Equal(now) || next.Took != step.r.Took ||
			next.Reason != step.r.Reason || next.Breaker.State != step.breaker {
			t.Errorf("step %d: %+v, changed %t", i, next, changed)
		}
		if want := c.ChangedAt; changed == (next.ChangedAt == want) || changed && !next.ChangedAt.Equal(now) {
			t.Errorf("step %d: changed at %v", i, next.ChangedAt)
		}
		c = next
	}
	at := noon
	on.Open, c.Breaker = true, BreakerState{State: BreakerOpen, OpenedAt: &at}
	if next := c.Begin(off, noon.Add(time.Hour)); next.Version != c.Version || next.Breaker != c.Breaker {
		t.Errorf("a breaker that is off: %+v", next)
	}
	if next := c.Begin(on, noon.Add(time.Hour)); next.Version != c.Version+1 || next.Breaker.State != BreakerHalfOpen {
		t.Errorf("a breaker that was open for long: %+v", next)
	}
}

func TestProbeEqual(t *testing.T) {
	full := func() Probe {
		return Probe{
			Route: 1, Version: time.Unix(1, 0), Kind: ProbeHTTP, Backends: []ProbeTarget{{Addr: netip.MustParseAddrPort("10.8.0.2:80")}},
			Reason: "r", Host: "h", Fields: []HeaderField{{"A", "b"}},
		}
	}
	p := full()
	if q := full(); !p.Equal(&q) || !p.Asks(&q) {
		t.Error("a probe does not equal itself")
	}
	q := full()
	if q.Version = q.Version.Add(1); p.Equal(&q) || !p.Asks(&q) {
		t.Error("a route that was changed otherwise is asked in the same way")
	}
	for i, change := range []func(*Probe){
		func(p *Probe) { p.Route++ }, func(p *Probe) { p.Kind = ProbeTCP }, func(p *Probe) { p.Backends[0].TLS = true },
		func(p *Probe) { p.Backends = nil }, func(p *Probe) { p.Reason = "" }, func(p *Probe) { p.Host = "" }, func(p *Probe) { p.Fields[0].Value = "c" },
	} {
		q := full()
		if change(&q); p.Equal(&q) || p.Asks(&q) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

func TestMonitoring(t *testing.T) {
	for _, c := range []struct {
		key, value string
		want       Monitoring
	}{
		{MonitorIntervalKey, "10", Monitoring{Interval: 10 * time.Second}},
		{MonitorIntervalKey, "3600", Monitoring{Interval: time.Hour}},
		{MonitorIntervalKey, "9", DefaultMonitoring()},
		{MonitorIntervalKey, "3601", DefaultMonitoring()},
		{MonitorIntervalKey, "-60", DefaultMonitoring()},
		{MonitorIntervalKey, "99999999999999999999", DefaultMonitoring()},
		{MonitorIntervalKey, "", DefaultMonitoring()},
		{MonitorAlertsKey, "true", Monitoring{Interval: time.Minute, EmailAlerts: true}},
		{MonitorEmailKey, "a@example.com", Monitoring{Interval: time.Minute, AlertEmail: "a@example.com"}},
		{MetricsKey, "true", DefaultMonitoring()},
	} {
		if got := DefaultMonitoring().With(c.key, c.value); got != c.want {
			t.Errorf("%s %q: %+v", c.key, c.value, got)
		}
	}
}
