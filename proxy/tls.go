package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/http2"

	"gatecontrol/model"
)

// acmeProtocol is what an authority asks for that looks for the answer to a
// challenge in our handshake (RFC 8737).
const acmeProtocol = "acme-tls/1"

// tlsPolicy is the policy of a door that speaks protos: TLS 1.2 and 1.3, AEAD
// suites with forward secrecy, hybrid key agreement where the client has it
// (crypto/tls prefers X25519MLKEM768 by itself). Certificates are looked up by
// name for every handshake. Session tickets are sealed with keys of this Config,
// also where configFor has another one used, and crypto/tls makes and rotates
// those keys; so it must be used itself, not copied for each connection.
func (s *Server) tlsPolicy(protos ...string) *tls.Config {
	policy := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all AEAD
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: protos,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.opts.Certificate(s.nameOf(hello))
		},
	}
	d := &tlsDoor{srv: s, policy: policy}
	d.unknown = policy.Clone()
	d.unknown.GetCertificate = nil
	d.unknown.SessionTicketsDisabled = true
	d.challenge = d.unknown.Clone()
	d.challenge.NextProtos = []string{acmeProtocol}
	policy.GetConfigForClient = d.configFor
	return policy
}

// tlsDoor decides about the handshakes of one door.
type tlsDoor struct {
	srv       *Server
	policy    *tls.Config
	unknown   *tls.Config // ends the handshake: nobody serves that name
	challenge *tls.Config // of an authority that checks whether a name is ours
}

// configFor returns what a handshake goes by; nil is the policy itself.
//
// A handshake for a name that nobody serves is ended with the alert
// unrecognized_name, which crypto/tls sends when there is no certificate at all.
// It is ended here, not in GetCertificate, which a resumed session skips.
func (d *tlsDoor) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeProtocol {
		return d.answer(hello), nil
	}
	name := d.srv.nameOf(hello)
	if name == "" {
		return d.unknown, nil
	}
	if r := d.srv.snapshot.Load().hosts[name]; r != nil && r.clientAuth != nil && hello.ServerName != "" {
		return r.clientAuth.config(d.policy), nil
	}
	return nil, nil
}

// answer is for an authority: the certificate that proves that we hold the name,
// or none if no order for it is running (RFC 8737, section 3).
func (d *tlsDoor) answer(hello *tls.ClientHelloInfo) *tls.Config {
	name, ok := model.NormalizeHost(hello.ServerName)
	if !ok || d.srv.opts.ChallengeCertificate == nil {
		return d.unknown
	}
	cert := d.srv.opts.ChallengeCertificate(name)
	if cert == nil {
		return d.unknown
	}
	cfg := d.challenge.Clone()
	cfg.Certificates = []tls.Certificate{*cert}
	return cfg
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
	c.born = time.Now()
	c.records = &recordWriter{socket: c.sock}
	t := tls.Server(c.records, c.srv.tls)
	c.Conn = t
	_ = c.sock.SetReadDeadline(time.Now().Add(c.srv.limits.handshake))
	if err := t.Handshake(); err != nil {
		return false
	}
	state := t.ConnectionState()
	c.name, _ = model.NormalizeHost(state.ServerName)
	if state.NegotiatedProtocol == http2.NextProtoTLS {
		c.h2.Store(newH2conn(c))
	}
	return state.NegotiatedProtocol != acmeProtocol // which ends with the handshake
}

// tlsDialer speaks TLS to backends.
type tlsDialer struct{ config *tls.Config }

func newTLSDialer(proto string) tlsDialer {
	return tlsDialer{&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // see Target.TLS
		NextProtos:         []string{proto},
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
