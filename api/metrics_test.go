package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	nobody := f.anonymous()
	for _, c := range []*caller{admin, nobody} { // off: there is no such thing
		if w := c.do("GET", "/metrics", ""); w.Code != 404 || strings.TrimSpace(w.Body.String()) != `{"ok":false,"error":"Not found"}` {
			t.Errorf("off: %d %s", w.Code, w.Body)
		}
	}
	admin.call(t, 400, "PUT", "/api/v1/settings/metrics", `{"enabled":"maybe"}`)
	admin.call(t, 200, "PUT", "/api/v1/settings/metrics", `{"enabled":1}`)
	if got := strings.TrimSpace(admin.do("GET", "/api/v1/settings/metrics", "").Body.String()); got != `{"ok":true,"data":{"enabled":true}}` {
		t.Error(got)
	}
	if w := nobody.do("GET", "/metrics", ""); w.Code != 401 {
		t.Errorf("nobody: %d %s", w.Code, w.Body)
	}
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"nas"}`)
	for i := range 260 { // more than one page
		admin.call(t, 201, "POST", "/api/v1/peers", fmt.Sprintf(`{"name":"p%d"}`, i))
	}
	admin.call(t, 201, "POST", "/api/v1/routes", `{"domain":"a.example.com","peer_id":1,"target_port":1}`)
	token := f.token(t, "system")
	secret := strings.TrimPrefix(token.header.Get("Authorization"), "Bearer ")
	w := token.do("GET", "/metrics", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	for _, line := range []string{
		"gatecontrol_peers_total 261", "gatecontrol_peers_enabled 261", "gatecontrol_routes_total 1", "gatecontrol_uptime_seconds 0", "gatecontrol_test_total 1",
		`gatecontrol_peer_status{name="nas",ip="10.8.0.2"} 0`, `gatecontrol_peer_transfer_rx_bytes{name="p259"} 0`,
		"# TYPE gatecontrol_peer_transfer_tx_bytes gauge", "# TYPE gatecontrol_test_total counter",
	} {
		if !strings.Contains("\n"+w.Body.String(), "\n"+line+"\n") {
			t.Errorf("%s is not there", line)
		}
	}
	if w := nobody.do("GET", "/metrics?token="+secret, ""); w.Code != 200 {
		t.Errorf("a token in the query: %d", w.Code)
	}
	if w := nobody.do("GET", "/metrics?token="+secret+"&token="+secret, ""); w.Code != 401 {
		t.Errorf("two of them: %d", w.Code)
	}
	if w := nobody.do("GET", "/api/v1/peers?token="+secret, ""); w.Code != 401 {
		t.Errorf("elsewhere: %d", w.Code)
	}
	for range metricsLimit {
		w = token.do("GET", "/metrics", "")
	}
	if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), `"error":"rate_limited"`) || w.Header().Get("Retry-After") == "" {
		t.Errorf("too often: %d %s %v", w.Code, w.Body, w.Header())
	}
}
