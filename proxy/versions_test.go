package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// protocol is one HTTP version of the TLS port.
type protocol struct {
	name  string
	major int
	// transport reaches every name at the rig, over TLS alone.
	transport func(*rig) http.RoundTripper
}

// protocols are those that the proxy serves.
var protocols = []protocol{
	{"HTTP1", 1, transportHTTP1},
	{"HTTP2", 2, transportHTTP2},
	{"HTTP3", 3, transportHTTP3},
}

// forEachProtocol runs f for each HTTP version, as a subtest of its name. via
// makes a client of that version for a rig, which follows no redirect, adds no
// Accept-Encoding, and fails if an answer comes over another version. URLs are
// to be https. What a rig remembers (windows, counters) is shared by the
// versions unless f makes the rig.
func forEachProtocol(t *testing.T, f func(t *testing.T, via func(*rig) *http.Client)) {
	t.Helper()
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) { f(t, p.client) })
	}
}

func (p protocol) client(r *rig) *http.Client {
	return &http.Client{
		Transport:     sameVersion{p.transport(r), p.major},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// sameVersion keeps a test of one version from passing on another.
type sameVersion struct {
	http.RoundTripper
	major int
}

func (s sameVersion) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s is not https", req.URL)
	}
	resp, err := s.RoundTripper.RoundTrip(req)
	if err == nil && resp.ProtoMajor != s.major {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("answer over %s", resp.Proto)
	}
	return resp, err
}

func transportHTTP1(r *rig) http.RoundTripper {
	d := r.dialer()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, r.tls)
		},
		TLSClientConfig:    r.trust(),
		DisableCompression: true,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func transportHTTP2(r *rig) http.RoundTripper {
	tr := transportHTTP1(r).(*http.Transport)
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP2(true)
	return tr
}

func transportHTTP3(r *rig) http.RoundTripper {
	to, err := net.ResolveUDPAddr("udp", r.quic())
	if err != nil {
		r.t.Fatal(err)
	}
	from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if r.from != "" {
		from.IP = net.ParseIP(r.from)
	}
	pc, err := net.ListenUDP("udp", from)
	if err != nil {
		r.t.Fatal(err)
	}
	socket := &quic.Transport{Conn: pc}
	tr := &http3.Transport{
		TLSClientConfig: r.trust(),
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return socket.Dial(ctx, to, tc, qc)
		},
		DisableCompression: true,
	}
	r.t.Cleanup(func() {
		_ = tr.Close()
		_ = socket.Close()
		_ = pc.Close()
	})
	return tr
}

// quic returns where the rig speaks HTTP/3, and has it do so from the first call
// on: at the port of TLS. If somebody else has that, TLS moves.
func (r *rig) quic() string {
	r.t.Helper()
	r.udp.Do(func() {
		pc, err := net.ListenPacket("udp", r.tls)
		for try := 0; err != nil && try < 100; try++ {
			ln, lerr := net.Listen("tcp", "127.0.0.1:0")
			if lerr != nil {
				r.t.Fatal(lerr)
			}
			if pc, err = net.ListenPacket("udp", ln.Addr().String()); err != nil {
				_ = ln.Close()
				continue
			}
			r.tls = ln.Addr().String()
			r.serving.Go(func() {
				if err := r.srv.ServeTLS(ln); err != nil {
					r.t.Errorf("serve: %v", err)
				}
			})
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.packets = pc.LocalAddr().String()
		r.serving.Go(func() {
			if err := r.srv.ServePacket(pc); err != nil {
				r.t.Errorf("serve: %v", err)
			}
		})
	})
	return r.packets
}

// trust is the TLS configuration of a client that trusts the rig's authority.
func (r *rig) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.authority.RootPEM())
	return &tls.Config{RootCAs: pool}
}

func TestEveryVersion(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method, " ", r.RequestURI) })
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, site(addr))
		resp, body := get(t, via(r), "https://app.test/a?b")
		if resp.StatusCode != 200 || body != "GET /a?b" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	})
}
