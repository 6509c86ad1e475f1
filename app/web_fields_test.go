package app_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
)

func customHeaders(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"custom_headers": fields{
		"request":  []fields{{"name": "X-Asked", "value": "by {gateway}"}, {"name": "Host", "value": "inner.example:81"}},
		"response": []fields{{"name": "Content-Type", "value": "text/x-other"}, {"name": "X-Answered", "value": "yes"}},
	}})
	out := v.outside(t)
	got := visit(t, out, domain, "/", func(r *http.Request) { r.Header["X-Asked"] = []string{"by the client"} })
	if got.header.Get("Content-Type") != "text/x-other" || got.header.Get("X-Answered") != "yes" {
		t.Errorf("the answer has %v", got.header)
	}
	if r := g.alpha.last(t); len(r.Header["X-Asked"]) != 1 || r.Header.Get("X-Asked") != "by {gateway}" || r.Host != "inner.example:81" {
		t.Errorf("the backend got %v for %s", r.Header, r.Host)
	}
	g.change(t, id, fields{"target_port": 8999})
	if got := visit(t, out, domain, "/"); got.status != 502 || got.header.Get("X-Answered") != "" {
		t.Errorf("an answer of the gateway: %d %v", got.status, got.header)
	}
	g.change(t, id, fields{"target_port": 8000, "custom_headers": nil})
	if got := visit(t, out, domain, "/"); got.header.Get("X-Answered") != "" || g.alpha.last(t).Host != domain {
		t.Errorf("after clearing: %v, %s", got.header, g.alpha.last(t).Host)
	}
}

// forged are fields by which a client speaks for this server.
var forged = []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "X-Gateway-Target", "X-Gateway-Target-Domain", "Forwarded"}

// toBackend looks at the fields that are ours on the way to a backend (contract 6.13).
func toBackend(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, nil)
	host := domain + ":8443"
	forge := func(r *http.Request) {
		r.Host = host
		for _, name := range forged {
			r.Header.Set(name, "forged")
		}
		r.Header.Set("Te", "trailers")
		r.Header.Set("Cookie", "gc.route.sid=secret; theirs=1")
		r.Header.Set("X-Theirs", "kept")
	}
	for _, from := range []struct {
		addr   string
		client *http.Client
	}{
		{"127.0.0.1", v.outside(t)}, {"::1", v.outside6(t)},
		{g.beta.peer.Addr.String(), v.inside(t, g.beta.peer)}, {g.beta.peer.Addr6.String(), v.inside6(t, g.beta.peer)},
	} {
		visit(t, from.client, domain, "/", forge)
		r := g.alpha.last(t)
		for name, want := range map[string]string{
			"X-Forwarded-For": from.addr, "X-Real-Ip": from.addr, "X-Forwarded-Proto": "https", "X-Forwarded-Host": host,
			"X-Gateway-Target": "", "X-Gateway-Target-Domain": "", "Forwarded": "", "Cookie": "theirs=1", "X-Theirs": "kept", "Te": "trailers",
		} {
			if h := r.Header.Get(name); h != want || len(r.Header.Values(name)) > 1 {
				t.Errorf("from %s: %s is %q, want %q", from.addr, name, r.Header.Values(name), want)
			}
		}
		if r.Host != host {
			t.Errorf("from %s: for %s", from.addr, r.Host)
		}
	}
	visit(t, v.inside(t, g.alpha.peer), domain, "/", forge)
	r := g.alpha.last(t)
	for name, want := range map[string]string{
		"X-Forwarded-For": "forged, " + g.alpha.peer.Addr.String(), "X-Real-Ip": g.alpha.peer.Addr.String(), "X-Forwarded-Proto": "forged",
		"X-Forwarded-Host": "forged", "X-Gateway-Target": "", "X-Gateway-Target-Domain": "",
	} {
		if h := r.Header.Values(name); strings.Join(h, "; ") != want {
			t.Errorf("from a trusted proxy: %s is %q, want %q", name, h, want)
		}
	}
}

