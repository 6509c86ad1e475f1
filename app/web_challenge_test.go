package app_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/app"
	"gatecontrol/lab"
	"gatecontrol/lab/acme"
)

// TestChallengesBeforeGates has an authority look at names whose routes let nobody in
// (contract 6.1, 9). It reaches the plain port alone, by way of the test, which asks for
// the same thing under other names, and for other things under the same name.
func TestChallengesBeforeGates(t *testing.T) {
	zone := acme.NewZone(t)
	authority := acme.New(t, acme.Options{Name: "ca.example", Resolver: zone.Addr})
	s := lab.Start(t, asksAuthority(t, authority), func(o *app.Options) { o.BotRanges = "127.0.0.0/8" })
	g := &gallery{s: s}

	var mu sync.Mutex
	asked := make(map[string]int) // by name
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	between := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		domain, _, _ := net.SplitHostPort(r.Host)
		mu.Lock()
		asked[domain]++
		mu.Unlock()
		ask := func(host, path string) answer {
			a, err := try(r.Context(), plainClient(), "http://"+s.Addrs().HTTP+path, func(r *http.Request) { r.Host = host })
			if err != nil {
				t.Error(err)
			}
			return a
		}
		token := ask(r.Host, r.URL.Path)
		if key, _, _ := strings.Cut(token.body, "."); token.status != 200 || !strings.HasSuffix(r.URL.Path, "/"+key) {
			t.Errorf("%s: %d %q", domain, token.status, token.body)
		}
		for _, other := range []answer{
			ask(r.Host, "/"), ask(r.Host, r.URL.Path+"x"), ask(r.Host, "/.well-known/acme-challenge/"), ask("nobody.example.com", r.URL.Path),
		} {
			if other.status == 200 || strings.Contains(other.body, token.body) {
				t.Errorf("%s lets in: %d %q", domain, other.status, other.body)
			}
		}
		w.WriteHeader(token.status)
		_, _ = io.WriteString(w, token.body)
	})}
	go func() { _ = between.Serve(front) }() // ends with Close
	t.Cleanup(func() { _ = between.Close() })
	authority.Check(portOf(t, front.Addr().String()), lab.FreePort(t))

	gates := map[string]fields{
		"forced.example.com":  {},
		"tunnel.example.com":  {"https_enabled": false, "external_enabled": false},
		"peers.example.com":   {"https_enabled": false, "acl_enabled": true},
		"bots.example.com":    {"https_enabled": false, "bot_blocker_enabled": true},
		"filter.example.com":  {"https_enabled": false, "ip_filter_enabled": true},
		"login.example.com":   {"https_enabled": false, "basic_auth_user": "anna", "basic_auth_password": "secret word"},
		"clients.example.com": {"https_enabled": false, "client_tls_enabled": true, "client_tls_ca": certificateText(issue(t, nil))},
		"away.example.com":    {"https_enabled": false},
		"closed.example.com":  {"https_enabled": false},
	}
	for domain, options := range gates {
		options["domain"], options["target_port"] = domain, lab.FreePort(t)
		var made struct{ Route struct{ ID int64 } }
		g.s.API.Call(t, 201, "POST", "/api/v1/routes", options, &made)
		if strings.HasPrefix(domain, "closed.") {
			g.rule(t, fmt.Sprintf("/api/v1/routes/%d", made.Route.ID), fields{"mode": "block", "schedule": always})
		}
	}
	lab.Eventually(t, time.Minute, "a certificate for each", func() error {
		var list certificates
		s.API.Call(t, 200, "GET", "/api/v1/certificates", nil, &list)
		for domain := range gates {
			if state := list.state(domain); state != "valid" {
				return fmt.Errorf("%s: %s", domain, state)
			}
		}
		return nil
	})
	for domain := range gates {
		mu.Lock()
		n := asked[domain]
		mu.Unlock()
		if n == 0 {
			t.Errorf("%s has a certificate, and the authority did not look", domain)
		}
	}
}
