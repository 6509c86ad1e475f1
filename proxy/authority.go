package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	// leafRenewal is what is left of a leaf's life when the next one is made.
	leafRenewal = leafLife / 3
	// clockSkew is how far the clock of a client may be behind ours.
	clockSkew = time.Hour
	// maxLeaves bounds the certificates in memory: 10 000 routes, and as many
	// names again that were routes before.
	maxLeaves = 20_000
)

// Authority is the internal certificate authority, for names that no public one
// certifies. It keeps the certificates that it issued in memory; they are made
// anew after a restart. It may be used from many goroutines at once.
type Authority struct {
	root    *x509.Certificate
	rootPEM []byte
	key     *ecdsa.PrivateKey
	now     func() time.Time

	mu      sync.RWMutex
	leaves  map[string]*tls.Certificate
	issuing singleflight.Group // a storm of handshakes for one name issues once
}

// NewAuthority makes a root certificate with its key, both in PEM. The key is
// secret: whoever has it can impersonate any site to those who trust the root.
func NewAuthority() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make root key: %w", err)
	}
	now := time.Now()
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{"GateControl"}, CommonName: "GateControl internal CA " + hex.EncodeToString(id[:4])},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		SubjectKeyId:          id,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make root certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode root key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM, nil
}

// LoadAuthority reads what NewAuthority made.
func LoadAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load internal CA: %w", err)
	}
	root, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("load internal CA: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !root.IsCA {
		return nil, errors.New("load internal CA: not a root certificate with an ECDSA key")
	}
	return &Authority{
		root:    root,
		rootPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}),
		key:     key,
		now:     time.Now,
		leaves:  make(map[string]*tls.Certificate),
	}, nil
}

// RootPEM returns the root certificate, for people to install. It is not secret.
func (a *Authority) RootPEM() []byte { return append([]byte(nil), a.rootPEM...) }

// Expires is when the root ends, and with it everything that it certified.
func (a *Authority) Expires() time.Time { return a.root.NotAfter }

// Certificate returns a certificate for name, a normalised host name or IP
// literal. The caller decides which names are worth one.
func (a *Authority) Certificate(name string) (*tls.Certificate, error) {
	a.mu.RLock()
	leaf := a.leaves[name]
	a.mu.RUnlock()
	if leaf != nil && a.now().Add(leafRenewal).Before(leaf.Leaf.NotAfter) {
		return leaf, nil
	}
	v, err, _ := a.issuing.Do(name, func() (any, error) { return a.issue(name) })
	if err != nil {
		return nil, err
	}
	return v.(*tls.Certificate), nil
}

func (a *Authority) issue(name string) (*tls.Certificate, error) {
	a.mu.RLock()
	leaf := a.leaves[name]
	a.mu.RUnlock()
	now := a.now()
	if leaf != nil && now.Add(leafRenewal).Before(leaf.Leaf.NotAfter) {
		return leaf, nil // another call made it while this one was on its way
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key for %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(name) <= 64 { // the longest common name (RFC 5280, appendix A.1)
		template.Subject.CommonName = name
	}
	if template.NotAfter.After(a.root.NotAfter) {
		template.NotAfter = a.root.NotAfter
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", name, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", name, err)
	}
	leaf = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.leaves) >= maxLeaves {
		for other := range a.leaves { // any one: it is made anew when asked for
			delete(a.leaves, other)
			break
		}
	}
	a.leaves[name] = leaf
	return leaf, nil
}

// serial is a random serial number of 127 bits (RFC 5280, section 4.1.2.2).
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// keyID is the subject key identifier (RFC 7093, section 2, method 1).
func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	raw, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode root key: %w", err)
	}
	sum := sha256.Sum256(raw)
	return sum[:20], nil
}
