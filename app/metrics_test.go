package app_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// TestMetrics reads what a server counts, once it may be read.
func TestMetrics(t *testing.T) {
	s := lab.Start(t)
	id, p := s.Peer(t, "nas")
	publish(t, s, id, p, "app.example.com", "hello")
	s.API.Call(t, 404, "GET", "/metrics", nil, nil)
	s.API.Call(t, 200, "PUT", "/api/v1/settings/metrics", map[string]any{"enabled": true}, nil)
	var text string
	lab.Eventually(t, 10*time.Second, "metrics", func() error {
		s.API.Call(t, 200, "GET", "/metrics", nil, &text)
		for _, line := range []string{
			"gatecontrol_peers_total 1", "gatecontrol_peers_online 1", `gatecontrol_peer_status{name="nas",ip="` + p.Addr.String() + `"} 1`, "gatecontrol_routes_active 1",
			"# TYPE gatecontrol_proxy_limit_hits_total counter", `gatecontrol_proxy_limit_hits_total{limit="encoders"} 0`,
			`gatecontrol_proxy_requests_refused_total{step="ip_filter"} 0`, `gatecontrol_proxy_mirror_copies_total{result="dropped"} 0`,
			`gatecontrol_proxy_windows_forgotten_total{table="rate_limit"} 0`,
		} {
			if !strings.Contains("\n"+text, "\n"+line+"\n") {
				return fmt.Errorf("%s is not there:\n%s", line, text)
			}
		}
		return nil
	})
}
