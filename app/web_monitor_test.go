package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab"
)

// checked is what checks have made of a route, as the API shows it.
type checked struct {
	Enabled      int     `json:"monitoring_enabled"`
	Status       *string `json:"monitoring_status"`
	LastCheck    *string `json:"monitoring_last_check"`
	LastChange   *string `json:"monitoring_last_change"`
	ResponseTime *int64  `json:"monitoring_response_time"`
	Reason       *string `json:"monitoring_reason"`
	Breaker      string  `json:"circuit_breaker_status"`
	Failures     int     `json:"cb_failure_count"`
	OpenedAt     *string `json:"cb_opened_at"`
}

// moody is a service that answers no request while it is away, as one that has
// crashed behind whatever starts it.
type moody struct{ away atomic.Bool }

// serveMoody opens one on a port.
func (e exhibit) serveMoody(t *testing.T, port uint16) *moody {
	t.Helper()
	ln, err := e.peer.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	m := new(moody)
	there := e.handler("moody", port)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.away.Load() {
			panic(http.ErrAbortHandler)
		}
		there(w, r)
	})}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return m
}

// watched is a route and the server that checks it.
type watched struct {
	*gallery
	id     int64
	domain string
}

func (w *watched) path() string { return fmt.Sprintf("/api/v1/routes/%d", w.id) }

func (w *watched) read(t *testing.T) checked {
	t.Helper()
	var a struct{ Route checked }
	w.s.API.Call(t, 200, "GET", w.path(), nil, &a)
	return a.Route
}

// check has the route checked now, and the answer be up or down.
func (w *watched) check(t *testing.T, want string, changed bool) {
	t.Helper()
	var a struct {
		OK           bool
		Up           bool
		Status       string
		Changed      bool
		ResponseTime *int64 `json:"responseTime"`
	}
	w.s.API.Call(t, 200, "POST", w.path()+"/check", nil, &a)
	if !a.OK || a.Status != want || a.Up != (want == "up") || a.Changed != changed || a.ResponseTime == nil {
		t.Fatalf("the check says %+v, want %s, changed %t", a, want, changed)
	}
	if got := w.read(t); got.Status == nil || *got.Status != want || got.LastCheck == nil || got.ResponseTime == nil {
		t.Fatalf("the route says %+v", got)
	}
}

// visitors get the status want over every HTTP version, and where that is 503, when to
// come again.
func (w *watched) visits(t *testing.T, when string, want int) {
	t.Helper()
	for _, v := range w.visitors() {
		got := visit(t, v.outside(t), w.domain, "/")
		if retry := got.header.Get("Retry-After"); got.status != want || want == 503 && retry != "5" {
			t.Errorf("%s, over %s: %d, Retry-After %q, want %d", when, v.version, got.status, retry, want)
		}
	}
}

// soon waits until a visitor gets the status want: what is read of a change before it
// was acknowledged may not be live yet.
func (w *watched) soon(t *testing.T, want int) {
	t.Helper()
	out := w.visitors()[0].outside(t)
	lab.Eventually(t, 60*time.Second, fmt.Sprint(w.domain, " to answer ", want), func() error {
		if got := visit(t, out, w.domain, "/"); got.status != want {
			return fmt.Errorf("it is %d", got.status)
		}
		return nil
	})
}

// refusedBy is the step that would refuse a request.
func (w *watched) refusedBy(t *testing.T) string {
	t.Helper()
	var a struct {
		RefusedBy *string `json:"refused_by"`
	}
	w.s.API.Call(t, 200, "POST", "/api/v1/routes/explain", fields{"url": "https://" + w.domain + "/", "address": "203.0.113.9"}, &a)
	if a.RefusedBy == nil {
		return ""
	}
	return *a.RefusedBy
}

// told lists the events of the monitor about the route, oldest first.
func (w *watched) told(t *testing.T) (list []string) {
	t.Helper()
	var log struct {
		Entries []struct {
			Type    string `json:"event_type"`
			Details struct{ RouteID int64 }
		}
	}
	w.s.API.Call(t, 200, "GET", "/api/v1/logs/activity?source=monitor&limit=100", nil, &log)
	for _, e := range slices.Backward(log.Entries) {
		if e.Details.RouteID == w.id {
			list = append(list, e.Type)
		}
	}
	return list
}

