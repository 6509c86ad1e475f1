package app_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"gatecontrol/lab"
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
		{"external_enabled", externalGate},
		{"acl_enabled", peerACL},
		{"ip_filter_enabled", ipFilter},
		{"basic_auth_enabled", basicAuth},
		{"rate_limit_enabled", rateLimit},
		{"bot_blocker_enabled", botBlocker},
		{"client_tls_enabled", clientTLS},
		{"custom_headers", customHeaders},
		{"backends", severalBackends},
		{"a backend down", backendDown},
		{"sticky_enabled", stickyBackend},
		{"retry_enabled", retries},
		{"paths", paths},
		{"compress_enabled", compression},
		{"debug_enabled", trace},
		{"mirror_enabled", mirror},
		{"backend_https", backendTLS},
		{"https_enabled", forcedHTTPS},
		{"enabled", disabled},
		{"fields to the backend", toBackend},
		{"service away", away},
		{"streams", streams},
		{"WebSockets", webSockets},
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

// onThisHost leads to a service beside the gateway (contract 2.1).
func onThisHost(t *testing.T, g *gallery, v visitor) {
	beside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "beside "+r.Host) }))
	t.Cleanup(beside.Close)
	_, domain := g.show(t, fields{"peer_id": nil, "target_port": beside.Listener.Addr().(*net.TCPAddr).Port})
	visit(t, v.outside(t), domain, "/").wants(t, "outside", 200, "beside "+domain)
	visit(t, v.inside(t, g.beta.peer), domain, "/").wants(t, "inside", 200, "beside "+domain)
}

// anotherName asks for a route on a connection that was made for another one
// (contract 6.1): what that one knows of the client says nothing here.
func anotherName(t *testing.T, g *gallery, v visitor) {
	_, one := g.show(t, nil)
	_, two := g.show(t, nil)
	out, before := v.outside(t), g.alpha.count()
	for _, host := range []string{two, "nobody.example.test"} {
		visit(t, out, one, "/", func(r *http.Request) { r.Host = host }).wants(t, host, 421, "")
	}
	if g.alpha.count() != before {
		t.Error("a request came through")
	}
	visit(t, out, one, "/").wants(t, "its own name", 200, "")
}

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

func severalBackends(t *testing.T, g *gallery, v visitor) {
	guest := g.exhibit(t, "second-"+strings.ToLower(v.version))
	id, domain := g.show(t, fields{"backends": []fields{
		{"peer_id": g.alpha.id, "port": 8001, "weight": 1}, {"peer_id": guest.id, "port": 8000, "weight": 3},
	}})
	out := v.outside(t)
	count := func() map[string]int {
		n := map[string]int{}
		for range 40 {
			got := visit(t, out, domain, "/")
			n[strings.Fields(got.body)[0]]++
		}
		return n
	}
	if n := count(); n["alpha:8001"] != 10 || len(n) != 2 {
		t.Errorf("a quarter and three: %v", n)
	}
	path := "/api/v1/peers/" + strconv.FormatInt(guest.id, 10)
	g.s.API.Call(t, 200, "PUT", path+"/toggle", nil, nil)
	if n := count(); n["alpha:8001"] != 40 {
		t.Errorf("while one is disabled: %v", n)
	}
	_, lone := g.show(t, fields{"backends": []fields{{"peer_id": guest.id, "port": 8000}}})
	visit(t, out, lone, "/").wants(t, "while all are disabled", 200, "alpha:8000 GET /")
	g.s.API.Call(t, 200, "DELETE", path, nil, nil)
	if n := count(); n["alpha:8001"] != 40 {
		t.Errorf("once it is deleted: %v", n)
	}
	g.change(t, id, fields{"backends": nil})
	visit(t, out, domain, "/").wants(t, "without", 200, "alpha:8000 GET /")
}

