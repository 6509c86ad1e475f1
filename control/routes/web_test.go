package routes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatecontrol/model"
	"gatecontrol/store"
)

var (
	cmpEmpty = cmpopts.EquateEmpty()
	cmpAddr  = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

// documented is the create body of the API reference, every switch on.
const documented = `{"domain":"app.example.com","route_type":"http","target_kind":"peer","peer_id":1,"target_port":"5000",
	"https_enabled":true,"backend_https":false,"compress_enabled":true,
	"bot_blocker_enabled":true,"bot_blocker_mode":"block","bot_blocker_config":{},
	"monitoring_enabled":false,"ip_filter_enabled":true,"ip_filter_mode":"whitelist","ip_filter_rules":[],
	"acl_enabled":true,"acl_peer_ids":[1,2],"rate_limit_enabled":true,"rate_limit_requests":100,"rate_limit_window":"1m",
	"retry_enabled":true,"retry_count":3,"retry_status_codes":"502,503,504",
	"circuit_breaker_enabled":true,"circuit_breaker_threshold":5,"circuit_breaker_timeout":30,
	"mirror_enabled":true,"mirror_targets":[{"peer_id":3,"port":80}],"debug_enabled":true,
	"basic_auth_user":"u","basic_auth_password":"secret12","user_ids":[1,2]}`

func TestDocumentedBody(t *testing.T) {
	b := newBench(t)
	v := b.create(t, documented)
	want := model.DefaultWeb()
	want.Compress, want.Bots.Enabled, want.IPFilter.Enabled, want.RateLimit.Enabled, want.Retry.Enabled = true, true, true, true, true
	want.Breaker.Enabled, want.Trace, want.Users = true, true, []int64{1, 2}
	want.ACL = model.ACL{Enabled: true, Peers: []model.PeerID{1, 2}}
	want.Mirror = model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: 3, Port: 80}}}
	want.BasicAuth = model.BasicAuth{Enabled: true, User: "u", Hash: v.Options().BasicAuth.Hash}
	stored := b.get(t, v.ID)
	if diff := cmp.Diff(want, stored.Options(), cmpEmpty); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := b.Update(t.Context(), v.ID, input(t, documented)); err != nil {
		t.Fatal(err)
	}
}