// TestBreakerFollowsChecks takes the service of a peer away and brings it back:
// visitors of every HTTP version are told to come again as soon as five checks have
// failed, also after a restart, and let in once one has succeeded.
func TestBreakerFollowsChecks(t *testing.T) {
	o := lab.Options(t)
	o.WGPort = uint16(lab.FreePort(t)) // the peer finds the server again after the restart
	w := &watched{gallery: &gallery{s: lab.Run(t, o)}}
	signIn := func() {
		w.s.Admin.Login(t, lab.User, lab.Password)
		w.s.API = w.s.Admin.WithToken(w.s.Admin.MakeToken(t, "full-access"))
	}
	signIn()
	w.alpha = w.exhibit(t, "alpha")
	shop := w.alpha.serveMoody(t, 8100)
	w.id, w.domain = w.show(t, fields{"target_port": 8100, "circuit_breaker_enabled": true, "circuit_breaker_timeout": 5})
	hidden := *w
	hidden.id, hidden.domain = w.show(t, fields{"target_port": 8100, "circuit_breaker_enabled": true, "circuit_breaker_threshold": 1, "external_enabled": false})

	w.check(t, "up", false)
	if r := w.alpha.last(t); r.Host != w.domain || r.Method != "GET" || r.URL.Path != "/" || !strings.HasPrefix(r.UserAgent(), "GateControl-Monitor/") {
		t.Errorf("the check was %s %s of %s by %s", r.Method, r.URL, r.Host, r.UserAgent())
	}
	w.visits(t, "while it is up", 200)

	shop.away.Store(true)
	for n := range 5 {
		w.visits(t, fmt.Sprintf("after %d failed checks", n), 502)
		if got := w.read(t); got.Breaker != "closed" || got.Failures != n {
			t.Errorf("after %d failed checks: %+v", n, got)
		}
		w.check(t, "down", n == 0)
	}
	w.visits(t, "after 5 failed checks", 503)
	if got := w.read(t); got.Breaker != "open" || got.Failures != 0 || got.OpenedAt == nil || got.LastChange == nil || got.Reason == nil {
		t.Errorf("after 5 failed checks: %+v", got)
	}
	if step := w.refusedBy(t); step != "circuit_breaker" {
		t.Errorf("a request would be refused by %q", step)
	}
	hidden.check(t, "down", false)
	for _, v := range w.visitors() {
		visit(t, v.outside(t), hidden.domain, "/").wants(t, "to whom it says nothing, over "+v.version, 404, "")
	}

	before := w.read(t)
	w.s.Stop(t)
	w.s = lab.Run(t, o)
	signIn()
	if got := w.read(t); got.Breaker != "open" || *got.OpenedAt != *before.OpenedAt || *got.LastCheck != *before.LastCheck || *got.Status != "down" {
		t.Errorf("after the restart %+v, before %+v", got, before)
	}
	w.visits(t, "after the restart", 503)

	shop.away.Store(false)
	opened, err := time.Parse(time.RFC3339, *before.OpenedAt)
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, "up", true)
	if got := w.read(t); got.Breaker == "closed" && time.Since(opened) < 5*time.Second {
		t.Errorf("it closed %s after it opened", time.Since(opened))
	}
	lab.Eventually(t, 60*time.Second, "the breaker to close", func() error {
		if time.Since(opened) < 5*time.Second {
			return fmt.Errorf("it is not time yet")
		}
		w.s.API.Call(t, 200, "POST", w.path()+"/check", nil, nil)
		if got := w.read(t); got.Breaker != "closed" || got.OpenedAt != nil {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	w.visits(t, "once it has closed", 200)
	if got, want := strings.Join(w.told(t), " "), "route_down circuit_breaker_open route_up circuit_breaker_closed"; got != want {
		t.Errorf("told was %q, want %q", got, want)
	}

	// By hand at once, and by a change that names the switch.
	w.s.API.Call(t, 200, "POST", hidden.path()+"/circuit-breaker/reset", nil, nil)
	if got := (&watched{gallery: w.gallery, id: hidden.id}).read(t); got.Breaker != "closed" {
		t.Errorf("after the reset: %+v", got)
	}
}

// TestResetOpensAtOnce has visitors let in by hand while a service is away.
func TestResetOpensAtOnce(t *testing.T) {
	g := newGallery(t)
	w := &watched{gallery: g}
	w.id, w.domain = g.show(t, fields{"target_port": 8999, "circuit_breaker_enabled": true, "circuit_breaker_threshold": 1, "circuit_breaker_timeout": 5})
	for _, c := range []struct {
		name string
		free func()
	}{
		{"reset", func() { g.s.API.Call(t, 200, "POST", w.path()+"/circuit-breaker/reset", nil, nil) }},
		{"update that names the switch", func() { g.change(t, w.id, fields{"circuit_breaker_enabled": true}) }},
		{"monitoring off", func() {
			g.change(t, w.id, fields{"monitoring_enabled": true})
			g.change(t, w.id, fields{"monitoring_enabled": false})
		}},
		{"breaker off", func() { g.change(t, w.id, fields{"circuit_breaker_enabled": false}) }},
	} {
		g.s.API.Call(t, 200, "POST", w.path()+"/check", nil, nil)
		w.visits(t, "before the "+c.name, 503)
		c.free()
		w.visits(t, "after the "+c.name, 502)
	}
}

// TestMonitoring has routes checked by themselves, and tells of them.
func TestMonitoring(t *testing.T) {
	t.Parallel() // most of it is waiting for rounds
	g := &gallery{s: lab.Start(t)}
	g.s.API.Call(t, 200, "PUT", "/api/v1/settings/monitoring", fields{"interval": 3600}, nil)
	g.s.API.Call(t, 200, "PUT", "/api/v1/settings/metrics", fields{"enabled": true}, nil)
	g.alpha = g.exhibit(t, "alpha")
	shop := g.alpha.serveMoody(t, 8100)
	show := func(options fields) *watched {
		w := &watched{gallery: g}
		w.id, w.domain = g.show(t, options)
		return w
	}
	is := func(w *watched, limit time.Duration, status, breaker string) {
		t.Helper()
		lab.Eventually(t, limit, w.domain+" to be "+status, func() error {
			if got := w.read(t); got.Status == nil || *got.Status != status || got.Breaker != breaker {
				return fmt.Errorf("%s", jsonText(t, got))
			}
			return nil
		})
	}
	web := show(fields{"target_port": 8100, "monitoring_enabled": 1, "circuit_breaker_enabled": true, "circuit_breaker_threshold": 1, "circuit_breaker_timeout": 5})
	is(web, 30*time.Second, "up", "closed") // long before the second round
	l4 := fields{"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": fmt.Sprint(lab.FreePort(t)), "monitoring_enabled": true}
	tcp := show(l4)
	is(tcp, 30*time.Second, "up", "closed")
	gone := show(fields{"target_port": 8999})
	g.change(t, gone.id, fields{"monitoring_enabled": true})
	is(gone, 30*time.Second, "down", "closed")
	several := show(fields{"target_port": 8999, "monitoring_enabled": true, "backends": []fields{{"peer_id": g.alpha.id, "port": 8998}, {"peer_id": g.alpha.id, "port": 8001}}})
	is(several, 30*time.Second, "up", "closed")
	l4["l4_protocol"], l4["target_port"] = "udp", 8999
	udp := show(l4)
	var a struct{ Up, ResponseTime, Status, Reason any }
	g.s.API.Call(t, 200, "POST", udp.path()+"/check", nil, &a)
	if got := udp.read(t); got.Enabled != 1 || got.Status != nil || a.Up != nil || a.Status != nil || a.Reason == nil {
		t.Errorf("a route of UDP: %+v, its check: %+v", got, a)
	}
	off := show(fields{"target_port": 8999})
	if got := off.read(t); got.Status != nil || got.LastCheck != nil {
		t.Errorf("a route that nobody checks: %+v", got)
	}

	var stats struct{ Monitoring struct{ Total, Up, Down int } }
	g.s.API.Call(t, 200, "GET", "/api/v1/dashboard/stats", nil, &stats)
	if m := stats.Monitoring; m.Total != 5 || m.Up != 3 || m.Down != 1 {
		t.Errorf("the overview counts %+v", m)
	}
	var metrics string
	g.s.API.Call(t, 200, "GET", "/metrics", nil, &metrics)
	for line, there := range map[string]bool{
		`gatecontrol_route_monitoring_status{domain="` + web.domain + `"} 1`: true, `gatecontrol_route_monitoring_status{domain="` + gone.domain + `"} 0`: true,
		`domain="` + udp.domain + `"`: false, `domain="` + off.domain + `"`: false,
	} {
		if strings.Contains(metrics, line) != there {
			t.Errorf("%s in the metrics: %t", line, !there)
		}
	}

	g.s.API.Call(t, 200, "PUT", "/api/v1/settings/monitoring", fields{"interval": 10}, nil)
	shop.away.Store(true)
	web.soon(t, 503)
	is(web, 30*time.Second, "down", "open")
	web.visits(t, "after the round in which it was away", 503)
	shop.away.Store(false)
	web.soon(t, 200)
	is(web, 30*time.Second, "up", "closed")
	web.visits(t, "after the round in which it had returned", 200)
	g.s.API.Call(t, http.StatusNotFound, "POST", "/api/v1/routes/9999/check", nil, nil)
}

// TestMonitoringThroughGateway checks a service behind a home gateway: by a request
// to the gateway, with what that leads on by.
func TestMonitoringThroughGateway(t *testing.T) {
	g := &gallery{s: lab.Start(t)}
	c := g.companion(t, "home")
	c.join(t)
	c.start(t)
	w := &watched{gallery: g}
	w.id, w.domain = g.show(t, fields{"peer_id": nil, "target_port": nil, "target_kind": "gateway", "target_peer_id": c.id,
		"target_lan_host": "192.168.2.228", "target_lan_port": 5001, "backend_https": true})
	w.check(t, "down", false) // the gateway does not know the domain
	if got := w.read(t); got.Reason == nil || *got.Reason != "the answer has status 502" {
		t.Errorf("it is down since %s", jsonText(t, got))
	}
	c.lead(w.domain, "192.168.2.228:5001")
	w.check(t, "up", true)
	at, behind := c.last(t), c.lan.last(t)
	if got := gatewayFields(at); got != w.domain+" 192.168.2.228:5001" || at.Host != w.domain || !strings.HasPrefix(at.UserAgent(), "GateControl-Monitor/") {
		t.Errorf("the gateway got %q for %s by %s", got, at.Host, at.UserAgent())
	}
	if behind.Host != w.domain || behind.URL.Path != "/" {
		t.Errorf("the service got %s for %s", behind.URL, behind.Host)
	}
}
