package app_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

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
			if again.wants(t, "the same one", 200, first.body); again.header.Get("Set-Cookie") != "" {
				t.Errorf("a new cookie: %v", again.header)
			}
		}
		made := visit(t, out, domain, "/", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "where", Value: c.Value[1:] + "0"}) })
		if made.status != 200 || made.cookie(t, "where").Value == "" {
			t.Errorf("with a cookie of its own making: %d %v", made.status, made.header)
		}
		if len(met) == 2 {
			return
		}
	}
	t.Errorf("new clients met %v", met)
}

// backendTLS speaks TLS with a service whose certificate nobody could check.
func backendTLS(t *testing.T, g *gallery, v visitor) {
	guest := g.exhibit(t, "tls-"+strings.ToLower(v.version))
	ln, err := guest.peer.Listen(8443)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "sealed ", r.TLS != nil) })}
	secret := tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*issue(t, nil)}})
	go func() { _ = srv.Serve(secret) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	id, domain := g.show(t, fields{"peer_id": guest.id, "target_port": 8443, "backend_https": true})
	out := v.outside(t)
	visit(t, out, domain, "/").wants(t, "TLS", 200, "sealed true")
	g.change(t, id, fields{"target_port": 8000})
	v.faulty(t, out, domain, "/", "TLS with who does not speak it")
	g.change(t, id, fields{"backend_https": 0})
	visit(t, out, domain, "/").wants(t, "plain", 200, "tls-"+strings.ToLower(v.version)+":8000 GET /")
}
