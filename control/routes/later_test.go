package routes

import (
	"testing"

	"gatecontrol/model"
)

// wizard is what the interface of GateControl sends for a plain route: every
// switch, all off, and parameters beside them.
const wizard = `{"domain":"a.example.com","description":"","route_type":"http","target_kind":"peer","peer_id":"1","target_port":"8080",
	"https_enabled":true,"backend_https":false,"compress_enabled":false,"custom_headers":null,"backends":null,
	"basic_auth_enabled":false,"basic_auth_user":"","basic_auth_password":"",
	"ip_filter_enabled":false,"ip_filter_mode":"whitelist","ip_filter_rules":null,"acl_enabled":false,"acl_peers":[],"acl_peer_ids":[],
	"rate_limit_enabled":false,"rate_limit_requests":100,"rate_limit_window":"1m","retry_enabled":false,"retry_count":3,"retry_match_status":"502,503,504",
	"sticky_enabled":false,"sticky_cookie_name":"gc_sticky","sticky_cookie_ttl":"3600",
	"circuit_breaker_enabled":false,"circuit_breaker_threshold":5,"circuit_breaker_timeout":30,
	"mirror_enabled":0,"mirror_targets":null,"debug_enabled":false,"bot_blocker_enabled":false,"bot_blocker_mode":"block","bot_blocker_config":null,
	"monitoring_enabled":false,"external_enabled":true,"user_ids":null,
	"target_peer_id":null,"target_lan_host":null,"target_lan_port":null,"wol_enabled":false,"wol_mac":null,"target_pool_id":null,
	"branding_title":"","branding_text":null,"branding_color":"","branding_bg":null,
	"l4_protocol":null,"l4_listen_port":null,"l4_tls_mode":null}`

func TestWizard(t *testing.T) {
	b := newBench(t)
	v := b.create(t, wizard)
	if _, err := b.Update(t.Context(), v.ID, input(t, wizard)); err != nil {
		t.Error(err)
	}
}

// TestOffered asks for each option by what switches it on in the table of options.
func TestOffered(t *testing.T) {
	for _, row := range optionRows(t) {
		in := input(t, `{"domain":"a.example.com","target_port":8080,`+row.steps[0].body+`}`)
		if _, err := newBench(t).Create(t.Context(), in); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func TestAbsent(t *testing.T) {
	for _, c := range []struct {
		name, member string
		refused      string // the field; empty: let through
	}{
		{"a member without a name", `"":0,"target_kind":"pool"`, "target_kind"},
		{"switch on as number", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":1`, "wol_enabled"},
		{"switch on as text", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":"1"`, "wol_enabled"},
		{"switch off as text", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":"false"`, ""},
		{"switch null", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":null`, ""},
		{"switch that is none", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":{}`, "wol_enabled"},
		{"switch of an odd spelling", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":"yes"`, "wol_enabled"},
		{"pool target", `"target_kind":"pool"`, "target_kind"},
		{"pool of a gateway", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"target_pool_id":1`, "target_pool_id"},
		{"pool of a peer target", `"target_kind":"peer","target_pool_id":1`, ""},
		{"waking what is behind a gateway", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":1`, "wol_enabled"},
		{"not waking it", `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80,"wol_enabled":0,"wol_mac":"AA:BB:CC:DD:EE:FF"`, ""},
		{"waking a peer means nothing", `"target_kind":"peer","wol_enabled":1`, ""},
		{"gateway of a port route", `"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_kind":"gateway","target_peer_id":3,"target_lan_host":"nas","target_lan_port":80`, "target_kind"},
		{"TLS mode of a web route", `"l4_tls_mode":"terminate"`, ""},
		{"TLS mode of a port route", `"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","l4_tls_mode":"passthrough"`, "l4_tls_mode"},
		{"no TLS mode", `"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","l4_tls_mode":""`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			in := input(t, `{"domain":"a.example.com","target_port":8080,`+c.member+`}`)
			v, err := b.Create(t.Context(), in)
			if c.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.Update(t.Context(), v.ID, in); err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, model.KindInvalid, c.refused)
			v = b.create(t, `{"domain":"b.example.com","target_port":8080}`)
			_, err = b.Update(t.Context(), v.ID, in)
			wantError(t, err, model.KindInvalid, c.refused)
		})
	}
}

// Every switch of the table refuses when it is on and lets through when it is
// off, so a line that is left out shows in the wizard's list above.
func TestAbsentSwitches(t *testing.T) {
	r := &model.Route{Type: model.RouteL4, Target: model.Target{Gateway: new(model.GatewayTarget)}}
	for _, a := range absent {
		var bad model.Invalids
		checkAbsent(members{a.field: []byte(`"something"`)}, r, &bad)
		if bad.Err() == nil {
			t.Errorf("%s: anything goes", a.field)
		}
		bad = model.Invalids{}
		checkAbsent(members{a.field: []byte(`null`)}, r, &bad)
		if err := bad.Err(); err != nil {
			t.Errorf("null: %v", err)
		}
	}
}
