package api

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGatewayRoute creates a route through a home gateway, sends back what it reads,
// and deletes the gateway.
func TestGatewayRoute(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"Home Gateway","is_gateway":true}`)
	golden(t, "route-gateway", admin.do("POST", "/api/v1/routes", `{"domain":"NAS.example.com","route_type":"http","target_kind":"gateway",
		"target_peer_id":"1","target_lan_host":"192.168.2.228","target_lan_port":"5001","backend_https":true,"wol_enabled":false,"wol_mac":"AA:BB:CC:DD:EE:FF"}`).Body.String())
	read := func() map[string]any {
		t.Helper()
		m, _ := admin.call(t, 200, "GET", "/api/v1/routes/1", "")["route"].(map[string]any)
		return m
	}
	wants := func(what string, want map[string]any) {
		t.Helper()
		got := read()
		for member, v := range want {
			if got[member] != v {
				t.Errorf("%s: %s is %v, want %v", what, member, got[member], v)
			}
		}
		list, _ := admin.call(t, 200, "GET", "/api/v1/routes", "")["routes"].([]any)
		if diff := cmp.Diff(any(got), list[0]); diff != "" {
			t.Errorf("%s: the list shows it in another way:\n%s", what, diff)
		}
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
	admin.call(t, 200, "PUT", "/api/v1/peers/1/toggle", "")
	wants("its gateway is disabled", map[string]any{"target_peer_enabled": 0.0, "enabled": 1.0, "problem": nil})
	admin.call(t, 200, "DELETE", "/api/v1/peers/1", "")
	wants("its gateway is deleted", map[string]any{
		"target_kind": "gateway", "target_peer_id": nil, "target_lan_host": "192.168.2.228", "target_lan_port": 5001.0, "target_ip": "127.0.0.1",
		"target_peer_name": nil, "target_peer_ip": nil, "target_peer_enabled": nil, "enabled": 0.0,
		"problem": "the route has no home gateway to lead through; choose one",
	})
	admin.call(t, 400, "PUT", "/api/v1/routes/1/toggle", "")
	golden(t, "route-gateway-invalid", admin.do("PUT", "/api/v1/routes/1", `{"target_kind":"gateway","target_peer_id":9,"target_lan_host":"a b","target_lan_port":0,
		"target_pool_id":1,"wol_enabled":true}`).Body.String())
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"nas"}`)
	admin.call(t, 200, "PUT", "/api/v1/routes/1", `{"target_kind":"peer","peer_id":2}`)
	wants("leads to a peer", map[string]any{
		"target_kind": "peer", "target_peer_id": nil, "target_lan_host": nil, "target_lan_port": nil, "peer_id": 2.0, "target_port": 5001.0, "problem": nil,
	})
}
