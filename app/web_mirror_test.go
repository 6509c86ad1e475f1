package app_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func mirror(t *testing.T, g *gallery, v visitor) {
	copies := g.exhibit(t, "mirror-"+strings.ToLower(v.version))
	id, domain := g.show(t, fields{"mirror_enabled": 1, "mirror_targets": []fields{{"peer_id": copies.id, "port": 8000}},
		"basic_auth_user": "anna", "basic_auth_password": "secret word"})
	out := v.outside(t)
	post := func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader("all of it")), 9
		r.SetBasicAuth("anna", "secret word")
	}
	visit(t, out, domain, "/copied?x", post).wants(t, "mirrored", 200, "alpha:8000 POST /copied?x")
	copied := copies.wait(t, 1)
	body, err := io.ReadAll(copied.Body)
	if err != nil || string(body) != "all of it" || copied.Method != "POST" || copied.RequestURI != "/copied?x" || copied.Host != domain {
		t.Errorf("the copy is %s %s for %s, %q %v", copied.Method, copied.RequestURI, copied.Host, body, err)
	}
	if copied.Header.Get("Authorization") != "" || copied.Header.Get("X-Forwarded-For") == "" {
		t.Errorf("the copy has %v", copied.Header)
	}
	visit(t, out, domain, "/refused").wants(t, "refused", 401, "")
	g.change(t, id, fields{"mirror_enabled": 0})
	visit(t, out, domain, "/off", post).wants(t, "off", 200, "")
	g.change(t, id, fields{"mirror_enabled": 1, "basic_auth_enabled": 0})
	v.socket(t, out, domain, "/ws") // is not copied
	visit(t, out, domain, "/on", post).wants(t, "on again", 200, "")
	if got := copies.wait(t, 2); got.RequestURI != "/on" || copies.count() != 2 {
		t.Errorf("the next copy is %s, of %d", got.RequestURI, copies.count())
	}
	const tooLong = 10<<20 + 1
	visit(t, out, domain, "/long-body", post, func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(&counting{}, tooLong)), tooLong
	}).wants(t, "too long to be copied", 200, "alpha:8000 POST /long-body")
	whole, _ := io.Copy(io.Discard, g.alpha.last(t).Body)
	got := copies.wait(t, 3)
	if n, _ := io.Copy(io.Discard, got.Body); whole != tooLong || n != 0 || got.RequestURI != "/long-body" {
		t.Errorf("the backend has %d bytes, and the copy, %s, %d", whole, got.RequestURI, n)
	}
}