// backendDown has a backend fail, and come back (contract 6.12, 6.15): others answer
// in its place, also those who had it by their cookie, until it is tried again.
func backendDown(t *testing.T, g *gallery, v visitor) {
	t.Parallel() // it is passed by for 5 s
	name := "down-" + strings.ToLower(v.version)
	guest := g.exhibit(t, name)
	id, domain := g.show(t, fields{"retry_enabled": true, "retry_count": 1, "backends": []fields{
		{"peer_id": guest.id, "port": 8002}, {"peer_id": g.alpha.id, "port": 8001},
	}})
	out := v.outside(t)
	post := func(r *http.Request) { r.Method = "POST" }
	visit(t, out, domain, "/", post).wants(t, "at the second attempt", 200, "alpha:8001 POST /")
	g.change(t, id, fields{"retry_enabled": false})
	count := func() map[string]int {
		n := map[string]int{}
		for range 20 {
			n[visit(t, out, domain, "/").body]++
		}
		return n
	}
	theirs, others := name+":8002 GET /", "alpha:8001 GET /"
	if n := count(); n[others] < 15 { // one in 5 s tries it, and fails
		t.Errorf("while one is down: %v", n)
	}
	stop := guest.serve(t, name, 8002)
	lab.Eventually(t, 30*time.Second, "the backend is back", func() error {
		if got := visit(t, out, domain, "/"); got.body != theirs {
			return fmt.Errorf("%d %q", got.status, got.body)
		}
		return nil
	})
	if n := count(); n[theirs] != 10 || n[others] != 10 {
		t.Errorf("once it is back: %v", n)
	}

	g.change(t, id, fields{"sticky_enabled": true, "retry_enabled": true})
	var cookie *http.Cookie
	for n := 0; n < 50 && cookie == nil; n++ { // until it is met by chance
		if got := visit(t, out, domain, "/"); got.body == theirs {
			cookie = got.cookie(t, "gc_sticky")
		}
	}
	if cookie == nil {
		t.Fatal("new clients do not meet the backend that is back")
	}
	with := func(r *http.Request) { r.AddCookie(cookie) }
	visit(t, out, domain, "/", with).wants(t, "at the backend of the cookie", 200, theirs)
	stop()
	got := visit(t, out, domain, "/", with)
	got.wants(t, "the backend of the cookie is down", 200, others)
	cookie = got.cookie(t, "gc_sticky")
	if got = visit(t, out, domain, "/", with); got.body != others || got.header.Get("Set-Cookie") != "" {
		t.Errorf("with the other cookie: %q %v", got.body, got.header)
	}
}

func stickyBackend(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"sticky_enabled": true, "sticky_cookie_name": "where", "sticky_cookie_ttl": "14400",
		"backends": []fields{{"peer_id": g.alpha.id, "port": 8000}, {"peer_id": g.beta.id, "port": 8000}}})
	out := v.outside(t)
	met := map[string]bool{}
	for range 50 { // until both were met by somebody
		first := visit(t, out, domain, "/")
		c := first.cookie(t, "where")
		if c.MaxAge != 14400 || c.Path != "/" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteNoneMode {
			t.Fatalf("the cookie is %v", c)
		}
		met[first.body] = true
		for range 5 {
			again := visit(t, out, domain, "/", func(r *http.Request) { r.AddCookie(c) })
			again.wants(t, "the same one", 200, first.body)
		}
		if len(met) == 2 {
			return
		}
	}
	t.Errorf("new clients met %v", met)
}

func retries(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"retry_enabled": true, "retry_count": 2, "retry_status_codes": "503"})
	out := v.outside(t)
	before := g.alpha.count()
	visit(t, out, domain, "/flaky").wants(t, "at the second attempt", 200, "alpha:8000 GET /flaky")
	if n := g.alpha.count() - before; n != 2 {
		t.Errorf("%d attempts", n)
	}
	g.change(t, id, fields{"retry_match_status": []int{502}})
	visit(t, out, domain, "/flaky").wants(t, "another status", 503, "")
	visit(t, out, domain, "/flaky").wants(t, "of the service", 200, "")
	g.change(t, id, fields{"retry_match_status": "503"})
	visit(t, out, domain, "/flaky", func(r *http.Request) { r.Method = "POST" }).wants(t, "what may not be said twice", 503, "")
	visit(t, out, domain, "/flaky").wants(t, "of the service", 200, "") // an even number for the next visitor
}

func paths(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"paths": []fields{
		{"prefix": "/api", "peer_id": g.beta.id, "port": 8001, "strip": true},
		{"prefix": "/api/own", "port": 8001},
		{"prefix": "/old", "redirect": "/new", "status": 308},
	}})
	out := v.outside(t)
	visit(t, out, domain, "/apis").wants(t, "another segment", 200, "alpha:8000 GET /apis")
	visit(t, out, domain, "/api/x?y").wants(t, "another peer", 200, "beta:8001 GET /x?y")
	visit(t, out, domain, "/api/own/x").wants(t, "another port", 200, "alpha:8001 GET /api/own/x")
	if got := visit(t, out, domain, "/old/x?y"); got.status != 308 || got.header.Get("Location") != "/new?y" {
		t.Errorf("redirect: %d %v", got.status, got.header)
	}
}

