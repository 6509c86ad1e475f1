package proxy

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// TestClientCertificatesOfEveryVersion: the doors ask alike, a ticket is good for
// the host that gave it alone, and a connection from before the demand is refused.
func TestClientCertificatesOfEveryVersion(t *testing.T) {
	one := newTestCA(t, "one")
	cfg := mutual(t, map[string]*testCA{"one.test": one, "same.test": one})
	ann := one.client("ann")
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			r := newRig(t, cfg)
			cache := oneTicket{tls.NewLRUClientSessionCache(1)} // for all hosts
			// ask sends a request over a connection of its own.
			ask := func(host string, cert *tls.Certificate) (status int, resumed bool) {
				t.Helper()
				transport := p.transport(r)
				tc := clientConfig(t, transport)
				tc.InsecureSkipVerify, tc.ClientSessionCache = true, cache // see TestClientCertificateTickets
				if cert != nil {
					tc.Certificates = []tls.Certificate{*cert}
				}
				resp, err := (&http.Client{Transport: sameVersion{transport, p.major}}).Get("https://" + host + "/")
				if err != nil {
					return 0, false
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				return resp.StatusCode, resp.TLS.DidResume
			}
			if status, _ := ask("one.test", nil); status != 0 {
				t.Errorf("without a certificate: %d", status)
			}
			if status, _ := ask("one.test", newTestCA(t, "one").client("eve")); status != 0 {
				t.Errorf("with one of another authority: %d", status)
			}
			if status, resumed := ask("one.test", ann); status != 200 || resumed {
				t.Fatalf("with a certificate: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("one.test", ann); status != 200 || !resumed {
				t.Errorf("with a ticket: %d, resumed %v", status, resumed)
			}
			if status, resumed := ask("same.test", nil); status != 0 {
				t.Errorf("with a ticket of another host: %d, resumed %v", status, resumed)
			}

			before := newRig(t, mutual(t, nil))
			c := p.client(before)
			if resp, _ := get(t, c, "https://open.test/"); resp.StatusCode != 200 {
				t.Fatalf("before the demand: %d", resp.StatusCode)
			}
			after := mutual(t, nil)
			after.Routes[0].Options = &RouteOptions{ClientCA: one.pem}
			before.commit(after)
			if resp, _ := get(t, c, "https://open.test/"); resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("on a connection from before the demand: %d", resp.StatusCode)
			}
		})
	}
}

// clientConfig is the TLS configuration of a transport of this package's tests.
func clientConfig(t *testing.T, transport http.RoundTripper) *tls.Config {
	t.Helper()
	switch tr := transport.(type) {
	case *http.Transport:
		return tr.TLSClientConfig
	case *http3.Transport:
		return tr.TLSClientConfig
	}
	t.Fatalf("a %T is not known", transport)
	return nil
}
