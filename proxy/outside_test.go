package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// TestOutside has a client with an address of the tunnel come in at doors of the host:
// it is no peer, and not served at all.
func TestOutside(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "for peers alone") })
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		for _, tt := range []struct {
			name, tunnel string
			served       bool
		}{
			{"of the tunnel", "127.0.0.0/24", false},
			{"of elsewhere", "10.8.0.0/24", true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				cfg := site(addr)
				cfg.Tunnel = []netip.Prefix{netip.MustParsePrefix(tt.tunnel)}
				r := newRig(t, cfg)
				r.from = "127.0.0.1"
				r.outside()
				resp, err := via(r).Get("https://app.test/")
				if err != nil {
					if tt.served {
						t.Error(err)
					}
					return
				}
				if body := readAll(t, resp); !tt.served {
					t.Errorf("%d %q", resp.StatusCode, body)
				}
			})
		}
	})
}

// outside opens doors of the host beside those that the rig has, and has clients come
// to them.
func (r *rig) outside() {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, serve := range []func() error{
		func() error { return r.srv.ServeTLS(Outside(ln)) },
		func() error { return r.srv.ServePacket(OutsidePacket(pc)) },
	} {
		r.serving.Go(func() {
			if err := serve(); err != nil {
				r.t.Errorf("serve: %v", err)
			}
		})
	}
	r.tls = ln.Addr().String()
	r.udp.Do(func() { r.packets = pc.LocalAddr().String() })
}
