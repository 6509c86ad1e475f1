package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// TestH2Spec runs the conformance cases of h2spec, the strict ones included,
// against the TLS port. They send no SNI, so what they see is an admin host.
func TestH2Spec(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // an early answer would make what follows late
		fmt.Fprint(w, "hello, world")
	})
	r := newRig(t, Config{AdminHosts: []string{"127.0.0.1"}}, func(o *Options, _ *limits) {
		o.DialAdmin = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr.String())
		}
	})
	at := netip.MustParseAddrPort(r.tls)
	c := &config.Config{
		Host: at.Addr().String(), Port: int(at.Port()), Path: "/", Timeout: time.Second,
		MaxHeaderLen: 4000, Strict: true, TLS: true, Insecure: true,
	}
	cases := 0
	var run func(*testing.T, *spec.TestGroup)
	run = func(t *testing.T, g *spec.TestGroup) {
		for i, tc := range append(g.Tests, g.StrictTests...) {
			cases++
			t.Run(fmt.Sprintf("%s/%d", g.ID(), i+1), func(t *testing.T) {
				conn, err := spec.Dial(c)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := tc.Run(c, conn); err != nil {
					t.Errorf("%s\n%s\n%v", tc.Desc, tc.Requirement, err)
				}
			})
		}
		for _, sub := range g.Groups {
			run(t, sub)
		}
	}
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		run(t, g)
	}
	t.Logf("%d cases", cases)
}