// notForged has a client speak for this server on every way to a backend (contract
// 6.13): none of it gets there.
func notForged(t *testing.T, g *gallery, v visitor) {
	header := http.Header{}
	for _, name := range forged {
		header.Set(name, "forged")
	}
	forge := func(r *http.Request) { maps.Copy(r.Header, header) }
	out := v.outside(t)
	for name, c := range map[string]struct {
		options fields
		path    string
	}{
		"the peer":     {fields{}, "/"},
		"backends":     {fields{"backends": []fields{{"peer_id": g.alpha.id, "port": 8001}}}, "/"},
		"a path":       {fields{"paths": []fields{{"prefix": "/a", "port": 8001, "strip": true}}}, "/a/b"},
		"a repetition": {fields{"retry_enabled": true}, "/fail/1/forged" + v.version},
		"all options": {fields{"compress_enabled": true, "debug_enabled": true, "rate_limit_enabled": true, "sticky_enabled": true,
			"backends": []fields{{"peer_id": g.alpha.id, "port": 8001}}}, "/"},
	} {
		_, domain := g.show(t, c.options)
		before := g.alpha.count()
		visit(t, out, domain, c.path, forge).wants(t, name, 200, "")
		_, _, err := v.trySocket(t, out, domain, "/ws", header)
		seen := g.alpha.count()
		if err != nil || seen < before+2 {
			t.Errorf("%s: %d requests, %v", name, seen-before, err)
		}
		for n := before + 1; n <= seen; n++ {
			r := g.alpha.wait(t, n)
			for field, values := range r.Header {
				if strings.Contains(strings.Join(values, " "), "forged") || strings.HasPrefix(field, "X-Gateway") {
					t.Errorf("%s: %s %s has %s: %q", name, r.Method, r.RequestURI, field, values)
				}
			}
		}
	}
}

// ofTheHop sends fields that end at the next hop, both ways (RFC 9110, section 7.6.1;
// contract 6.13). HTTP/2 and HTTP/3 have none of their own.
func ofTheHop(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, nil)
	sent := map[string]string{"Te": "trailers", "Via": "1.0 before", "Proxy-Authorization": "Basic b3BlbjpzZXNhbWU=", "X-Kept": "1", "X-Hop": "kept"}
	kept := map[string]string{"Te": "trailers", "Via": "1.0 before; " + v.version[4:] + ".0 gatecontrol", "Connection": "TE", "X-Kept": "1", "X-Hop": "kept",
		"Proxy-Authorization": "", "Keep-Alive": "", "Proxy-Connection": "", "Upgrade": ""}
	if v.version == "HTTP1" {
		maps.Copy(sent, map[string]string{"Te": "gzip, trailers", "Connection": "X-Hop, Keep-Alive, X-Real-IP, Authorization", "Keep-Alive": "timeout=9",
			"Proxy-Connection": "keep-alive", "Authorization": "Bearer theirs"})
		maps.Copy(kept, map[string]string{"Via": "1.0 before; 1.1 gatecontrol", "X-Hop": "", "X-Real-Ip": "127.0.0.1", "Authorization": "Bearer theirs"})
	}
	got := visit(t, v.outside(t), domain, "/hop", func(r *http.Request) {
		for name, value := range sent {
			r.Header.Set(name, value)
		}
	})
	r := g.alpha.last(t)
	for name, want := range kept {
		if h := strings.Join(r.Header.Values(name), "; "); h != want {
			t.Errorf("the backend got %s: %q, want %q", name, h, want)
		}
	}
	for name, want := range map[string]string{
		"Via": "1.1 inner; 1.1 gatecontrol", "X-Kept": "1", "X-Back": "", "Keep-Alive": "", "Connection": "", "Proxy-Authenticate": "",
	} {
		if h := strings.Join(got.header.Values(name), "; "); h != want {
			t.Errorf("the answer has %s: %q, want %q", name, h, want)
		}
	}
}
