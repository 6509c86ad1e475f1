package model

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var certTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

type issued struct {
	cert       *x509.Certificate
	key        crypto.Signer
	chain, pem string // PEM of the certificate with those above it, and of the key
}

func encode(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// longRSA is a key that nobody has.
func longRSA() *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), maxRSABits)
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

// issue makes a certificate, by itself if by is nil.
func issue(t testing.TB, by *issued, key crypto.Signer, change func(*x509.Certificate)) *issued {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"a.example.com"},
		NotBefore: certTime.Add(-time.Hour), NotAfter: certTime.Add(time.Hour), BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	parent, signer, above := template, key, ""
	if by != nil {
		parent, signer, above = by.cert, by.key, by.chain
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + above, encode(t, key)}
}

func TestParseCertificate(t *testing.T) {
	authority := issue(t, nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.DNSNames, c.Subject.CommonName = true, x509.KeyUsageCertSign, nil, "authority"
	})
	other := issue(t, nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.DNSNames, c.Subject.CommonName = true, x509.KeyUsageCertSign, nil, "other"
	})
	good := issue(t, authority, nil, nil)
	rsaKey := func(bits int) crypto.Signer {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	withRSA, withEd := issue(t, authority, rsaKey(2048), nil), issue(t, authority, edKey, nil)
	t.Setenv("GODEBUG", "rsa1024min=0")
	small := issue(t, authority, rsaKey(1024), nil)
	names := issue(t, authority, nil, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"A.Example.com", "*.B.example.com", "bad name"}, []net.IP{net.ParseIP("192.0.2.1")}
	})
	sec1, err := x509.MarshalECPrivateKey(good.key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(withRSA.key.(*rsa.PrivateKey))}))
	block, _ := pem.Decode([]byte(good.chain))
	alone := string(pem.EncodeToMemory(block))

	der, err := x509.CreateCertificate(rand.Reader, authority.cert, authority.cert, longRSA(), authority.key)
	if err != nil {
		t.Fatal(err)
	}
	long := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))

	self := issue(t, nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, 0, nil
	})

	for _, tt := range []struct {
		name, chain, key string
		field, says      string // of the error; none if empty
		names            []string
	}{
		{"a chain", good.chain, good.pem, "", "", []string{"a.example.com"}},
		{"without those above", alone, good.pem, "", "", []string{"a.example.com"}},
		{"text around it", "hello\n" + good.chain + "\n\nbye", "x\n" + good.pem, "", "", []string{"a.example.com"}},
		{"RSA", withRSA.chain, withRSA.pem, "", "", []string{"a.example.com"}},
		{"Ed25519", withEd.chain, withEd.pem, "", "", []string{"a.example.com"}},
		{"a key of SEC 1", good.chain, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + ecPEM, "", "", []string{"a.example.com"}},
		{"a key of PKCS 1", withRSA.chain, pkcs1, "", "", []string{"a.example.com"}},
		{"names of all kinds", names.chain, names.pem, "", "", []string{"a.example.com", "*.b.example.com", "192.0.2.1"}},

		{"one that signed itself", self.chain, self.pem, "", "", []string{"a.example.com"}},

		{"an authority that signed itself, another key", self.chain, good.pem, "certificate", "authority", nil},
		{"nothing", "", good.pem, "certificate", "PEM", nil},
		{"text", "hello", good.pem, "certificate", "PEM", nil},
		{"no key", good.chain, "", "private_key", "PEM", nil},
		{"the key among the certificates", good.chain + good.pem, good.pem, "certificate", "private key", nil},
		{"certificate for key", good.chain, good.chain, "private_key", "", nil},
		{"another key", good.chain, issue(t, nil, nil, nil).pem, "private_key", "does not belong", nil},
		{"a key of another kind", good.chain, withRSA.pem, "private_key", "does not belong", nil},
		{"a short key", small.chain, small.pem, "private_key", "1024", nil},
		{"a key with a password", good.chain, strings.ReplaceAll(good.pem, "PRIVATE", "ENCRYPTED PRIVATE"), "private_key", "password", nil},
		{"a damaged key", good.chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private_key", "read", nil},
		{"damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.pem, "certificate", "read", nil},
		{"too large", good.chain + strings.Repeat(" ", MaxCertificateSize), good.pem, "certificate", "65536", nil},
		{"a key too large", good.chain, good.pem + strings.Repeat(" ", MaxCertificateSize), "private_key", "65536", nil},
		{"a wrong chain", alone + other.chain, good.pem, "certificate", "did not issue", nil},
		{"an issuer whose signatures take long to check", alone + long, good.pem, "certificate", "certificate 2 of the chain has an RSA key", nil},
		{"a long chain", good.chain + strings.Repeat(authority.chain, maxChain), good.pem, "certificate", "at most", nil},
		{"an authority", authority.chain, authority.pem, "certificate", "authority", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkCert(t, tt.chain, tt.key, tt.field, tt.says, tt.names)
		})
	}
	for _, tt := range []struct {
		name, says string
		change     func(*x509.Certificate)
	}{
		{"expired", "2026-11-28", func(c *x509.Certificate) { c.NotAfter = certTime.Add(-time.Second) }},
		{"of the future", "before", func(c *x509.Certificate) { c.NotBefore = certTime.Add(time.Minute) }},
		{"no name", "no name", func(c *x509.Certificate) { c.DNSNames = nil }},
		{"for clients", "servers", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := issue(t, authority, nil, tt.change)
			checkCert(t, c.chain, c.pem, "certificate", tt.says, nil)
		})
	}
}

// TestCertificateErrors: what is wrong with both is said of both.
func TestCertificateErrors(t *testing.T) {
	_, _, err := ParseCertificate("x", "y", certTime)
	e, ok := errors.AsType[*Error](err)
	if !ok || len(e.Fields) != 2 || e.Fields[0].Field != "certificate" || e.Fields[1].Field != "private_key" {
		t.Errorf("%+v", e)
	}
}

func checkCert(t *testing.T, chain, key, field, says string, names []string) {
	t.Helper()
	cert, got, err := ParseCertificate(chain, key, certTime)
	if field == "" {
		if err != nil || !slices.Equal(got, names) || cert == nil || cert.Leaf == nil {
			t.Errorf("%q, %v", got, err)
		}
		return
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindInvalid || e.Field != field || !strings.Contains(e.Message, says) {
		t.Errorf("%v; want one of %s that says %q", err, field, says)
	}
	if cert != nil || got != nil {
		t.Error("something was returned with the error")
	}
}

func TestCovers(t *testing.T) {
	names := []string{"example.com", "*.example.com", "192.0.2.1"}
	for host, want := range map[string]bool{
		"example.com": true, "a.example.com": true, "a.b.example.com": false, "com": false, "xexample.com": false,
		"*.example.com": true, "192.0.2.1": true, "192.0.2.2": false, "": false, ".example.com": true,
	} {
		if got := Covers(names, host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
	if Covers([]string{"*."}, "a.") || Covers([]string{"*.com"}, "com") || Covers(nil, "a") {
		t.Error("covers what it does not")
	}
}

func FuzzParseCertificate(f *testing.F) {
	c := issue(f, nil, nil, nil)
	f.Add(c.chain, c.pem)
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "")
	f.Fuzz(func(t *testing.T, chain, key string) {
		cert, names, err := ParseCertificate(chain, key, certTime)
		if (err == nil) != (cert != nil) || (err == nil) != (len(names) > 0) {
			t.Errorf("%v %q %v", cert, names, err)
		}
	})
}
