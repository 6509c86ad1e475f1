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

func basicAuth(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"basic_auth_user": "anna", "basic_auth_password": "secret word"})
	out := v.outside(t)
	as := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	before := g.alpha.count()
	if got := visit(t, out, domain, "/"); got.status != 401 || got.header.Get("WWW-Authenticate") != `Basic realm="restricted"` {
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

// loginFailures tries passwords until the address has to wait (contract 6.6): for this
// route alone, and not who has logged in before.
func loginFailures(t *testing.T, g *gallery, v visitor) {
	options := fields{"basic_auth_user": "anna", "basic_auth_password": "secret word"}
	_, domain := g.show(t, options)
	_, other := g.show(t, options)
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	as := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("anna", password) }
	}
	// What is no password costs nothing to look at, and counts as well.
	none := func(r *http.Request) { r.Header.Set("Authorization", "Basic guess") }
	visit(t, out, domain, "/", as("secret word")).wants(t, "logged in", 200, "")
	visit(t, out, domain, "/", as("guess")).wants(t, "a guess", 401, "")
	for range 19 {
		visit(t, out, domain, "/", none).wants(t, "no password at all", 401, "")
	}
	for _, guess := range []func(*http.Request){none, as("guess 21"), as("guess")} {
		got := visit(t, out, domain, "/", guess, func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.7") })
		if wait, err := strconv.Atoi(got.header.Get("Retry-After")); got.status != 429 || err != nil || wait < 1 || wait > 310 {
			t.Errorf("one guess too many: %d %v", got.status, got.header)
		}
	}
	visit(t, out, domain, "/", as("secret word")).wants(t, "who was logged in", 200, "alpha:8000 GET /")
	visit(t, out, other, "/", none).wants(t, "another route", 401, "")
	visit(t, in, domain, "/", none).wants(t, "another client", 401, "")
	visit(t, in, domain, "/", as("secret word")).wants(t, "another client, with the password", 200, "")
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

// certificateText is the certificate as forms take it.
func certificateText(c *tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

func clientTLS(t *testing.T, g *gallery, v visitor) {
	ca := issue(t, nil)
	_, domain := g.show(t, fields{"client_tls_enabled": true, "client_tls_ca": certificateText(ca)})
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
