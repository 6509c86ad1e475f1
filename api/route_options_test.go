package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everyOption is the create body of the API reference with every switch on that a
// web route has, and our own options beside it.
const everyOption = `{"domain":"all.example.com","route_type":"http","target_kind":"peer","peer_id":"1","target_port":"5000",
	"https_enabled":true,"backend_https":true,"compress_enabled":true,"external_enabled":false,
	"external_block_action":"redirect","external_block_body":"<b>kept</b>","external_block_redirect_url":"https://example.org/",
	"custom_headers":{"request":[{"name":"X-A","value":"{a}"}],"response":[]},
	"backends":[{"peer_id":2,"port":81,"weight":3}],"sticky_enabled":true,"sticky_cookie_name":"c","sticky_cookie_ttl":86400,
	"basic_auth_user":"anna","basic_auth_password":"secret12",
	"ip_filter_enabled":true,"ip_filter_mode":"blacklist","ip_filter_rules":"[{\"type\":\"cidr\",\"value\":\"185.10.20.0/24\"}]",
	"acl_enabled":true,"acl_peer_ids":[1,"2"],"rate_limit_enabled":true,"rate_limit_requests":7,"rate_limit_window":"5m",
	"retry_enabled":true,"retry_count":2,"retry_status_codes":[500,502],
	"circuit_breaker_enabled":true,"circuit_breaker_threshold":3,"circuit_breaker_timeout":60,
	"monitoring_enabled":true,"debug_enabled":true,"paths":[{"prefix":"/api","strip":true,"peer_id":2,"port":82},{"prefix":"/old","redirect":"/new"}],
	"branding_title":"Mine","branding_text":"Hello","branding_color":"red","branding_bg":"#000","user_ids":[1,2]}`

// TestRouteOptions creates a route with every option and sends back what it reads.
func TestRouteOptions(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"nas"}`)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"second"}`)
	w := admin.do("POST", "/api/v1/routes", everyOption)
	if w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	golden(t, "route-options", w.Body.String())
	read := func() map[string]any {
		t.Helper()
		m, _ := admin.call(t, 200, "GET", "/api/v1/routes/1", "")["route"].(map[string]any)
		return m
	}
	first := read()
	body, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	admin.call(t, 200, "PUT", "/api/v1/routes/1", string(body))
	if diff := cmp.Diff(first, read()); diff != "" {
		t.Errorf("sending back what was read changed it:\n%s", diff)
	}
	list, _ := admin.call(t, 200, "GET", "/api/v1/routes", "")["routes"].([]any)
	if diff := cmp.Diff(any(first), list[0]); diff != "" {
		t.Errorf("the list shows it in another way:\n%s", diff)
	}
	golden(t, "route-options-invalid", admin.do("PUT", "/api/v1/routes/1", `{"ip_filter_rules":[{"type":"ip","value":"192.0.2.1"},{"type":"ip","value":"x"}],
		"backends":"[{\"peer_id\":9,\"port\":81}]","custom_headers":{"request":[{"name":"Connection","value":"close"}]},"rate_limit_window":"2m","acl_peers":[1,9]}`).Body.String())
	golden(t, "breaker-reset", admin.do("POST", "/api/v1/routes/1/circuit-breaker/reset", "").Body.String())
	admin.call(t, 404, "POST", "/api/v1/routes/9/circuit-breaker/reset", "{}")
	admin.call(t, 200, "PUT", "/api/v1/routes/1", `{"circuit_breaker_enabled":0}`)
	admin.call(t, 400, "POST", "/api/v1/routes/1/circuit-breaker/reset", "")
}

// TestRouteForm sends options as a form does, in which everything is text.
func TestRouteForm(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"nas"}`)
	form := url.Values{
		"domain": {"a.example.com"}, "target_port": {"80"}, "peer_id": {"1"}, "acl_enabled": {"1"}, "acl_peers[]": {"1"},
		"ip_filter_rules": {`[{"type":"country","value":"DE"}]`}, "backends": {`[{"peer_id":"1","port":"81"}]`}, "retry_match_status": {"500", "501"},
		"sticky_cookie_ttl": {""}, "rate_limit_requests": {""}, "compress_enabled": {"on"}, "user_ids": {"null"}, "mirror_targets": {""},
	}
	w := admin.with("Content-Type", "application/x-www-form-urlencoded").do("POST", "/api/v1/routes", form.Encode())
	var got struct{ Route map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for member, want := range map[string]any{
		"acl_enabled": 1.0, "ip_filter_rules": `[{"type":"country","value":"DE"}]`, "backends": `[{"peer_id":1,"port":81,"weight":1}]`,
		"retry_status_codes": "500,501", "sticky_cookie_ttl": "3600", "rate_limit_requests": 100.0, "compress_enabled": 1.0, "user_ids": nil,
	} {
		if got.Route[member] != want {
			t.Errorf("%s is %v, want %v", member, got.Route[member], want)
		}
	}
}

// TestBlockDefaultAnswers compares every answer about what strangers get.
func TestBlockDefaultAnswers(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, c := range []struct {
		name, method, body string
		status             int
	}{
		{"block-default", "GET", ``, 200},
		{"block-default-changed", "PUT", `{"action":"custom","body":"<p>no</p>","redirect_url":"https://example.org"}`, 200},
		{"block-default-after", "GET", ``, 200},
		{"block-default-inherit", "PUT", `{"action":"inherit"}`, 400},
		{"block-default-invalid", "PUT", `{"action":"teapot","body":"` + strings.Repeat("a", 16385) + `","redirect_url":"/x"}`, 400},
		{"block-default-unreadable", "PUT", `{"action":[],"body":{}}`, 400},
		{"block-default-incomplete", "PUT", `{"action":"redirect","redirect_url":null}`, 400},
		{"block-default-after", "GET", ``, 200},
		{"block-default-changed", "PUT", `{"action":null,"body":null,"redirect_url":null}`, 200},
		{"block-default", "GET", ``, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := admin.do(c.method, "/api/v1/settings/route-block-default", c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			golden(t, c.name, w.Body.String())
		})
	}
}
