package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/app"
	"gatecontrol/lab"
	"gatecontrol/lab/acme"
)

// certificates is what the API tells of certificates.
type certificates struct {
	Certificates []struct {
		Domain, Subject, Status, Issuer string
		NotAfter                        string  `json:"not_after"`
		LastError                       *string `json:"last_error"`
		Advice                          *string
		RouteIDs                        []int64 `json:"route_ids"`
	}
	Uploads []struct {
		ID    int64
		Names []string
	}
}

func (c certificates) state(domain string) string {
	for _, e := range c.Certificates {
		if e.Domain == domain {
			return e.Status
		}
	}
	return "not listed"
}

// shown is the certificate that the TLS port shows for a name.
func shown(t testing.TB, s *lab.Server, name string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", s.Addrs().HTTPS, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// asksAuthority has a gateway ask a in the place of Let's Encrypt.
func asksAuthority(t testing.TB, a *acme.Authority) func(*app.Options) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *app.Options) {
		o.TLSIssuer, o.ACMECA, o.ACMECARoot, o.ACMEEmail = "auto", []string{a.Directory}, root, "admin@gate.example"
	}
}

func portOf(t testing.TB, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCertificates takes a route from its creation to a public certificate, over
// a restart, and to one that is brought.
func TestCertificates(t *testing.T) {
	zone := acme.NewZone(t)
	authority := acme.New(t, acme.Options{Name: "ca.example", Resolver: zone.Addr})
	use := asksAuthority(t, authority)
	s := lab.Start(t, use, func(o *app.Options) {
		o.HTTPListen = fmt.Sprintf("127.0.0.1:%d", lab.FreePort(t))
		o.HTTPSListen = fmt.Sprintf("127.0.0.1:%d", lab.FreePort(t))
	})
	options := lab.Options(t)
	use(&options)
	options.DataDir, options.HTTPListen, options.HTTPSListen = s.Dir, s.Addrs().HTTP, s.Addrs().HTTPS

	id, p := s.Peer(t, "nas")
	publish(t, s, id, p, "app.example.com", "hello")
	list := func() (c certificates) {
		t.Helper()
		s.API.Call(t, 200, "GET", "/api/v1/certificates", nil, &c)
		return c
	}
	// The authority is not there yet: the route serves with what there is, and the
	// reason is a condition.
	if c := shown(t, s, "app.example.com"); c.VerifyHostname("app.example.com") != nil || !strings.Contains(c.Issuer.CommonName, "GateControl") {
		t.Errorf("shown at first: %q", c.Issuer.CommonName)
	}
	lab.Eventually(t, 20*time.Second, "a failure that is a condition", func() error {
		var c struct {
			Conditions []struct{ Code, Subject, Text string }
		}
		s.API.Call(t, 200, "GET", "/api/v1/system/conditions", nil, &c)
		for _, e := range c.Conditions {
			if e.Code == "certificate_missing" && e.Subject == "app.example.com" && list().state("app.example.com") == "failed" {
				return nil
			}
		}
		return fmt.Errorf("%+v", c)
	})
	authority.Check(portOf(t, s.Addrs().HTTP), portOf(t, s.Addrs().HTTPS))
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": "b.example.com", "peer_id": id, "target_port": 8000}, nil)
	lab.Eventually(t, 30*time.Second, "a public certificate", func() error {
		if c := list(); c.state("b.example.com") != "valid" {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	s.API.Call(t, 429, "POST", "/api/v1/certificates/b.example.com/renew", nil, nil) // it is new
	s.API.Call(t, 409, "POST", "/api/v1/certificates/localhost/renew", nil, nil)
	s.API.Call(t, 404, "POST", "/api/v1/certificates/c.example.com/renew", nil, nil)
	first := shown(t, s, "b.example.com")
	if _, err := first.Verify(x509.VerifyOptions{DNSName: "b.example.com", Roots: authority.Roots, Intermediates: intermediates(t, s, "b.example.com")}); err != nil {
		t.Error(err)
	}
	if state := list().state("localhost"); state != "internal" {
		t.Errorf("the administration: %s", state)
	}

	s.Stop(t)
	s = lab.Run(t, options)
	s.Admin.Login(t, lab.User, lab.Password)
	s.API = s.Admin.WithToken(s.Admin.MakeToken(t, "full-access"))
	if !shown(t, s, "b.example.com").Equal(first) {
		t.Error("after a restart another certificate is shown")
	}
	if n := authority.Orders.Load(); n != 1 {
		t.Errorf("%d orders", n)
	}

	var root string
	s.API.Call(t, 200, "GET", "/api/v1/certificates/root.pem", nil, &root)
	if !strings.Contains(root, "BEGIN CERTIFICATE") {
		t.Errorf("%.60q", root)
	}

	chain, key := selfSigned(t, "*.example.com")
	s.API.Call(t, 400, "POST", "/api/v1/certificates", map[string]any{"certificate": chain, "private_key": strings.Repeat("x", 70<<10)}, nil)
	s.API.Call(t, 201, "POST", "/api/v1/certificates", map[string]any{"certificate": chain, "private_key": key}, nil)
	if c := shown(t, s, "b.example.com"); c.DNSNames[0] != "*.example.com" {
		t.Errorf("after the upload: %q", c.DNSNames)
	}
	c := list()
	if c.state("b.example.com") != "uploaded" || len(c.Uploads) != 1 {
		t.Fatalf("%+v", c)
	}
	s.API.Call(t, 200, "DELETE", fmt.Sprintf("/api/v1/certificates/%d", c.Uploads[0].ID), nil, nil)
	if !shown(t, s, "b.example.com").Equal(first) {
		t.Error("after deleting it, the former one is not back")
	}
}

// intermediates are what a name shows besides its certificate.
func intermediates(t testing.TB, s *lab.Server, name string) *x509.CertPool {
	t.Helper()
	c, err := tls.Dial("tcp", s.Addrs().HTTPS, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pool := x509.NewCertPool()
	for _, cert := range c.ConnectionState().PeerCertificates[1:] {
		pool.AddCert(cert)
	}
	return pool
}

func selfSigned(t testing.TB, name string) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}
