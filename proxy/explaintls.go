package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// maxExplainedChain bounds the certificates that a client is imagined to show.
const maxExplainedChain = 10

// explainHandshake asks what a handshake of c would be asked: the policy for the
// name, its certificate, and that of the client if there has to be one: the chain, or
// one that is in order if it has that. It tells why it passes, or why it fails.
func (s *Server) explainHandshake(c *imagined, chain []*x509.Certificate, has bool) (note, failure string) {
	hello := &tls.ClientHelloInfo{ServerName: c.name, Conn: c, SupportedProtos: []string{"http/1.1"}, SupportedVersions: []uint16{tls.VersionTLS13}}
	cfg, err := s.tls.GetConfigForClient(hello)
	if cfg == nil {
		cfg = s.tls
	}
	if err != nil || cfg.GetCertificate == nil {
		return "", "nobody serves this name, so the handshake ends with unrecognized_name"
	}
	if cert, err := cfg.GetCertificate(hello); err != nil || cert == nil {
		return "", "there is no certificate for this name"
	}
	note = "there is a certificate for the name, and the client needs none"
	if cfg.ClientAuth != tls.NoClientCert {
		switch {
		case len(chain) > 0:
			if failure = verifyClient(cfg, chain); failure != "" {
				return "", failure
			}
			note = "the certificate of the client is from an authority of the route; the client needs its key"
		case has:
			note = "the client is taken to have a certificate of an authority of the route"
		default:
			return "", "the client shows no certificate, and the route asks for one"
		}
	}
	c.born = time.Now()
	return note, ""
}

// readChain parses the certificates of a client, its own first.
func readChain(text string) (chain []*x509.Certificate, err error) {
	const field = "client_certificate"
	if len(text) > model.MaxCertificateSize {
		return nil, model.Invalid(field, "must be at most %d bytes", model.MaxCertificateSize)
	}
	for rest := []byte(strings.TrimSpace(text)); len(rest) > 0; rest = []byte(strings.TrimSpace(string(rest))) {
		var block *pem.Block
		switch block, rest = pem.Decode(rest); {
		case block == nil || block.Type != "CERTIFICATE":
			return nil, model.Invalid(field, "must be certificates in PEM, that of the client first, and no key")
		case len(chain) == maxExplainedChain:
			return nil, model.Invalid(field, "at most %d certificates", maxExplainedChain)
		}
		cert, err := model.ReadCertificate(block.Bytes)
		if err != nil {
			return nil, model.Invalid(field, "a certificate %s", err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// verifyClient goes by what crypto/tls goes by in a handshake with cfg; there is no
// handshake without the key.
func verifyClient(cfg *tls.Config, chain []*x509.Certificate) (failure string) {
	o := x509.VerifyOptions{Roots: cfg.ClientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case err == nil:
		return ""
	case isInvalid && invalid.Reason == x509.Expired:
		return "the certificate of the client has expired, or is not valid yet"
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		return "the certificate of the client is not for clients (extended key usage)"
	}
	return "the certificate of the client is not from an authority of the route"
}

// imagined is the client of a request that was never sent.
type imagined struct {
	net.Conn // nil: nothing is read or written
	addr     netip.Addr
	port     uint16
	secure   bool
	name     string
	local    netip.Addr // that it has connected to, if the URL says
	born     time.Time  // zero: its handshake has failed
}

var _ client = (*imagined)(nil)

func (c *imagined) Version() httpVersion { return version11 }
func (c *imagined) Address() netip.Addr  { return c.addr }
func (c *imagined) LocalPort() uint16    { return c.port }
func (c *imagined) Secure() bool         { return c.secure }
func (c *imagined) ServerName() string   { return c.name }
func (c *imagined) Born() time.Time      { return c.born }
func (c *imagined) Tally() *tally        { return new(tally) }
func (c *imagined) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.local, c.port))
}
func (c *imagined) RemoteAddr() net.Addr                  { return &net.TCPAddr{} }
func (c *imagined) Watch(func())                          {}
func (c *imagined) Unwatch()                              {}
func (c *imagined) Cork()                                 {}
func (c *imagined) Uncork() []byte                        { return nil }
func (c *imagined) Inform([]byte) error                   { return net.ErrClosed }
func (c *imagined) Keep(*backendConn) bool                { return false }
func (c *imagined) Kept() *pool                           { return nil }
func (c *imagined) TakeKept() *backendConn                { return nil }
func (c *imagined) TakeOver(*fasthttp.RequestCtx, func()) {}
func (c *imagined) Upgrade([]byte) error                  { return net.ErrClosed }
func (c *imagined) CloseWrite() error                     { return net.ErrClosed }
func (c *imagined) Cut()                                  {}
func (c *imagined) Kill()                                 {}
func (c *imagined) Reset()                                {}