// TestWizardWithOptions sends what the forms of GateControl send with every switch
// on: to create, to edit, and for a port.
func TestWizardWithOptions(t *testing.T) {
	b := newBench(t)
	const create = `{"domain":"a.example.com","description":"","route_type":"http","target_kind":"peer","peer_id":"1","target_port":"8080",
		"https_enabled":true,"backend_https":false,"compress_enabled":true,"basic_auth_enabled":true,"basic_auth_user":"u","basic_auth_password":"secret12",
		"ip_filter_enabled":true,"ip_filter_mode":"blacklist","ip_filter_rules":"[{\"type\":\"country\",\"value\":\"DE\"}]","acl_enabled":true,"acl_peers":[1,3],
		"rate_limit_enabled":true,"rate_limit_requests":"100","rate_limit_window":"1m","retry_enabled":true,"retry_count":"3","retry_match_status":"502,503,504",
		"circuit_breaker_enabled":true,"circuit_breaker_threshold":"5","circuit_breaker_timeout":"30","mirror_enabled":1,"mirror_targets":[{"peer_id":"3","port":"81"}],
		"debug_enabled":true,"bot_blocker_enabled":true,"bot_blocker_mode":"redirect","bot_blocker_config":"{\"url\":\"https://example.org\"}",
		"monitoring_enabled":false,"external_enabled":false,"external_block_action":"inherit","sticky_enabled":false,"sticky_cookie_name":"gc_sticky","sticky_cookie_ttl":"3600",
		"l4_protocol":null,"l4_listen_port":null,"l4_tls_mode":null}`
	v := b.create(t, create)
	w := v.Options()
	if !w.Compress || !w.BasicAuth.Enabled || !w.ACL.Enabled || !w.Retry.Enabled || !w.Mirror.Enabled || w.External || w.Bots.URL == "" ||
		len(w.IPFilter.Rules) != 1 || len(w.ACL.Peers) != 2 || len(w.Mirror.Targets) != 1 {
		t.Fatalf("created %+v", w)
	}
	const edit = `{"target_ip":"10.8.0.2","branding_title":"T","branding_text":"","branding_color":"","branding_bg":"",
		"backends":[{"peer_id":"1","port":"8081","weight":"2"}],"sticky_enabled":true,"custom_headers":{"request":[{"name":"A","value":"b"}],"response":[]},
		"user_ids":[1],"basic_auth_password":"","ip_filter_enabled":false,"ip_filter_rules":null,"bot_blocker_mode":"block","bot_blocker_config":null}`
	merged := strings.TrimSuffix(create, "}") + "," + strings.TrimPrefix(edit, "{")
	v, err := b.Update(t.Context(), v.ID, input(t, merged)) // of members that come twice, the last one counts
	if err != nil {
		t.Fatal(err)
	}
	w = v.Options()
	if w.BasicAuth.Hash == "" || len(w.IPFilter.Rules) != 0 || len(w.Backends) != 1 || w.Headers == nil || len(w.Users) != 1 || w.Bots != (model.BotBlocker{Enabled: true, Mode: "block"}) {
		t.Errorf("edited %+v", w)
	}
	if v, err = b.Update(t.Context(), v.ID, input(t, `{"backends":null,"custom_headers":null,"user_ids":null,"mirror_enabled":0,"mirror_targets":null}`)); err != nil {
		t.Fatal(err)
	}
	if w = v.Options(); w.Backends != nil || w.Headers != nil || w.Users != nil || w.Mirror.Targets != nil {
		t.Errorf("cleared %+v", w)
	}
	port := b.create(t, `{"domain":"","route_type":"l4","target_kind":"peer","peer_id":"1","target_port":"3389","l4_protocol":"tcp","l4_listen_port":"3389","l4_tls_mode":"none",
		"https_enabled":true,"compress_enabled":true,"basic_auth_enabled":false,"ip_filter_enabled":false,"ip_filter_rules":null,"acl_enabled":false,"acl_peers":[],
		"rate_limit_enabled":false,"retry_enabled":true,"circuit_breaker_enabled":true,"mirror_enabled":0,"mirror_targets":null,"bot_blocker_enabled":false,"bot_blocker_config":null,"external_enabled":true}`)
	if port.Web != nil || port.Domain != "" {
		t.Errorf("a port route has %+v", port.Web)
	}
}

// TestOptionsOfOldRecord reads and changes a route of a time without options.
func TestOptionsOfOldRecord(t *testing.T) {
	b := newBench(t)
	var old model.Route
	if err := json.Unmarshal([]byte(`{"id":5,"domain":"a.example.com","type":"http","enabled":true,
		"target":{"addr":"127.0.0.1","port":8080},"force_https":true,"backend_https":false}`), &old); err != nil {
		t.Fatal(err)
	}
	b.write(t, func(tx *store.Tx) error { return store.Routes.Put(tx, &old) })
	v := b.get(t, 5)
	if diff := cmp.Diff(model.DefaultWeb(), v.Options()); v.Web != nil || diff != "" {
		t.Error(diff)
	}
	v, err := b.Update(t.Context(), 5, input(t, `{"description":"x"}`))
	if err != nil || v.Web != nil {
		t.Errorf("%v, %+v", err, v.Web)
	}
	v, err = b.Update(t.Context(), 5, input(t, `{"debug_enabled":1}`))
	if want := model.DefaultWeb(); err != nil || !v.Options().Trace || v.Options().RateLimit != want.RateLimit {
		t.Errorf("%v, %+v", err, v.Web)
	}
}

