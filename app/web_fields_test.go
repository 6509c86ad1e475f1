package app_test

import (
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

// toBackend looks at the fields that are ours on the way to a backend (contract 6.13).
func toBackend(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, nil)
	forge := func(r *http.Request) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "X-Gateway-Target", "X-Gateway-Target-Domain", "Forwarded"} {
			r.Header.Set(name, "forged")
		}
		r.Header.Set("Te", "trailers")
		r.Header.Set("Cookie", "gc.route.sid=secret; theirs=1")
		r.Header.Set("X-Theirs", "kept")
	}
	for _, from := range []struct {
		addr   string
		client *http.Client
	}{{"127.0.0.1", v.outside(t)}, {g.beta.peer.Addr.String(), v.inside(t, g.beta.peer)}} {
		got := visit(t, from.client, domain, "/", forge)
		r := g.alpha.last(t)
		for name, want := range map[string]string{
			"X-Forwarded-For": from.addr, "X-Real-Ip": from.addr, "X-Forwarded-Proto": "https", "X-Forwarded-Host": domain,
			"X-Gateway-Target": "", "X-Gateway-Target-Domain": "", "Forwarded": "", "Cookie": "theirs=1", "X-Theirs": "kept", "Te": "trailers",
		} {
			if h := r.Header.Get(name); h != want || len(r.Header.Values(name)) > 1 {
				t.Errorf("from %s: %s is %q, want %q", from.addr, name, r.Header.Values(name), want)
			}
		}
		if r.Host != domain || !strings.Contains(r.Header.Get("Via"), "gatecontrol") || !strings.Contains(got.header.Get("Via"), "gatecontrol") {
			t.Errorf("from %s: %s, Via %q and %q", from.addr, r.Host, r.Header.Get("Via"), got.header.Get("Via"))
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
