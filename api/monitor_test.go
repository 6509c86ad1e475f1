package api

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// probe has every route be asked that f.found says something of.
func (f *fixture) probe(id model.RouteID) (p model.Probe, ok bool) {
	_ = f.db.View(func(tx *store.Tx) error {
		r, err := store.Routes.Get(tx, id)
		if ok = err == nil && r != nil; !ok {
			return err
		}
		p = model.Probe{Route: id, Version: r.UpdatedAt, Reason: "it cannot be told"}
		if _, asked := f.found[id]; asked {
			p.Reason, p.Backends = "", []model.ProbeTarget{{Addr: netip.MustParseAddrPort("10.8.0.2:80")}}
		}
		return nil
	})
	return p, ok
}

// check comes to what f.found says.
func (f *fixture) check(ctx context.Context, p model.Probe) (model.Checked, error) {
	r := f.found[p.Route]
	r.Probe, r.Asked = p, true
	out, err := f.Routes.EndChecks(ctx, []model.ProbeResult{r})
	if err != nil {
		return model.Checked{}, err
	}
	return out[0], nil
}

// TestChecks has routes checked, and compares what is said of them everywhere.
func TestChecks(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, body := range []string{
		`{"domain":"a.example.com","target_port":1,"monitoring_enabled":true,"circuit_breaker_enabled":true,"circuit_breaker_threshold":1}`,
		`{"domain":"a.example.com","route_type":"l4","l4_protocol":"tcp","l4_listen_port":6000,"target_port":1,"monitoring_enabled":1}`,
		`{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":6001,"target_port":1,"monitoring_enabled":1}`,
		`{"domain":"b.example.com","target_port":1,"monitoring_enabled":true}`,
		`{"domain":"c.example.com","target_port":1}`,
	} {
		admin.call(t, 201, "POST", "/api/v1/routes", body)
	}
	up := model.ProbeResult{Up: true, Took: 23400 * time.Microsecond}
	down := model.ProbeResult{Took: 10 * time.Second, Reason: "no answer within 10s"}
	f.found = map[model.RouteID]model.ProbeResult{1: up, 2: up, 3: up, 5: down}
	check := func(name, id string) {
		t.Helper()
		f.clock.advance(time.Minute)
		golden(t, name, admin.do("POST", "/api/v1/routes/"+id+"/check", "").Body.String())
	}
	check("check-up", "1")
	f.found[1] = down
	check("check-down", "1")
	check("check-untold", "4")
	check("check-unknown", "99")
	for _, id := range []string{"2", "3", "5"} {
		admin.call(t, 200, "POST", "/api/v1/routes/"+id+"/check", "")
	}
	golden(t, "route-checked", admin.do("GET", "/api/v1/routes/1", "").Body.String())
	golden(t, "stats-checked", admin.do("GET", "/api/v1/dashboard/stats", "").Body.String())

	page := admin.do("GET", "/dashboard", "").Body.String()
	f.found[4] = down
	admin.call(t, 200, "POST", "/api/v1/routes/4/check", "")
	delete(f.found, 4)
	for text, there := range map[string]bool{"circuit breaker open: no answer within 10s": true, "service down: no answer within 10s": false} {
		if strings.Contains(page, text) != there {
			t.Errorf("%q on the page: %t", text, !there)
		}
	}
	if page = admin.do("GET", "/dashboard", "").Body.String(); !strings.Contains(page, "service down: no answer within 10s") {
		t.Error("a service that is down is not on the page")
	}

	admin.call(t, 200, "PUT", "/api/v1/settings/metrics", `{"enabled":1}`)
	text := admin.do("GET", "/metrics", "").Body.String()
	_, text, _ = strings.Cut(text, "# TYPE gatecontrol_route_monitoring_status gauge\n")
	text, _, _ = strings.Cut(text, "#")
	// The first domain is that of a route that is up, too; one route is not monitored.
	if want := "gatecontrol_route_monitoring_status{domain=\"a.example.com\"} 0\ngatecontrol_route_monitoring_status{domain=\"b.example.com\"} 0\ngatecontrol_route_monitoring_status{domain=\"tcp 6001\"} 1\n"; text != want {
		t.Errorf("metrics\n%s, want\n%s", text, want)
	}
}
