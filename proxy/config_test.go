package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"gatecontrol/model"
)

func TestPrepareRefuses(t *testing.T) {
	ok := netip.MustParseAddrPort("10.8.0.2:80")
	for _, tt := range []struct {
		name  string
		cfg   Config
		kind  model.Kind
		field string
	}{
		{"no host", Config{Routes: []Route{{ID: 1, Target: Target{Addr: ok}}}}, model.KindInvalid, "domain"},
		{"bad host", Config{Routes: []Route{{ID: 1, Host: "a b", Target: Target{Addr: ok}}}}, model.KindInvalid, "domain"},
		{"host with port", Config{Routes: []Route{{ID: 1, Host: "a.test:80", Target: Target{Addr: ok}}}}, model.KindInvalid, "domain"},
		{"no id", Config{Routes: []Route{{Host: "a.test", Target: Target{Addr: ok}}}}, model.KindInvalid, "id"},
		{"no address", Config{Routes: []Route{{ID: 1, Host: "a.test"}}}, model.KindInvalid, "target"},
		{"no port", Config{Routes: []Route{{ID: 1, Host: "a.test", Target: Target{Addr: netip.MustParseAddrPort("10.8.0.2:0")}}}}, model.KindInvalid, "target"},
		{"unspecified address", Config{Routes: []Route{{ID: 1, Host: "a.test", Target: Target{Addr: netip.MustParseAddrPort("0.0.0.0:80")}}}}, model.KindInvalid, "target"},
		{"multicast address", Config{Routes: []Route{{ID: 1, Host: "a.test", Target: Target{Addr: netip.MustParseAddrPort("224.0.0.1:80")}}}}, model.KindInvalid, "target"},
		{"two of one name", Config{Routes: []Route{{ID: 1, Host: "a.test", Target: Target{Addr: ok}}, {ID: 2, Host: "A.test.", Target: Target{Addr: ok}}}}, model.KindConflict, "domain"},
		{"two of one id", Config{Routes: []Route{{ID: 1, Host: "a.test", Target: Target{Addr: ok}}, {ID: 1, Host: "b.test", Target: Target{Addr: ok}}}}, model.KindConflict, "id"},
		{"route on the admin host", Config{AdminHosts: []string{"admin.test"}, Routes: []Route{{ID: 1, Host: "Admin.test", Target: Target{Addr: ok}}}}, model.KindConflict, "domain"},
		{"bad admin host", Config{AdminHosts: []string{"a/b"}}, model.KindInvalid, "admin_hosts[0]"},
		{"admin host with port", Config{AdminHosts: []string{"a.test:443"}}, model.KindInvalid, "admin_hosts[0]"},
		{"admin host twice", Config{AdminHosts: []string{"a.test", "A.test"}}, model.KindConflict, "admin_hosts[1]"},
		{"bad network", Config{TrustedProxies: []netip.Prefix{{}}}, model.KindInvalid, "trusted_proxies[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Config{}, func(o *Options, _ *limits) {
				o.DialAdmin = func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }
			})
			_, err := r.srv.Prepare(tt.cfg)
			e, is := errors.AsType[*model.Error](err)
			if !is || e.Kind != tt.kind || e.Field != tt.field {
				t.Errorf("%v, want %v of %s", err, tt.kind, tt.field)
			}
		})
	}
}

func TestPrepareWithoutAdminAPI(t *testing.T) {
	r := newRig(t, Config{})
	if _, err := r.srv.Prepare(Config{AdminHosts: []string{"a.test"}}); err == nil {
		t.Error("an admin host with nothing behind it")
	}
}

// TestAbort shows that a Config which was not committed has changed nothing.
func TestAbort(t *testing.T) {
	addr := echoHead(t, "")
	r := newRig(t, site(addr))
	p, err := r.srv.Prepare(Config{})
	if err != nil {
		t.Fatal(err)
	}
	p.Abort()
	if resp, _ := get(t, r.client(), "http://app.test/"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestPoolsOutliveConfigs shows what a change does to connections of targets that
// it does not touch, and of those that are gone.
func TestPoolsOutliveConfigs(t *testing.T) {
	r := newRig(t, site(echoHead(t, "")))
	c := r.client()
	get(t, c, "http://app.test/")
	kept := func() int {
		n := 0
		for _, p := range r.srv.snapshot.Load().pools {
			p.mu.Lock()
			n += len(p.idle)
			p.mu.Unlock()
		}
		return n
	}
	if kept() != 1 {
		t.Fatalf("%d connections are kept", kept())
	}
	cfg := site(r.srv.snapshot.Load().hosts["app.test"].target.Addr)
	cfg.Routes[0].ForceHTTPS = true
	cfg.Routes[0].ID = 9
	r.commit(cfg)
	if kept() != 1 {
		t.Error("a change of something else closed the connection")
	}
	gone := r.srv.snapshot.Load().hosts["app.test"].upstream.pool
	r.commit(Config{})
	gone.mu.Lock()
	defer gone.mu.Unlock()
	if len(gone.idle) != 0 || !gone.closed {
		t.Error("the pool of a target that is gone is still open")
	}
}
