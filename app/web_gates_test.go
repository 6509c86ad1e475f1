package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
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

func botBlocker(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"bot_blocker_enabled": true})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	for _, c := range []struct {
		name    string
		options fields
		status  int
		body    string
	}{
		{"block", fields{}, 403, "Access denied.\n"},
		{"custom", fields{"bot_blocker_mode": "custom", "bot_blocker_config": fields{"message": "no <robots>", "status_code": 410}}, 410, "no &lt;robots&gt;"},
		{"redirect", fields{"bot_blocker_mode": "redirect", "bot_blocker_config": fields{"url": "https://example.org/"}}, 308, ""},
		{"garbage", fields{"bot_blocker_mode": "garbage"}, 200, ""},
		{"off", fields{"bot_blocker_enabled": false}, 200, "alpha:8000 GET /"},
	} {
		g.change(t, id, c.options)
		visit(t, out, domain, "/").wants(t, c.name+", a bot", c.status, c.body)
		visit(t, in, domain, "/").wants(t, c.name+", nobody's bot", 200, "alpha:8000 GET /")
	}
	g.change(t, id, fields{"bot_blocker_enabled": true, "bot_blocker_mode": "drop", "bot_blocker_config": nil})
	if res, err := out.Get("https://" + domain + "/"); err == nil {
		_ = res.Body.Close()
		t.Errorf("drop: %s", res.Status)
	}
	g.change(t, id, fields{"bot_blocker_mode": "tarpit"})
	tarpitted(t, out, domain)
	visit(t, in, domain, "/").wants(t, "tarpit, nobody's bot", 200, "alpha:8000 GET /")
	// Clients may try again what was dropped.
	var got struct {
		Route struct {
			Count int `json:"bot_blocker_count"`
		}
	}
	g.s.API.Call(t, 200, "GET", "/api/v1/routes/"+strconv.FormatInt(id, 10), nil, &got)
	if got.Route.Count < 6 {
		t.Errorf("%d were counted, want 6 at least", got.Route.Count)
	}
}

// tarpitted meets an answer that takes its time: three pieces of a few bytes are a
// second apart, and there is more to come.
func tarpitted(t *testing.T, c *http.Client, domain string) {
	t.Helper()
	begun := time.Now()
	res, err := c.Get("https://" + domain + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("tarpit: %s", res.Status)
	}
	n := 0
	for buf := make([]byte, 1024); n < 3*24; {
		m, err := res.Body.Read(buf)
		if n += m; err != nil {
			t.Fatalf("tarpit: the end came after %d bytes: %v", n, err)
		}
	}
	if took := time.Since(begun); took < 3*time.Second || n > 4*24 {
		t.Errorf("tarpit: %d bytes in %v", n, took)
	}
}

func basicAuth(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"basic_auth_user": "anna", "basic_auth_password": "secret word"})
	out := v.outside(t)
	as := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	before := g.alpha.count()
	if got := visit(t, out, domain, "/"); got.status != 401 || got.header.Get("WWW-Authenticate") == "" {
		t.Errorf("nobody: %d %v", got.status, got.header)
	}
	visit(t, out, domain, "/", as("anna", "secret")).wants(t, "wrong password", 401, "")
	if g.alpha.count() != before {
		t.Error("a request came through")
	}
	visit(t, out, domain, "/", as("anna", "secret word")).wants(t, "right password", 200, "alpha:8000 GET /")
	if h := g.alpha.last(t).Header.Get("Authorization"); h != "" {
		t.Errorf("the backend got %q", h)
	}
	g.change(t, id, fields{"basic_auth_password": "another word"})
	visit(t, out, domain, "/", as("anna", "secret word")).wants(t, "old password", 401, "")
	visit(t, out, domain, "/", as("anna", "another word")).wants(t, "new password", 200, "")
	var text string
	g.s.API.Call(t, 200, "GET", "/api/v1/routes/"+strconv.FormatInt(id, 10), nil, &text)
	if strings.Contains(text, "$2a$") || strings.Contains(text, "another word") || !strings.Contains(text, `"basic_auth_user":"anna"`) {
		t.Error("the API tells", text)
	}
	g.change(t, id, fields{"basic_auth_enabled": false})
	visit(t, out, domain, "/").wants(t, "off", 200, "")
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

// issue makes a certificate that is signed by parent, or by itself.
func issue(t *testing.T, parent *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "somebody"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		IsCA: parent == nil, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	signer, by := any(key), c
	if parent != nil {
		signer, by = parent.PrivateKey, parent.Leaf
	} else {
		c.KeyUsage |= x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func clientTLS(t *testing.T, g *gallery, v visitor) {
	ca := issue(t, nil)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]}))
	_, domain := g.show(t, fields{"client_tls_enabled": true, "client_tls_ca": text})
	visit(t, v.outside(t, *issue(t, ca)), domain, "/").wants(t, "with a certificate", 200, "alpha:8000 GET /")
	for name, c := range map[string]*http.Client{
		"without one": v.outside(t), "of somebody else": v.outside(t, *issue(t, issue(t, nil))),
	} {
		if res, err := c.Get("https://" + domain + "/"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == 200 {
				t.Errorf("%s: %s", name, res.Status)
			}
		}
	}
}
