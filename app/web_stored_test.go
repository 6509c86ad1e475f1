package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
	"gatecontrol/model"
	"gatecontrol/store"
)

// TestStoredRulesThatNobodyCanRead finds a rule in the store that no form would let in
// (contract 6.5, 10): its route lets nobody in and says why, and others serve.
func TestStoredRulesThatNobodyCanRead(t *testing.T) {
	o := storedOptions(t)
	first := reopened(t, o)
	ids := map[string]int64{}
	beside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }))
	t.Cleanup(beside.Close)
	for domain, mode := range map[string]string{"white.example.test": "whitelist", "black.example.test": "blacklist", "good.example.test": "blacklist"} {
		var made struct{ Route struct{ ID int64 } }
		first.s.API.Call(t, 201, "POST", "/api/v1/routes", fields{"domain": domain, "target_port": portOf(t, beside.Listener.Addr().String()),
			"ip_filter_enabled": true, "ip_filter_mode": mode, "ip_filter_rules": []fields{{"type": "ip", "value": "203.0.113.7"}}}, &made)
		ids[domain] = made.Route.ID
	}
	first.s.Stop(t)
	changeStored(t, o, func(r *model.Route) {
		if r.Domain != "good.example.test" {
			r.Web.IPFilter.Rules = append(r.Web.IPFilter.Rules, model.IPRule{Type: "cidr", Value: "127.0.0.0/99"})
		}
	})

	g := reopened(t, o)
	for _, v := range g.visitors() {
		visit(t, v.outside(t), "good.example.test", "/").wants(t, "another route", 200, "good.example.test")
		for _, domain := range []string{"white.example.test", "black.example.test"} {
			g.refused(t, v, domain)
		}
	}
	for _, domain := range []string{"white.example.test", "black.example.test"} {
		g.plain(t, domain, "/").wants(t, domain+" on the plain port", 404, "")
		var got struct {
			Route struct {
				Enabled int
				Problem string
			}
		}
		g.s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/routes/%d", ids[domain]), nil, &got)
		if got.Route.Enabled != 1 || !strings.Contains(got.Route.Problem, "127.0.0.0/99") {
			t.Errorf("%s: %+v", domain, got.Route)
		}
	}
	g.change(t, ids["black.example.test"], fields{"ip_filter_rules": []fields{{"type": "cidr", "value": "203.0.113.0/24"}}})
	for _, v := range g.visitors() {
		visit(t, v.outside(t), "black.example.test", "/").wants(t, "once it is repaired", 200, "black.example.test")
	}
}

// storedOptions are those of a server whose store a test opens between two runs.
func storedOptions(t *testing.T) app.Options {
	o := lab.Options(t)
	o.EncryptionKey = model.Secret(strings.Repeat("ab", 32))
	return o
}

// reopened runs a server on what is stored.
func reopened(t *testing.T, o app.Options) *gallery {
	t.Helper()
	g := &gallery{s: lab.Run(t, o)}
	g.s.Admin.Login(t, lab.User, lab.Password)
	g.s.API = g.s.Admin.WithToken(g.s.Admin.MakeToken(t, "full-access"))
	t.Cleanup(g.s.API.HTTP.CloseIdleConnections)
	return g
}

// changeStored changes every route in the store of a server that does not run.
func changeStored(t *testing.T, o app.Options, change func(*model.Route)) {
	t.Helper()
	sealer, err := store.NewSealer(o.EncryptionKey)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: o.DataDir, Sealer: sealer, Log: lab.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(context.Background(), func(tx *store.Tx) error {
		for r, err := range store.Routes.All(tx) {
			if err != nil {
				return err
			}
			change(r)
			if err := store.Routes.Put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
}
