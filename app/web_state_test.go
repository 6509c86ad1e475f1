package app_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/model"
	"gatecontrol/store"
)

// TestBreakerSurvivesARestart finds an open circuit breaker at the start, as the
// checks of a route leave it, and closes it by hand.
func TestBreakerSurvivesARestart(t *testing.T) {
	o := lab.Options(t)
	o.EncryptionKey = model.Secret(strings.Repeat("ab", 32))
	first := lab.Run(t, o)
	first.Admin.Login(t, lab.User, lab.Password)
	first.API = first.Admin.WithToken(first.Admin.MakeToken(t, "full-access"))
	var ids []int64
	for _, domain := range []string{"one.example.test", "two.example.test", "inside.example.test"} {
		var made struct{ Route struct{ ID int64 } }
		first.API.Call(t, 201, "POST", "/api/v1/routes", fields{"domain": domain, "target_port": lab.FreePort(t),
			"external_enabled": domain != "inside.example.test", "circuit_breaker_enabled": true, "circuit_breaker_timeout": 77}, &made)
		ids = append(ids, made.Route.ID)
	}
	first.Stop(t)
	sealer, err := store.NewSealer(o.EncryptionKey)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: o.DataDir, Sealer: sealer, Log: lab.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	opened := time.Now().UTC()
	err = db.Update(context.Background(), func(tx *store.Tx) error {
		for i, state := range []string{model.BreakerOpen, model.BreakerHalfOpen, model.BreakerOpen} {
			r, err := store.Routes.Get(tx, model.RouteID(ids[i]))
			if err != nil {
				return err
			}
			r.Web.Breaker.State, r.Web.Breaker.OpenedAt = state, &opened
			if err := store.Routes.Put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}

	g := &gallery{s: lab.Run(t, o)}
	g.s.Admin.Login(t, lab.User, lab.Password)
	g.s.API = g.s.Admin.WithToken(g.s.Admin.MakeToken(t, "full-access"))
	t.Cleanup(g.s.API.HTTP.CloseIdleConnections)
	for _, v := range g.visitors() {
		for _, domain := range []string{"one.example.test", "two.example.test"} {
			got := visit(t, v.outside(t), domain, "/")
			if got.status != 503 || got.header.Get("Retry-After") != "77" {
				t.Errorf("%s over %s: %d %v", domain, v.version, got.status, got.header)
			}
		}
		visit(t, v.outside(t), "inside.example.test", "/").wants(t, "to whom it says nothing, over "+v.version, 404, "")
	}
	g.s.API.Call(t, 200, "POST", fmt.Sprintf("/api/v1/routes/%d/circuit-breaker/reset", ids[0]), nil, nil)
	g.change(t, ids[1], fields{"circuit_breaker_enabled": true})
	for _, v := range g.visitors() {
		for _, domain := range []string{"one.example.test", "two.example.test"} { // nobody listens there
			visit(t, v.outside(t), domain, "/").wants(t, domain+" once it is closed", 502, "")
		}
	}
}

// TestRefusedOptionsChangeNothing asks for what only the proxy finds to be wrong,
// together with other changes.
func TestRefusedOptionsChangeNothing(t *testing.T) {
	g := newGallery(t)
	id, domain := g.show(t, fields{"acl_enabled": true, "acl_peers": []int64{g.beta.id}})
	path := "/api/v1/routes/" + strconv.FormatInt(id, 10)
	var before, after string
	g.s.API.Call(t, 200, "GET", path, nil, &before)
	var refused struct{ Fields map[string]string }
	g.s.API.Call(t, 400, "PUT", path, fields{"acl_enabled": false, "acl_peers": []int64{g.alpha.id}, "debug_enabled": 1,
		"custom_headers": fields{"response": []fields{{"name": "Set-Cookie", "value": "gc.sid=stolen"}}}}, &refused)
	if len(refused.Fields) != 1 || !strings.HasPrefix(strings.Join(keys(refused.Fields), ""), "custom_headers.response[0]") {
		t.Errorf("the refusal names %v", refused.Fields)
	}
	g.s.API.Call(t, 200, "GET", path, nil, &after)
	if before != after {
		t.Errorf("something was stored:\n%s\n%s", before, after)
	}
	for _, v := range g.visitors() {
		visit(t, v.inside(t, g.alpha.peer), domain, "/").wants(t, "still not on the list", 403, "")
		visit(t, v.inside(t, g.beta.peer), domain, "/").wants(t, "still on the list", 200, "")
	}
}

func keys(m map[string]string) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	return list
}