// TestMergedOptions changes what an option needs while it is on, or the route
// around it.
func TestMergedOptions(t *testing.T) {
	for _, c := range []struct{ name, was, body, field string }{
		{"bot blocker without its URL", `"bot_blocker_enabled":1,"bot_blocker_mode":"redirect","bot_blocker_config":{"url":"https://b.example.com"}`, `{"bot_blocker_config":null}`, "bot_blocker_config.url"},
		{"bot blocker to the new domain", `"bot_blocker_enabled":1,"bot_blocker_mode":"redirect","bot_blocker_config":{"url":"https://b.example.com"}`, `{"domain":"b.example.com"}`, "bot_blocker_config.url"},
		{"custom without its page", `"external_enabled":0,"external_block_action":"custom","external_block_body":"x"`, `{"external_block_body":null}`, "external_block_body"},
		{"redirect to the new domain", `"external_block_action":"redirect","external_block_redirect_url":"https://b.example.com"`, `{"domain":"b.example.com"}`, "external_block_redirect_url"},
		{"redirect with what was kept", `"external_block_redirect_url":"https://b.example.com"`, `{"external_block_action":"redirect"}`, ""},
		{"password without its user", `"basic_auth_user":"u","basic_auth_password":"secret12"`, `{"basic_auth_user":null}`, "basic_auth_user"},
		{"mirror without targets", `"mirror_enabled":1,"mirror_targets":[{"peer_id":1,"port":1}]`, `{"mirror_targets":[]}`, "mirror_targets"},
		{"mirror switched on without targets", `"mirror_targets":null`, `{"mirror_enabled":true}`, "mirror_targets"},
		{"mirror of the new target", `"mirror_enabled":1,"mirror_targets":[{"peer_id":1,"port":1}]`, `{"peer_id":1,"target_port":1}`, "mirror_targets[0]"},
		{"authority gone", `"debug_enabled":1`, `{"client_tls_enabled":1}`, "client_tls_ca"},
		{"path below the new domain", `"paths":[{"prefix":"/a","redirect":"https://b.example.com/a"}]`, `{"domain":"b.example.com"}`, "paths[0]"},
		{"gate of a port route", `"acl_enabled":1`, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389"}`, "acl_enabled"},
		{"gate dropped with the type", `"acl_enabled":1,"compress_enabled":1`, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","acl_enabled":0}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			v := b.create(t, `{"domain":"a.example.com","target_port":8080,`+c.was+`}`)
			_, err := b.Update(t.Context(), v.ID, input(t, c.body))
			if c.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, model.KindInvalid, c.field)
			if diff := cmp.Diff(v.Web, b.get(t, v.ID).Web, cmpEmpty); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPortRouteHasNoGates(t *testing.T) {
	const l4 = `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":1,`
	for member, field := range map[string]string{
		`"acl_enabled":true`: "acl_enabled", `"ip_filter_enabled":1`: "ip_filter_enabled", `"external_enabled":false`: "external_enabled",
		`"basic_auth_enabled":true`: "basic_auth_enabled", `"rate_limit_enabled":true`: "rate_limit_enabled",
		`"bot_blocker_enabled":true`: "bot_blocker_enabled", `"client_tls_enabled":true`: "client_tls_enabled",
	} {
		_, err := newBench(t).Create(t.Context(), input(t, l4+member+"}"))
		wantError(t, err, model.KindInvalid, field)
	}
	v := newBench(t).create(t, l4+`"compress_enabled":true,"retry_enabled":1,"backends":[{"peer_id":99}],"mirror_enabled":1,"acl_peers":[9]}`)
	if v.Web != nil {
		t.Errorf("stored %+v", v.Web)
	}
}

func TestBreaker(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"circuit_breaker_enabled":true}`)
	open := func() {
		b.write(t, func(tx *store.Tx) error {
			r, err := store.Routes.Get(tx, v.ID)
			if err != nil {
				return err
			}
			at := noon
			r.Web.Breaker.Open = true
			if err := store.RouteChecks.Put(tx, &model.RouteCheck{ID: v.ID, Version: 100, Breaker: model.BreakerState{State: model.BreakerOpen, OpenedAt: &at}}); err != nil {
				return err
			}
			return store.Routes.Put(tx, r)
		})
	}
	state := func() (string, time.Time) {
		v := b.get(t, v.ID)
		w := v.Options()
		s := v.Check.BreakerOf(&w.Breaker)
		return fmt.Sprint(w.Breaker.Open, " ", s.State, " ", s.Failures, " ", s.OpenedAt != nil), v.UpdatedAt
	}
	closed, _ := state()
	open()
	if _, err := b.Update(t.Context(), v.ID, input(t, `{"description":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if got, _ := state(); got != "true open 0 true" {
		t.Errorf("a change of something else made it %s", got)
	}
	if _, err := b.Update(t.Context(), v.ID, input(t, `{"circuit_breaker_enabled":true}`)); err != nil {
		t.Fatal(err)
	}
	if got, _ := state(); got != closed {
		t.Errorf("a request that names the switch left it %s", got)
	}
	open()
	b.now = noon.Add(time.Hour)
	if err := b.ResetBreaker(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if got, at := state(); got != closed || !at.Equal(b.now) || b.lastEvent(t).Type != "circuit_breaker_reset" {
		t.Errorf("the reset left it %s, event %s", got, b.lastEvent(t).Type)
	}
	wantError(t, b.ResetBreaker(t.Context(), 99), model.KindNotFound, "")
	off := b.create(t, `{"domain":"b.example.com","target_port":8080}`)
	wantError(t, b.ResetBreaker(t.Context(), off.ID), model.KindInvalid, "")
}

func TestOptionEvents(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	for _, c := range []struct {
		body string
		want []string
	}{
		{`{"acl_enabled":true}`, []string{"route_updated", "route_acl_toggled"}},
		{`{"acl_peers":[1]}`, []string{"route_updated", "route_acl_peers_changed"}},
		{`{"acl_peers":[1],"debug_enabled":1}`, []string{"route_updated"}},
		{`{"mirror_enabled":1,"mirror_targets":[{"peer_id":1,"port":1}],"acl_enabled":0}`, []string{"route_updated", "route_acl_toggled", "route_mirror_changed"}},
	} {
		was := len(b.events(t))
		if _, err := b.Update(t.Context(), v.ID, input(t, c.body)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range b.events(t)[was:] {
			got = append(got, e.Type)
		}
		if !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.body, got, c.want)
		}
	}
}

// TestBotCount shows what the store knows and what it does not know yet, and
// forgets both with the route.
func TestBotCount(t *testing.T) {
	b := newBench(t)
	b.bots = map[model.RouteID]uint64{1: 5, 2: 7}
	v := b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	b.write(t, func(tx *store.Tx) error {
		return store.RouteCounters.Put(tx, &model.RouteCounters{ID: v.ID, BotsBlocked: 100})
	})
	if n := b.get(t, v.ID).BotsBlocked; n != 105 {
		t.Errorf("%d were blocked", n)
	}
	other := b.create(t, `{"domain":"b.example.com","target_port":8080}`)
	if list, _, err := b.List(t.Context(), "", 0, 0); err != nil || list[0].BotsBlocked != 105 || list[1].BotsBlocked != 7 {
		t.Errorf("%v %v", list, err)
	}
	b.write(t, func(tx *store.Tx) error {
		return store.RouteCounters.Put(tx, &model.RouteCounters{ID: other.ID, BotsBlocked: 1})
	})
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Batch(t.Context(), "delete", []int64{int64(other.ID)}); err != nil {
		t.Fatal(err)
	}
	b.write(t, func(tx *store.Tx) error {
		if n := store.RouteCounters.Len(tx); n != 0 {
			t.Errorf("%d counters are left", n)
		}
		return nil
	})
}
