package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/control/certs"
	"gatecontrol/model"
)

// pair is a certificate and its key, in PEM.
type pair struct{ Chain, Key string }

// issue makes one that was valid for two days at end.
func issue(t testing.TB, end time.Time, names ...string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Some CA"}, DNSNames: names,
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})),
	}
}

func upload(chain, key string) string {
	raw, _ := json.Marshal(map[string]string{"certificate": chain, "private_key": key})
	return string(raw)
}

// renew is what a planned renewal says.
func (f *fixture) renew(name string) error {
	switch name {
	case "app.example.com":
		return nil
	case "limited.example.com":
		return model.Failure(model.KindLimited, "the authority asks to wait")
	}
	return model.NotFound("certificate")
}

// look is a DNS in which only app.example.com leads here.
func (f *fixture) look() certs.Look {
	own, other := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.9")
	return certs.Look{
		Addrs: func(_ context.Context, name string) ([]netip.Addr, error) {
			switch name {
			case "app.example.com":
				return []netip.Addr{own}, nil
			case "elsewhere.example.com":
				return []netip.Addr{other}, nil
			}
			return nil, certs.ErrNoName
		},
		ForbiddenBy: func(_ context.Context, name string, _ [][]string) (string, error) {
			if name == "elsewhere.example.com" {
				return "example.com", nil
			}
			return "", nil
		},
		Own: func(context.Context) []netip.Addr { return []netip.Addr{own} },
		Reach: func(_ context.Context, _ string, addr netip.Addr, secure bool) error {
			switch {
			case addr == own:
				return nil
			case secure:
				return certs.ErrOther
			}
			return context.DeadlineExceeded
		},
		Budget: func(name string) certs.Budget {
			b := certs.Budget{Authorities: [][]string{{"ca.example"}}, Subject: name, Domain: "example.com", SameDomain: 7}
			if name == "elsewhere.example.com" {
				b.SameName = 5
			}
			return b
		},
	}
}

// TestKeysStayInside: no answer, no log line and no event holds a key that was
// brought, sealed or not.
func TestKeysStayInside(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	p := issue(t, start.Add(24*time.Hour), "gate.example.com")
	said := admin.do("POST", "/api/v1/certificates", upload(p.Chain, p.Key)).Body.String()
	for _, path := range []string{"/certificates", "/logs/activity", "/system/conditions", "/certificates/root.pem"} {
		said += admin.do("GET", "/api/v1"+path, "").Body.String()
	}
	said += f.log.String()
	body := strings.Split(p.Key, "\n")[1]
	if strings.Contains(said, body) || strings.Contains(said, "private_key") {
		t.Error("a key came out")
	}
	backup := admin.do("GET", "/api/v1/settings/backup", "").Body.String()
	if strings.Contains(backup, body) {
		t.Error("a backup holds a key in the clear")
	}
	if !strings.Contains(backup, "BEGIN CERTIFICATE") {
		t.Error("a backup holds no certificate")
	}
}