func compression(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"compress_enabled": true})
	out := v.outside(t)
	accept := func(list string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Accept-Encoding", list) }
	}
	coded := func(got answer) string { return got.header.Get("Content-Encoding") }
	varies := func(got answer) string { return strings.Join(got.header.Values("Vary"), "; ") }
	plain := visit(t, out, domain, "/long")
	if coded(plain) != "" || varies(plain) != "Accept-Encoding" {
		t.Errorf("not asked for: %v", plain.header)
	}
	for list, want := range map[string]string{"gzip": "gzip", "gzip;q=0.5, br": "br", "zstd": "zstd", "gzip, deflate, br, zstd": "zstd"} {
		got := visit(t, out, domain, "/long", accept(list))
		if coded(got) != want || varies(got) != "Accept-Encoding" || len(got.body) >= len(plain.body)/2 {
			t.Errorf("%s: %d bytes became %d, %v", list, len(plain.body), len(got.body), got.header)
		}
		if text := decoded(t, coded(got), got.body); text != plain.body {
			t.Errorf("%s: another text, of %d bytes", list, len(text))
		}
	}
	for name, c := range map[string]struct {
		path         string
		change       func(*http.Request)
		status       int
		coding, body string
	}{
		"short":             {"/" + strings.Repeat("a", 400), accept("gzip"), 200, "", ""},
		"unknown":           {"/long", accept("x-other, gzip;q=0"), 200, "", plain.body},
		"coded by the peer": {"/long?coding=x-own", accept("gzip"), 200, "x-own", plain.body},
		"a part": {"/long", func(r *http.Request) {
			accept("gzip")(r)
			r.Header.Set("Range", "bytes=0-999")
		}, 206, "", plain.body[:1000]},
	} {
		got := visit(t, out, domain, c.path, c.change)
		if got.wants(t, name, c.status, c.body); coded(got) != c.coding {
			t.Errorf("%s: %v", name, got.header)
		}
	}
	g.change(t, id, fields{"compress_enabled": false})
	if off := visit(t, out, domain, "/long", accept("gzip")); coded(off) != "" || varies(off) != "" || off.body != plain.body {
		t.Errorf("off: %v", off.header)
	}
}

// decoded is the text of a body in a content coding.
func decoded(t *testing.T, coding, body string) string {
	t.Helper()
	r, err := io.Reader(nil), error(nil)
	switch in := strings.NewReader(body); coding {
	case "gzip":
		r, err = gzip.NewReader(in)
	case "br":
		r = brotli.NewReader(in)
	case "zstd":
		r, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	default:
		return body
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v", coding, err)
	}
	return string(text)
}

func trace(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"debug_enabled": true, "ip_filter_enabled": true, "ip_filter_rules": []fields{{"type": "ip", "value": "127.0.0.1"}}})
	visit(t, v.outside(t), domain, "/seen?a=b").wants(t, "outside", 200, "")
	visit(t, v.inside(t, g.beta.peer), domain, "/refused").wants(t, "inside", 403, "")
	path := "/api/v1/routes/" + strconv.FormatInt(id, 10)
	read := func(query string) (uris, clients []string, newest string) {
		var answer struct {
			Data struct {
				Entries []struct {
					Timestamp, URI string
					RemoteIP       string `json:"remote_ip"`
				}
			}
		}
		g.s.API.Call(t, 200, "GET", path+"/trace"+query, nil, &answer)
		for i, e := range answer.Data.Entries {
			if i == 0 {
				newest = e.Timestamp
			}
			uris, clients = append(uris, e.URI), append(clients, e.RemoteIP)
		}
		return uris, clients, newest
	}
	uris, clients, newest := read("")
	if !slices.Equal(uris, []string{"/refused", "/seen?a=b"}) || !slices.Equal(clients, []string{g.beta.peer.Addr.String(), "127.0.0.1"}) {
		t.Errorf("the trace has %v of %v", uris, clients)
	}
	if uris, _, _ := read("?since=" + newest); len(uris) != 0 {
		t.Errorf("nothing is newer, and yet %v", uris)
	}
	if uris, _, _ := read("?limit=1"); len(uris) != 1 {
		t.Errorf("one is %v", uris)
	}
	g.change(t, id, fields{"debug_enabled": 0})
	if uris, _, _ := read(""); len(uris) != 0 {
		t.Errorf("switched off: %v", uris)
	}
}

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
