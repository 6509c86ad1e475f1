package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

// everyGate has all gates on, so that a client from the tunnel with the right
// credentials passes all of them.
func everyGate(tb testing.TB) RouteOptions {
	rules := make([]model.IPRule, maxIPRules)
	for i := range rules {
		rules[i] = model.IPRule{Type: model.RuleCIDR, Value: fmt.Sprintf("198.%d.%d.0/28", i/200, i%200)}
	}
	return RouteOptions{
		Internal: &model.BlockReply{Action: model.BlockNotFound}, ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}},
		Bots: &model.BotBlocker{Mode: model.BotBlock}, IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: rules},
		BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(tb, "right")},
		RateLimit: &model.RateLimit{Requests: 100_000, Window: time.Second},
	}
}

// gateVisit is a request of a peer to a route with options.
func gateVisit(tb testing.TB, o *RouteOptions) *visit {
	s, err := New(Options{
		Log: slog.New(slog.DiscardHandler), Certificate: testAuthority().Certificate,
		Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed },
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	cfg := gated(netip.MustParseAddrPort("127.0.0.1:1"), RouteOptions{})
	cfg.Routes[0].Options = o
	p, err := s.Prepare(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	p.Commit()
	ctx := new(fasthttp.RequestCtx)
	c := &imagined{addr: netip.MustParseAddr(peerTwo), secure: true}
	ctx.Init2(c, silent{}, true)
	text := "GET / HTTP/1.1\r\nHost: app.test\r\nAuthorization: Basic YWRhOnJpZ2h0\r\n\r\n"
	ctx.Request.Header.DisableNormalizing()
	if err := ctx.Request.Header.Read(newReader([]byte(text))); err != nil {
		tb.Fatal(err)
	}
	return &visit{srv: s, ctx: ctx, client: c, addr: c.addr, at: time.Now(), route: s.snapshot.Load().routes[1]}
}

// pass takes a visit through its gates.
func pass(tb testing.TB, v *visit) {
	for _, g := range v.route.gates {
		if d := g.check(v); d != nil {
			tb.Fatalf("%s: %s", g.name, d.reason)
		}
	}
}

// TestGatesDoNotAllocate: who passes costs no memory, whatever is on.
func TestGatesDoNotAllocate(t *testing.T) {
	all := everyGate(t)
	for name, o := range map[string]*RouteOptions{"off": nil, "on": &all} {
		v := gateVisit(t, o)
		if (len(v.route.gates) == 0) != (o == nil) {
			t.Errorf("%s: %d gates", name, len(v.route.gates))
		}
		pass(t, v) // the first one verifies the password
		if n := testing.AllocsPerRun(200, func() { pass(t, v) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkGates(b *testing.B) {
	all := everyGate(b)
	for _, bb := range []struct {
		name string
		o    *RouteOptions
	}{{"off", nil}, {"on", &all}} {
		b.Run(bb.name, func(b *testing.B) {
			v := gateVisit(b, bb.o)
			pass(b, v)
			b.ReportAllocs()
			for b.Loop() {
				v.at = v.at.Add(time.Millisecond)
				pass(b, v)
			}
		})
	}
}
