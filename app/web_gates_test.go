package app_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func externalGate(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"external_enabled": false})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	got := visit(t, out, domain, "/", func(r *http.Request) { r.Header.Set("X-Forwarded-For", g.beta.peer.Addr.String()) })
	if got.status != 404 || got.body != "" {
		t.Errorf("outside: %d %q", got.status, got.body)
	}
	visit(t, in, domain, "/").wants(t, "inside", 200, "alpha:8000 GET /")
	g.change(t, id, fields{"external_block_action": "custom", "external_block_body": "<p>members only</p>"})
	visit(t, out, domain, "/").wants(t, "custom", 404, "<p>members only</p>")
	g.change(t, id, fields{"external_block_action": "redirect", "external_block_redirect_url": "https://example.org/x"})
	if got := visit(t, out, domain, "/"); got.status != 302 || got.header.Get("Location") != "https://example.org/x" {
		t.Errorf("redirect: %d %v", got.status, got.header)
	}
	g.change(t, id, fields{"external_block_action": "empty"})
	visit(t, out, domain, "/").wants(t, "empty", 200, "")
	g.change(t, id, fields{"external_block_action": nil})
	const setting = "/api/v1/settings/route-block-default"
	g.s.API.Call(t, 200, "PUT", setting, fields{"action": "custom", "body": "by default"}, nil)
	visit(t, out, domain, "/").wants(t, "as the setting says", 404, "by default")
	g.s.API.Call(t, 200, "PUT", setting, fields{"action": "redirect", "redirect_url": "https://" + domain + "/"}, nil)
	visit(t, out, domain, "/").wants(t, "a setting that leads back", 404, "")
	g.s.API.Call(t, 200, "PUT", setting, fields{"action": nil}, nil)
	g.change(t, id, fields{"external_enabled": true})
	visit(t, out, domain, "/").wants(t, "outside again", 200, "alpha:8000 GET /")
}

func peerACL(t *testing.T, g *gallery, v visitor) {
	guestID, guest := g.s.Peer(t, "guest-"+strings.ToLower(v.version))
	id, domain := g.show(t, fields{"acl_enabled": true, "acl_peers": []int64{g.beta.id, guestID}})
	alpha, beta, invited := v.inside(t, g.alpha.peer), v.inside(t, g.beta.peer), v.inside(t, guest)
	visit(t, beta, domain, "/").wants(t, "on the list", 200, "alpha:8000 GET /")
	visit(t, invited, domain, "/").wants(t, "on the list, too", 200, "")
	visit(t, alpha, domain, "/").wants(t, "not on the list", 403, "")
	visit(t, v.outside(t), domain, "/", func(r *http.Request) { r.Header.Set("X-Forwarded-For", g.beta.peer.Addr.String()) }).wants(t, "outside", 403, "")
	g.change(t, id, fields{"acl_peer_ids": []int64{guestID}})
	visit(t, beta, domain, "/").wants(t, "taken off the list", 403, "")
	g.s.API.Call(t, 200, "DELETE", "/api/v1/peers/"+strconv.FormatInt(guestID, 10), nil, nil)
	var got struct {
		Route struct {
			ACL   int     `json:"acl_enabled"`
			Peers []int64 `json:"acl_peers"`
		}
	}
	g.s.API.Call(t, 200, "GET", "/api/v1/routes/"+strconv.FormatInt(id, 10), nil, &got)
	if got.Route.ACL != 1 || len(got.Route.Peers) > 0 {
		t.Errorf("after the deletion: %+v", got)
	}
	visit(t, alpha, domain, "/").wants(t, "nobody is left on the list", 403, "")
	visit(t, beta, domain, "/").wants(t, "nobody is left on the list", 403, "")
}

func ipFilter(t *testing.T, g *gallery, v visitor) {
	rule := func(typ, value string) []fields { return []fields{{"type": typ, "value": value}} }
	id, domain := g.show(t, fields{"ip_filter_enabled": true, "ip_filter_rules": []fields{}})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	for _, c := range []struct {
		name    string
		options fields
		out, in int
	}{
		{"empty whitelist", fields{}, 403, 403},
		{"whitelisted network", fields{"ip_filter_rules": jsonText(t, rule("cidr", "127.0.0.0/8"))}, 200, 403},
		{"whitelisted address", fields{"ip_filter_rules": rule("ip", g.beta.peer.Addr.String())}, 403, 200},
		{"blacklisted address", fields{"ip_filter_mode": "blacklist"}, 200, 403},
		{"blacklisted country", fields{"ip_filter_rules": rule("country", "de")}, 200, 200}, // private addresses are in none
		{"with a login behind it", fields{"ip_filter_rules": rule("ip", "127.0.0.1"), "basic_auth_user": "anna", "basic_auth_password": "secret word"}, 403, 401},
		{"off", fields{"ip_filter_enabled": 0, "ip_filter_rules": nil, "basic_auth_enabled": 0}, 200, 200},
	} {
		g.change(t, id, c.options)
		visit(t, out, domain, "/").wants(t, c.name+", outside", c.out, "")
		visit(t, in, domain, "/").wants(t, c.name+", inside", c.in, "")
	}
}

func rateLimit(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 2, "rate_limit_window": "1h"})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	for range 2 {
		visit(t, out, domain, "/").wants(t, "within the limit", 200, "")
	}
	got := visit(t, out, domain, "/")
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); got.status != 429 || err != nil || wait < 1 || wait > 3700 {
		t.Errorf("beyond: %d %v", got.status, got.header)
	}
	visit(t, in, domain, "/").wants(t, "another client", 200, "")
	g.change(t, id, fields{"rate_limit_requests": 100})
	visit(t, out, domain, "/").wants(t, "a higher limit", 200, "")

	_, domain = g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 1, "rate_limit_window": "1h",
		"basic_auth_user": "anna", "basic_auth_password": "secret word"})
	as := func(r *http.Request) { r.SetBasicAuth("anna", "secret word") }
	for range 2 {
		visit(t, out, domain, "/").wants(t, "not logged in", 401, "")
	}
	visit(t, out, domain, "/", as).wants(t, "the first one that counts", 200, "")
	visit(t, out, domain, "/", as).wants(t, "the second one", 429, "")

	_, domain = g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 2, "rate_limit_window": "1h"})
	v.socket(t, out, domain, "/ws")
	visit(t, out, domain, "/").wants(t, "after a WebSocket, which counts once", 200, "")
	visit(t, out, domain, "/").wants(t, "the third one", 429, "")
}
