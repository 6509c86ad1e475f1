package app_test

import (
	"testing"
)

type fields = map[string]any

// TestWebOptions creates a route with each option by the API and sees it enforced
// on the way to a peer, over every HTTP version.
func TestWebOptions(t *testing.T) {
	g := newGallery(t)
	for _, option := range []struct {
		name string
		f    func(*testing.T, *gallery, visitor)
	}{
		{"no options", plainRoute},
		{"no peer", onThisHost},
		{"another name", anotherName},
		{"another target", anotherTarget},
		{"a peer disabled", disabledPeer},
		{"a peer deleted", deletedPeer},
		{"external_enabled", externalGate},
		{"acl_enabled", peerACL},
		{"ip_filter_enabled", ipFilter},
		{"addresses of both families", clients6},
		{"basic_auth_enabled", basicAuth},
		{"wrong passwords", loginFailures},
		{"rate_limit_enabled", rateLimit},
		{"rate_limit_window", rateWindows},
		{"bot_blocker_enabled", botBlocker},
		{"a tarpit for bots", botTarpit},
		{"client_tls_enabled", clientTLS},
		{"custom_headers", customHeaders},
		{"backends", severalBackends},
		{"a backend down", backendDown},
		{"sticky_enabled", stickyBackend},
		{"sticky_enabled without TLS", plainSticky},
		{"retry_enabled", retries},
		{"time for retries", retryTime},
		{"paths", paths},
		{"compress_enabled", compression},
		{"debug_enabled", trace},
		{"mirror_enabled", mirror},
		{"mirrors disabled", mirrorsDisabled}, // while no copy of another row fails
		{"mirrors that hang", mirrorsHang},
		{"backend_https", backendTLS},
		{"https_enabled", forcedHTTPS},
		{"enabled", disabled},
		{"access-rules", accessWindows},
		{"fields to the backend", toBackend},
		{"fields that are ours", notForged},
		{"fields of the hop", ofTheHop},
		{"service away", away},
		{"access log", accessLog},
		{"streams", streams},
		{"WebSockets", webSockets},
		{"target_kind", homeGateway},
		{"home gateway away", homeGatewayAway},
	} {
		t.Run(option.name, func(t *testing.T) {
			for _, v := range g.visitors() {
				t.Run(v.version, func(t *testing.T) { option.f(t, g, v) })
			}
		})
	}
}

// plainRoute has the create body of the API reference.
func plainRoute(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{
		"route_type": "http", "target_kind": "peer", "target_port": "8000", "https_enabled": true, "backend_https": false, "compress_enabled": false,
		"bot_blocker_enabled": false, "bot_blocker_mode": "block", "bot_blocker_config": fields{}, "monitoring_enabled": false,
		"ip_filter_enabled": false, "ip_filter_mode": "whitelist", "ip_filter_rules": []fields{}, "acl_enabled": false, "acl_peer_ids": []int{},
		"rate_limit_enabled": false, "rate_limit_requests": 100, "rate_limit_window": "1m", "retry_enabled": false, "retry_count": 3,
		"retry_status_codes": "502,503,504", "circuit_breaker_enabled": false, "circuit_breaker_threshold": 5, "circuit_breaker_timeout": 30,
		"mirror_enabled": false, "mirror_targets": []fields{}, "debug_enabled": false, "basic_auth_user": "", "basic_auth_password": "", "user_ids": []int{1, 2},
	})
	visit(t, v.outside(t), domain, "/a?b").wants(t, "outside", 200, "alpha:8000 GET /a?b")
	visit(t, v.inside(t, g.beta.peer), domain, "/a?b").wants(t, "inside", 200, "alpha:8000 GET /a?b")
}
