package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"gatecontrol/model"
)

func brought(t testing.TB, life time.Duration, names ...string) Upload {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Upload{names, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

// TestUploads: what was brought wins for the names that it covers, and for them
// nobody is asked; once it ends, the authorities are.
func TestUploads(t *testing.T) {
	r := newRig(t, setup{})
	wild, exact, longer := brought(t, time.Hour, "*.example.com"), brought(t, 2*time.Second, "a.example.com"), brought(t, 2*time.Hour, "*.example.com", "example.com")
	r.m.Set([]Upload{wild, exact, longer}, nil)
	r.serve("a.example.com", "b.example.com", "x.b.example.com", "nas.lan")
	shows := func(host string, u Upload) bool { return r.shown(host).Equal(u.Cert.Leaf) }
	if !shows("a.example.com", exact) || !shows("b.example.com", longer) {
		t.Error("the wrong one is shown")
	}
	if st := r.status("b.example.com"); st.State != model.CertUploaded || !st.NotAfter.Equal(longer.Cert.Leaf.NotAfter) {
		t.Errorf("%+v", st)
	}
	r.waitFor("one for the name that is too deep", func() bool { return r.isBy("x.b.example.com", r.pebble) })
	if n := r.pebble.Orders.Load(); n != 1 {
		t.Errorf("%d orders", n)
	}
	if err := r.m.Renew("b.example.com"); err == nil {
		t.Error("what was brought is renewed")
	}
	r.waitFor("the wildcard once the exact one is over", func() bool { return shows("a.example.com", longer) })
	r.m.Set(nil, nil)
	r.waitFor("one of the authority", func() bool { return r.isBy("a.example.com", r.pebble) && r.isBy("b.example.com", r.pebble) })
}
