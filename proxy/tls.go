package proxy

import (
	"gatecontrol/model"

	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// tlsConfig is the policy of the TLS port: TLS 1.2 and 1.3, AEAD suites with
// forward secrecy. Certificates are looked up by name for every handshake;
// session tickets are on, with keys that crypto/tls makes and rotates.
func (s *Server) tlsConfig() *tls.Config {
	known := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all AEAD
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.opts.Certificate(s.nameOf(hello))
		},
	}
	// A handshake for a name that nobody serves is ended with the alert
	// unrecognized_name, which crypto/tls sends when there is no certificate at
	// all. It is ended here, not in GetCertificate, which a resumed session skips.
	unknown := known.Clone()
	unknown.GetCertificate = nil
	unknown.SessionTicketsDisabled = true
	policy := known.Clone()
	policy.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s.nameOf(hello) == "" {
			return unknown, nil
		}
		return nil, nil // the policy itself
	}
	return policy
}

// nameOf is the name whose certificate a client is to see, empty if there is
// none: its SNI if that is served, or, without SNI, an admin host, the local
// address if that is one.
func (s *Server) nameOf(hello *tls.ClientHelloInfo) string {
	snap := s.snapshot.Load()
	if hello.ServerName != "" {
		name, ok := model.NormalizeHost(hello.ServerName)
		if !ok || snap.hosts[name] == nil {
			return ""
		}
		return name
	}
	if local := addrPort(hello.Conn.LocalAddr()).Addr().String(); snap.hosts[local] != nil {
		return local
	}
	return snap.adminHost
}

// handshake brings TLS up on a new connection. It reports false if that failed,
// which strangers cause all day, so it is not logged.
func (c *conn) handshake() bool {
	t := tls.Server(c.sock, c.srv.tls)
	c.Conn = t
	_ = c.sock.SetReadDeadline(time.Now().Add(c.srv.limits.handshake))
	if err := t.Handshake(); err != nil {
		return false
	}
	c.name, _ = model.NormalizeHost(t.ConnectionState().ServerName)
	return true
}

// tlsDialer speaks TLS to backends.
type tlsDialer struct{ config *tls.Config }

func newTLSDialer() tlsDialer {
	return tlsDialer{&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // see Target.TLS
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(256),
	}}
}

// wrap does the handshake on nc within ctx. It closes nc if it fails.
func (d tlsDialer) wrap(ctx context.Context, nc net.Conn, name string) (net.Conn, error) {
	cfg := d.config
	if _, err := netip.ParseAddr(name); err != nil {
		cfg = cfg.Clone()
		cfg.ServerName = name
	}
	t := tls.Client(nc, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return t, nil
}
