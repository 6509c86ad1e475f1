package app_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
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
	got := visit(t, out, domain, "/", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.7") })
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); got.status != 429 || err != nil || wait < 1 || wait > 3700 || got.body != "" {
		t.Errorf("beyond: %d %v %q", got.status, got.header, got.body)
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

// rateWindows looks at windows of each length (contract 2.4, 6.9), of which the
// shortest one slides while it is looked at. Routes count by themselves.
func rateWindows(t *testing.T, g *gallery, v visitor) {
	t.Parallel() // it takes a window
	out := v.outside(t)
	beyond := func(domain string) (wait int) {
		t.Helper()
		// This machine may be too slow for the shortest one, but not for long.
		for n := 0; n < 100; n++ {
			got := visit(t, out, domain, "/")
			if got.status == 429 {
				wait, err := strconv.Atoi(got.header.Get("Retry-After"))
				if err != nil || got.body != "" {
					t.Errorf("%v %q", got.header, got.body)
				}
				return wait
			}
			got.wants(t, "within the limit", 200, "")
		}
		t.Fatal("there is no limit")
		return 0
	}
	for window, seconds := range map[string]int{"1m": 60, "5m": 300, "1h": 3600} {
		_, domain := g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 1, "rate_limit_window": window})
		visit(t, out, domain, "/").wants(t, window+", the first one", 200, "")
		if wait := beyond(domain); wait <= seconds/2 || wait > seconds+seconds/60 {
			t.Errorf("%s: to wait %d s", window, wait)
		}
	}
	_, domain := g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 1, "rate_limit_window": "1s"})
	for range 2 {
		if wait := beyond(domain); wait < 1 || wait > 2 {
			t.Errorf("1s: to wait %d s", wait)
		}
		lab.Eventually(t, 10*time.Second, "room", func() error {
			if got := visit(t, out, domain, "/"); got.status != 200 {
				return fmt.Errorf("%d", got.status)
			}
			return nil
		})
	}
}

// clients6 has clients of both families, on one socket that is for both, meet what
// goes by addresses (contract 6.4, 6.5, 11.1).
func clients6(t *testing.T, g *gallery, v visitor) {
	rule := func(typ, value string) []fields { return []fields{{"type": typ, "value": value}} }
	alpha6, beta6 := v.inside6(t, g.alpha.peer), v.inside6(t, g.beta.peer)
	id, domain := g.show(t, fields{"ip_filter_enabled": true, "ip_filter_rules": []fields{}})
	clients := []*http.Client{v.outside(t), v.outside6(t), v.inside(t, g.beta.peer), beta6, alpha6}
	const yes, no, none = 200, 403, 404
	for _, c := range []struct {
		name    string
		options fields
		want    [5]int // of outside by IPv4 and IPv6, beta by both, alpha by IPv6
	}{
		{"nobody", fields{}, [5]int{no, no, no, no, no}},
		{"an address", fields{"ip_filter_rules": rule("ip", "0:0:0:0:0:0:0:1")}, [5]int{no, yes, no, no, no}},
		{"an address of IPv4", fields{"ip_filter_rules": rule("ip", "127.0.0.1")}, [5]int{yes, no, no, no, no}},
		{"an address of IPv4 that is written as IPv6", fields{"ip_filter_rules": rule("ip", "::ffff:127.0.0.1")}, [5]int{yes, no, no, no, no}},
		{"a peer", fields{"ip_filter_rules": rule("ip", g.beta.peer.Addr6.String())}, [5]int{no, no, no, yes, no}},
		{"the tunnel", fields{"ip_filter_rules": rule("cidr", "fd00:8::1/64")}, [5]int{no, no, no, yes, yes}},
		{"all of IPv6", fields{"ip_filter_rules": rule("cidr", "::/0")}, [5]int{no, yes, no, yes, yes}},
		{"all of IPv4", fields{"ip_filter_rules": rule("cidr", "0.0.0.0/0")}, [5]int{yes, no, yes, no, no}},
		{"but for a peer", fields{"ip_filter_mode": "blacklist", "ip_filter_rules": rule("ip", g.beta.peer.Addr6.String())}, [5]int{yes, yes, yes, no, yes}},
		{"but for the tunnel", fields{"ip_filter_rules": rule("cidr", "fd00:8::/64")}, [5]int{yes, yes, yes, no, no}},
		{"all", fields{"ip_filter_rules": []fields{}}, [5]int{yes, yes, yes, yes, yes}},
		{"peers on a list", fields{"ip_filter_enabled": false, "acl_enabled": true, "acl_peers": []int64{g.beta.id}}, [5]int{no, no, yes, yes, no}},
		{"from the tunnel", fields{"acl_enabled": false, "external_enabled": false}, [5]int{none, none, yes, yes, yes}},
	} {
		g.change(t, id, c.options)
		for i, client := range clients {
			visit(t, client, domain, "/").wants(t, fmt.Sprintf("%s, client %d", c.name, i), c.want[i], "")
		}
	}
	path := "/api/v1/routes/" + strconv.FormatInt(id, 10)
	for _, bad := range []fields{rule("ip", "127.0.0.1/32")[0], rule("ip", "fe80::1%lo")[0], rule("cidr", "::ffff:127.0.0.1/128")[0], rule("cidr", "fd00:8::1/129")[0], rule("country", "ZZ")[0]} {
		var refused struct{ Fields map[string]string }
		g.s.API.Call(t, 400, "PUT", path, fields{"external_enabled": true, "ip_filter_rules": []fields{bad}}, &refused)
		if len(refused.Fields) != 1 || refused.Fields["ip_filter_rules[0]"] == "" {
			t.Errorf("%v: the refusal names %v", bad, refused.Fields)
		}
	}
	visit(t, clients[0], domain, "/").wants(t, "after what was refused", none, "")

	// Each peer is one client, though all are in one network.
	_, domain = g.show(t, fields{"rate_limit_enabled": true, "rate_limit_requests": 1, "rate_limit_window": "1h"})
	visit(t, beta6, domain, "/").wants(t, "the first one of beta", 200, "")
	visit(t, beta6, domain, "/").wants(t, "the second one of beta", 429, "")
	visit(t, alpha6, domain, "/").wants(t, "the first one of alpha", 200, "")
}
