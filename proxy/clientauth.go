package proxy

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

// clientAuth asks the clients of one host for a certificate. Whether there is
// one is decided in the handshake, and with the connection that this made every
// request stands or falls.
type clientAuth struct {
	host    string
	bundle  string // PEM, of the authorities
	roots   *x509.CertPool
	binding [sha256.Size]byte // of host and bundle
	// since is when the Config that asks for it was committed; nil: not yet.
	since atomic.Pointer[time.Time]
}

// newClientAuth reads the authorities of a host, nil if there are none. What prev
// asks in the same way is taken over, so that its connections stay good.
func newClientAuth(host, bundle string, prev *snapshot) (*clientAuth, error) {
	if bundle == "" {
		return nil, nil
	}
	if prev != nil {
		if r := prev.hosts[host]; r != nil && r.clientAuth != nil && r.clientAuth.bundle == bundle {
			return r.clientAuth, nil
		}
	}
	a := &clientAuth{host: host, bundle: bundle, roots: x509.NewCertPool()}
	a.binding = sha256.Sum256([]byte(host + "\x00" + bundle))
	for rest := []byte(bundle); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, model.Invalid("client_tls_ca", "%s: not a list of certificates in PEM", host)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, model.Invalid("client_tls_ca", "%s: a certificate cannot be read", host)
		}
		a.roots.AddCert(cert)
	}
	return a, nil
}

// config is policy with the demand for a certificate. A ticket of it can be used
// for the same host and authorities alone: crypto/tls would take one that was
// given to a client of another host whose authorities overlap.
func (a *clientAuth) config(policy *tls.Config) *tls.Config {
	cfg := policy.Clone()
	cfg.GetConfigForClient = nil
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.roots
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, a.binding[:])
		return policy.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := policy.DecryptTicket(ticket, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		if !slices.ContainsFunc(ss.Extra, func(e []byte) bool { return bytes.Equal(e, a.binding[:]) }) {
			return nil, nil // a full handshake then
		}
		return ss, nil
	}
	return cfg
}

// passed reports whether cl showed its certificate for this host. A connection
// without SNI was not asked, nor was one that is older than the demand.
func (a *clientAuth) passed(cl client) bool {
	since := a.since.Load()
	return cl.Secure() && cl.ServerName() == a.host && since != nil && cl.Born().After(*since)
}

// demandCertificates makes the demands of s count, once new handshakes see them.
func (s *snapshot) demandCertificates() {
	var now *time.Time
	for _, r := range s.routes {
		if r.clientAuth == nil || r.clientAuth.since.Load() != nil {
			continue
		}
		if now == nil {
			t := time.Now()
			now = &t
		}
		r.clientAuth.since.Store(now)
	}
}
