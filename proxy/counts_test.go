package proxy

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

// TestCountsOfRefusals: each request is counted with the step that refused it, and
// nothing is counted by explaining one.
func TestCountsOfRefusals(t *testing.T) {
	addr := backend(t, func(http.ResponseWriter, *http.Request) {})
	bots, err := NewBots(BotOptions{Ranges: stranger + "/32"})
	if err != nil {
		t.Fatal(err)
	}
	route := func(host string, o RouteOptions) Route {
		return Route{Host: host, Target: Target{Addr: addr}, Options: &o}
	}
	cfg := Config{Tunnel: testTunnel, Routes: []Route{
		{Host: "force_https.test", Target: Target{Addr: addr}, ForceHTTPS: true},
		route("external.test", RouteOptions{Internal: &model.BlockReply{Action: model.BlockEmpty}}),
		route("peer_acl.test", RouteOptions{ACL: new(ACL)}),
		route("circuit_breaker.test", RouteOptions{Breaker: &Breaker{RetryAfter: time.Second}}),
		route("bot_blocker.test", RouteOptions{Bots: &model.BotBlocker{Mode: model.BotBlock}}),
		route("ip_filter.test", RouteOptions{IPFilter: &model.IPFilter{Mode: model.FilterWhitelist}}),
		route("basic_auth.test", RouteOptions{BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")}}),
		route("rate_limit.test", RouteOptions{RateLimit: &model.RateLimit{Requests: 1, Window: time.Hour}}),
	}}
	for i := range cfg.Routes {
		cfg.Routes[i].ID = routeID(i + 1)
	}
	r := newRig(t, cfg, func(o *Options, _ *limits) { o.Bots = bots })
	c := r.client()
	get(t, c, "http://rate_limit.test/")
	for _, route := range cfg.Routes {
		name := strings.TrimSuffix(route.Host, ".test")
		get(t, c, "http://"+route.Host+"/")
		if _, err := r.srv.Explain(model.ExplainRequest{URL: "http://" + route.Host + "/", Address: netip.MustParseAddr(stranger)}); err != nil {
			t.Fatal(err)
		}
		if n := r.srv.Counts().Refused; n[name] != 1 || len(n) != len(pipeline) {
			t.Errorf("%s: %v", name, n)
		}
	}
	if n := r.srv.Counts(); n.Windows["rate_limit"] != 1 || n.Forgotten["rate_limit"] != 0 {
		t.Errorf("windows %v, forgotten %v", n.Windows, n.Forgotten)
	}
}

// TestCountsOfLimits: what goes without is counted where there is nothing left.
func TestCountsOfLimits(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("text ", 1000))
	})
	mirror := backend(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, gated(addr, RouteOptions{
		Compress: true, Mirrors: []Target{{Addr: mirror}}, Retry: &model.Retry{Enabled: true, Count: 1},
		BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")},
	}))
	ask := func() {
		t.Helper()
		req, err := http.NewRequest("PUT", "http://app.test/", io.MultiReader(strings.NewReader(strings.Repeat("x", 2*maxInlineBody))))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 2 * maxInlineBody
		req.Header.Set("Accept-Encoding", "gzip")
		req.SetBasicAuth("ada", "right")
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
	}
	ask()
	for name, n := range r.srv.Counts().Limits {
		if n != 0 {
			t.Errorf("at first %s is %d", name, n)
		}
	}
	for _, b := range []*budget{&r.srv.encoding, &r.srv.heldBodies, &r.srv.copiedBodies} {
		left := b.left.Swap(0)
		defer b.left.Store(left)
	}
	ask()
	counts := r.srv.Counts()
	for _, name := range []string{"encoders", "held_bodies", "copied_bodies"} {
		if counts.Limits[name] != 1 {
			t.Errorf("%s: %d", name, counts.Limits[name])
		}
	}
	if counts.Mirrors.Dropped != 1 {
		t.Errorf("%+v", counts.Mirrors)
	}
}

// TestCountsOfConnections: connections that find no room.
func TestCountsOfConnections(t *testing.T) {
	r := newRig(t, site(backend(t, func(http.ResponseWriter, *http.Request) {})), func(_ *Options, l *limits) { l.perAddress = 1 })
	first := r.dial()
	eventually(t, "the first is in", func() bool { return r.srv.Counts().Connections == 1 })
	if _, err := r.dial().Read(make([]byte, 1)); err == nil {
		t.Error("the second got an answer")
	}
	if n := r.srv.Counts(); n.Limits["connections"] != 1 || n.Clients != 1 {
		t.Errorf("%+v", n)
	}
	_ = first.Close()
}

// TestCountsOfWindows: a full table says how many began anew.
func TestCountsOfWindows(t *testing.T) {
	w := newWindows()
	now := time.Now()
	const more = 4096
	for i := range maxWindows + more {
		w.take(windowKey{route: model.RouteID(i + 1)}, 10, time.Hour, now)
	}
	if kept, forgot := w.count(), w.forgotten.Load(); kept+forgot != maxWindows+more || forgot < more {
		t.Errorf("%d kept, %d forgotten", kept, forgot)
	}
}
