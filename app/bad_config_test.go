package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestBadRoutes sends routes that cannot be served or would lead back to this server,
// to create one and to change one. Each is refused with its field, and nothing changes.
func TestBadRoutes(t *testing.T) {
	const public = "203.0.113.77" // by which the server is known outside
	s := lab.Start(t, func(o *app.Options) { o.WGHost = public })
	web, plain, admin := portOf(t, s.Addrs().HTTPS), portOf(t, s.Addrs().HTTP), portOf(t, s.Addrs().Admin)
	free, listens := lab.FreePort(t), lab.FreePort(t)
	id, _ := s.Peer(t, "nas")
	var made struct{ Route struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/routes", fields{"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": listens, "peer_id": id, "target_port": 80}, nil)
	s.API.Call(t, 201, "POST", "/api/v1/routes", fields{"domain": "good.example.com", "peer_id": id, "target_port": 8000}, &made)
	header := func(part, name, value string) fields {
		return fields{"custom_headers": fields{part: []fields{{"name": name, "value": value}}}}
	}
	to := func(addr string, port int) fields {
		return fields{"peer_id": nil, "target_ip": addr, "target_port": port}
	}

	type row struct {
		name  string
		body  fields
		field string // or, where the peer's address is still there in a change, |another
	}
	rows := []row{
		{"an address that no number is", to("nas.local", free), "target_ip"},
		{"an address with a port", to("1.1.1.1:80", free), "target_ip"},
		{"a number for an address", to("2130706433", free), "target_ip"},
		{"octal", to("0177.0.0.1", free), "target_ip"},
		{"a zone", to("fe80::1%lo", free), "target_ip"},
		{"localhost by name", to("localhost", free), "target_ip"},
		{"mapped loopback", to("::ffff:127.0.0.1", free), "target_ip"},
		{"IPv6 loopback", to("::1", free), "target_ip"},
		{"all of 127/8", to("127.9.9.9", free), "target_ip"},
		{"unspecified", to("0.0.0.0", free), "target_ip"},
		{"broadcast", to("255.255.255.255", free), "target_ip"},
		{"multicast", to("224.0.0.1", free), "target_ip"},
		{"metadata of a cloud", to("169.254.169.254", 80), "target_ip"},
		{"a private network", to("192.168.1.10", 80), "target_ip"},
		{"our tunnel address", to("10.8.0.1", 53), "target_ip"},
		{"mapped tunnel address", to("::ffff:10.8.0.1", 53), "target_ip"},
		{"a peer by its address", to("10.8.0.2", 80), "target_ip"},
		{"our web port", to("", web), "target_port|target_ip"},
		{"our plain port", to("", plain), "target_port|target_ip"},
		{"our admin port", to("127.0.0.1", admin), "target_ip"},
		{"our web port by our public address", to(public, web), "target_port"},
		{"the port of a port route", to("", listens), "target_port|target_ip"},
		{"the port of a port route by our public address", to(public, listens), "target_port"},
		{"a path to our web port", fields{"peer_id": nil, "target_ip": "", "target_port": free, "paths": []fields{{"prefix": "/a", "target_port": web}}}, "paths[0]"},
		{"a path to the port of a port route", fields{"peer_id": nil, "target_ip": "", "target_port": free, "paths": []fields{{"prefix": "/a", "target_port": listens}}}, "paths[0]"},
		{"no such peer", fields{"peer_id": 4711}, "peer_id"},
		{"no port", fields{"target_port": 0}, "target_port"},
		{"a port that there is not", fields{"target_port": 65536}, "target_port"},
		{"a backend that is no peer", fields{"backends": []fields{{"peer_id": 4711, "port": 80, "weight": 1}}}, "backends[0]"},
		{"a backend without a port", fields{"backends": []fields{{"peer_id": id, "port": 0, "weight": 1}}}, "backends[0]"},
		{"a mirror that is the target", fields{"mirror_enabled": true, "mirror_targets": []fields{{"peer_id": id, "port": 8000}}, "target_port": 8000}, "mirror_targets"},

		{"a name with a line break", fields{"domain": "a.example.com\r\nX: y"}, "domain"},
		{"a wildcard", fields{"domain": "*.example.com"}, "domain"},
		{"an address as a name", fields{"domain": "127.0.0.1"}, "domain"},
		{"the administration", fields{"domain": "localhost"}, "domain"},
		{"this server in the zone", fields{"domain": "gateway.gc.internal"}, "domain"},

		{"CR in a field", header("request", "X-A", "a\rb"), "custom_headers"},
		{"CRLF in a field of answers", header("response", "X-A", "a\r\nSet-Cookie: x=y"), "custom_headers"},
		{"NUL in a field", header("request", "X-A", "a\x00b"), "custom_headers"},
		{"a line break in a name", header("request", "X-A\r\nX-B", "a"), "custom_headers"},
		{"Content-Length", header("request", "Content-Length", "5"), "custom_headers"},
		{"Content-Length of answers", header("response", "content-length", "5"), "custom_headers"},
		{"Transfer-Encoding", header("response", "Transfer-Encoding", "chunked"), "custom_headers"},
		{"Connection", header("request", "Connection", "X-Real-IP"), "custom_headers"},
		{"Keep-Alive", header("response", "Keep-Alive", "timeout=5"), "custom_headers"},
		{"TE", header("request", "TE", "trailers"), "custom_headers"},
		{"Upgrade", header("response", "Upgrade", "h2c"), "custom_headers"},
		{"Proxy-Authenticate", header("response", "Proxy-Authenticate", "Basic"), "custom_headers"},
		{"Host of answers", header("response", "Host", "a.example.com"), "custom_headers"},
		{"Host that is none", header("request", "Host", "user@a.example.com"), "custom_headers"},
		{"X-Forwarded-For", header("request", "X-Forwarded-For", "127.0.0.1"), "custom_headers"},
		{"X_Forwarded_For", header("request", "X_Forwarded_For", "127.0.0.1"), "custom_headers"},
		{"X-Gateway-Target", header("request", "X-Gateway-Target", "192.168.1.10:80"), "custom_headers"},
		{"X-Gateway-Target-Domain", header("request", "x-gateway-target-domain", "other.example.com"), "custom_headers"},

		{"a line break in an answer to outsiders", fields{"external_enabled": false, "external_block_action": "redirect", "external_block_redirect_url": "https://a.example/\r\nX: y"}, "external_block_redirect_url"},
		{"outsiders led to the route itself", fields{"external_enabled": false, "external_block_action": "redirect", "external_block_redirect_url": "https://good.example.com/"}, "external_block_redirect_url"},
		{"a redirect for bots that is none", fields{"bot_blocker_enabled": true, "bot_blocker_mode": "redirect", "bot_blocker_config": fields{"url": "javascript:alert(1)"}}, "bot_blocker_config"},
		{"a line break in a redirect", fields{"paths": []fields{{"prefix": "/a", "redirect": "https://a.example/\r\nX: y"}}}, "paths[0]"},
		{"a prefix that is none", fields{"paths": []fields{{"prefix": "a b", "redirect": "/b"}}}, "paths[0]"},
		{"a cookie that is none", fields{"sticky_enabled": true, "sticky_cookie_ttl": "soon"}, "sticky_cookie_ttl"},
		{"a rule that is none", fields{"ip_filter_enabled": true, "ip_filter_rules": []fields{{"type": "cidr", "value": "10.0.0.0/99"}}}, "ip_filter_rules"},
		{"a pattern as a rule", fields{"ip_filter_enabled": true, "ip_filter_rules": []fields{{"type": "regex", "value": "(["}}}, "ip_filter_rules"},
		{"an authority that is none", fields{"client_tls_ca": "hello"}, "client_tls_ca"},
		{"a user with a colon", fields{"basic_auth_enabled": true, "basic_auth_user": "a:b", "basic_auth_password": "secret-12"}, "basic_auth_user"},
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			field := "target_ip" // it is private, of IPv6, or link-local
			if ip := n.IP.To4(); ip != nil && !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
				field = "target_port"
			}
			if n.IP.String() != "127.0.0.1" {
				rows = append(rows, row{"our web port at " + n.IP.String(), to(n.IP.String(), web), field})
			}
			if n.IP.To4() != nil {
				rows = append(rows, row{"our web port at mapped " + n.IP.String(), to("::ffff:"+n.IP.String(), web), "target_ip"})
			}
		}
	}
	state := func() (all string) {
		s.API.Call(t, 200, "GET", "/api/v1/routes", nil, &all)
		return all
	}
	before := state()
	refused := func(t *testing.T, method, path string, body fields, field string) {
		t.Helper()
		var raw string
		status, err := s.API.Try(t.Context(), method, path, body, &raw)
		var answer struct{ Fields map[string]string }
		if err == nil {
			err = json.Unmarshal([]byte(raw), &answer)
		}
		if err != nil {
			t.Fatal(err)
		}
		named := false
		for f, text := range answer.Fields {
			for want := range strings.SplitSeq(field, "|") {
				named = named || text != "" && (f == want || strings.HasPrefix(f, want+".") || strings.HasPrefix(f, want+"["))
			}
		}
		if status != 400 && status != 409 || !named {
			t.Errorf("%s: %d %v, want one that names %s", method, status, answer.Fields, field)
		}
		if strings.Contains(raw, `\r`) {
			t.Errorf("%s: a line break comes back: %s", method, raw)
		}
		if after := state(); after != before {
			t.Errorf("%s: something changed:\n%s", method, after)
			before = after
		}
	}
	for i, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			body := fields{"domain": fmt.Sprintf("n%d.example.com", i), "peer_id": id, "target_port": 8000}
			maps.Copy(body, tt.body)
			if tt.body["external_block_redirect_url"] == "https://good.example.com/" {
				body["external_block_redirect_url"] = "https://" + body["domain"].(string) + "/"
			}
			refused(t, "POST", "/api/v1/routes", body, tt.field)
			refused(t, "PUT", fmt.Sprintf("/api/v1/routes/%d", made.Route.ID), tt.body, tt.field)
		})
	}
}
