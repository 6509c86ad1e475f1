package model

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a certificate that is brought. Chains have two or three members of
// about 2 KiB.
const (
	MaxCertificateSize = 64 << 10 // of the chain, and of the key, in PEM
	maxChain           = 10
	maxCertNames       = 100 // what public authorities allow
	minRSABits         = 2048
	maxRSABits         = 8192 // each handshake pays for it; crypto/tls takes no more either
)

// Certificate is one that an administrator brought. It is shown for every name
// that it covers, and wins over those that the server gets by itself.
type Certificate struct {
	ID        CertificateID `json:"id"`
	Names     []string      `json:"names"` // that it covers, normalised; one may begin with "*."
	Chain     string        `json:"chain"` // PEM, the leaf first
	Key       Sealed        `json:"key"`   // PEM
	Issuer    string        `json:"issuer"`
	NotBefore time.Time     `json:"not_before"`
	NotAfter  time.Time     `json:"not_after"`
	CreatedAt time.Time     `json:"created_at"`
}

// DNSZone says how names of a DNS zone are proven to an authority through its
// records (RFC 8555, section 8.4), and so without anybody reaching this server.
type DNSZone struct {
	Zone     string            `json:"zone"`     // normalised
	Provider string            `json:"provider"` // one of DNSProviders
	Settings map[string]string `json:"settings,omitempty"`
	Secrets  Sealed            `json:"secrets,omitempty"` // JSON object of texts
	// Wildcard has the names one label below the zone share one certificate.
	Wildcard  bool      `json:"wildcard"`
	UpdatedAt time.Time `json:"updated_at"`
}

// CertState is the state of the certificate of a name.
type CertState string

// The states of the certificate of a name.
const (
	CertValid    CertState = "valid"    // of a public authority
	CertPending  CertState = "pending"  // not there yet; the internal one is shown
	CertFailed   CertState = "failed"   // not there, and the last attempt failed
	CertInternal CertState = "internal" // of the internal authority, as it shall be
	CertUploaded CertState = "uploaded"
)

// CertStatus is what is known of the certificate that one name shows.
type CertStatus struct {
	Name    string // normalised host name or address
	Subject string // of the certificate: Name, or the wildcard that it shares
	State   CertState
	Issuer  string // as people know it

	NotBefore, NotAfter time.Time // zero: there is none yet
	NextRenewal         time.Time // the next attempt; zero: none is needed
	LastError, Advice   string    // of the last attempt, in plain words; empty if it was fine
	Failures            int       // attempts in a row that failed
	Expired             bool      // a public certificate is there, and is over
}

// Covers reports whether a certificate with the given names is good for host,
// both normalised. A wildcard stands for one label (RFC 6125, section 6.4.3).
func Covers(names []string, host string) bool {
	_, parent, dotted := strings.Cut(host, ".")
	for _, n := range names {
		if n == host || dotted && len(n) > 2 && n[:2] == "*." && n[2:] == parent {
			return true
		}
	}
	return false
}

// ParseCertificate reads a chain and its key, both in PEM, and returns them with
// the names that they cover. An error names certificate, private_key, or both.
func ParseCertificate(chain, key string, now time.Time) (*tls.Certificate, []string, error) {
	var bad Invalids
	cert, names, err := parseServerChain(chain, now)
	bad.AddError(err)
	private, err := readKey(key)
	bad.AddError(err)
	if err := bad.Err(); err != nil {
		return nil, nil, err
	}
	// What openssl makes without being told otherwise calls itself an authority, and
	// is good for a server that has its key.
	own := matches(cert.Leaf.PublicKey, private)
	switch {
	case cert.Leaf.IsCA && cert.Leaf.BasicConstraintsValid && (!own || len(names) == 0):
		return nil, nil, Invalid("certificate", "the first certificate is one of an authority; the one of the server comes first")
	case len(names) == 0:
		return nil, nil, Invalid("certificate", "the certificate covers no name")
	case !own:
		return nil, nil, Invalid("private_key", "the key does not belong to the certificate")
	}
	cert.PrivateKey = private
	return cert, names, nil
}

