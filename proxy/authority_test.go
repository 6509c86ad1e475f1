package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"
)

func TestAuthority(t *testing.T) {
	certPEM, keyPEM, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.RootPEM()) != string(certPEM) {
		t.Error("the root is not the one that was made")
	}
	if left := time.Until(a.Expires()); left < 9*365*24*time.Hour {
		t.Errorf("the root ends in %v", left)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.RootPEM()) {
		t.Fatal("the root cannot be read")
	}
	for _, name := range []string{"a.test", "localhost", "192.168.1.2", "2001:db8::1", "a-very-long-label-that-fills-a-lot.of-a-name-beyond-sixty-four-bytes.test"} {
		leaf, err := a.Certificate(name)
		if err != nil {
			t.Fatal(err)
		}
		verify := name
		if ip := net.ParseIP(name); ip != nil {
			verify = "[" + name + "]"
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: verify, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "other.test"}); err == nil {
			t.Errorf("%s is good for another name", name)
		}
		if leaf.Leaf.IsCA {
			t.Errorf("%s can certify others", name)
		}
	}
}

func TestAuthorityRenews(t *testing.T) {
	certPEM, keyPEM, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a.now = func() time.Time { return now }
	issue := func() *tls.Certificate {
		c, err := a.Certificate("a.test")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := issue()
	now = now.Add(59 * 24 * time.Hour)
	if issue() != first {
		t.Error("renewed with more than a third left")
	}
	now = now.Add(2 * 24 * time.Hour)
	second := issue()
	if second == first {
		t.Error("not renewed with less than a third left")
	}
	now = now.Add(10 * 365 * 24 * time.Hour)
	if issue().Leaf.NotAfter.After(a.Expires()) {
		t.Error("a leaf outlives the root")
	}
}

func TestAuthorityIssuesOnce(t *testing.T) {
	certPEM, keyPEM, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	got := make([]*tls.Certificate, 64)
	for i := range got {
		wg.Go(func() { got[i], _ = a.Certificate("a.test") })
	}
	wg.Wait()
	for _, c := range got {
		if c == nil || c != got[0] {
			t.Fatal("a storm of handshakes got several certificates")
		}
	}
}

func TestLoadAuthorityRefuses(t *testing.T) {
	certPEM, keyPEM, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"nothing":     {nil, nil},
		"no key":      {certPEM, nil},
		"another key": {certPEM, otherKey},
		"swapped":     {keyPEM, certPEM},
	} {
		if _, err := LoadAuthority(pair[0], pair[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