// parseServerChain also checks what can be told without the key.
func parseServerChain(text string, now time.Time) (*tls.Certificate, []string, error) {
	cert, err := parseChain(text)
	if err != nil {
		return nil, nil, err
	}
	leaf := cert.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return nil, nil, Invalid("certificate", "the certificate expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		return nil, nil, Invalid("certificate", "the certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.DateTime))
	case len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return nil, nil, Invalid("certificate", "the certificate is not one for servers")
	}
	return cert, certNames(leaf), nil
}

// parseChain reads the certificates of a chain and checks that each is issued by
// the next.
func parseChain(text string) (*tls.Certificate, error) {
	if len(text) > MaxCertificateSize {
		return nil, Invalid("certificate", "must be at most %d bytes", MaxCertificateSize)
	}
	cert := new(tls.Certificate)
	var last *x509.Certificate
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, Invalid("certificate", "must hold certificates alone; there is a %s in it", pemType(block.Type))
		}
		parsed, err := ReadCertificate(block.Bytes)
		if err != nil {
			return nil, Invalid("certificate", "certificate %d of the chain %s", len(cert.Certificate)+1, err)
		}
		if last == nil {
			cert.Leaf = parsed
		} else if last.CheckSignatureFrom(parsed) != nil {
			return nil, Invalid("certificate", "certificate %d of the chain did not issue the one before it", len(cert.Certificate)+1)
		}
		if cert.Certificate = append(cert.Certificate, block.Bytes); len(cert.Certificate) > maxChain {
			return nil, Invalid("certificate", "must be a chain of at most %d certificates", maxChain)
		}
		last = parsed
	}
	if last == nil {
		return nil, Invalid("certificate", "must be a certificate in PEM, followed by those that issued it")
	}
	return cert, nil
}

// ReadCertificate parses one certificate that somebody brought. What is wrong with it
// goes behind "the certificate". To check a signature of an RSA key takes a time that
// grows with the square of its length: minutes for one that fills a request.
func ReadCertificate(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	if k, ok := cert.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSABits {
		return nil, fmt.Errorf("has an RSA key of more than %d bits", maxRSABits)
	}
	return cert, nil
}

// pemType shows only what is known, so that nothing else is repeated.
func pemType(t string) string {
	if strings.HasSuffix(t, "PRIVATE KEY") {
		return "private key"
	}
	return "block of another kind"
}

// certNames returns the names of a certificate that a host can have.
func certNames(leaf *x509.Certificate) []string {
	var names []string
	for _, n := range leaf.DNSNames {
		prefix := ""
		if rest, ok := strings.CutPrefix(n, "*."); ok {
			prefix, n = "*.", rest
		}
		if host, ok := NormalizeHost(n); ok && HostPort([]byte(n)) == 0 {
			names = append(names, prefix+host)
		}
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) > maxCertNames {
		names = names[:maxCertNames]
	}
	return names
}

// readKey reads a key in PEM: PKCS #8, PKCS #1 or SEC 1.
func readKey(text string) (crypto.Signer, error) {
	if len(text) > MaxCertificateSize {
		return nil, Invalid("private_key", "must be at most %d bytes", MaxCertificateSize)
	}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, Invalid("private_key", "must be a private key in PEM")
		}
		if block.Type == "EC PARAMETERS" { // some programs write it before the key
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, Invalid("private_key", "the key has a password; bring it without")
		}
		key, err := readKeyBytes(block.Bytes)
		if err != nil {
			return nil, Invalid("private_key", "the key cannot be read")
		}
		if k, ok := key.(*rsa.PrivateKey); ok && (k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits) {
			return nil, Invalid("private_key", "an RSA key must have %d to %d bits, not %d", minRSABits, maxRSABits, k.N.BitLen())
		}
		return key, nil
	}
}

func readKeyBytes(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		switch key := key.(type) {
		case *rsa.PrivateKey:
			return key, nil
		case *ecdsa.PrivateKey:
			return key, nil
		case ed25519.PrivateKey:
			return key, nil
		}
		return nil, errors.New("a key of another kind")
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParseECPrivateKey(der)
}

func matches(public crypto.PublicKey, key crypto.PrivateKey) bool {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return false
	}
	own, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && own.Equal(public)
}
