package api

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"

	"gatecontrol/model"
	"gatecontrol/store"
)

// fill stores n peers, as fast as the store takes them.
func (f *fixture) fill(b *testing.B, n int) {
	b.Helper()
	addr := netip.MustParseAddr("10.8.0.2")
	for done := 0; done < n; {
		f.update(b, func(tx *store.Tx) error {
			for i := 0; i < 1000 && done < n; i, done = i+1, done+1 {
				p := &model.Peer{
					Name: fmt.Sprint("peer ", done), Type: model.PeerRegular, Enabled: true, PublicKey: model.NewPrivateKey().Public(),
					AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Keepalive: 25, CreatedAt: start, UpdatedAt: start,
				}
				addr = addr.Next()
				if err := store.Peers.Insert(tx, p); err != nil {
					return err
				}
				f.status[p.PublicKey] = model.PeerStatus{PublicKey: p.PublicKey, AllowedIPs: p.AllowedIPs, LastHandshake: start}
			}
			return nil
		})
	}
}

func BenchmarkListPeers(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFixture(b, func(o *Options) { o.APILimit = 1 << 30 })
			f.fill(b, n)
			f.bench(b, "/api/v1/peers", "peers")
		})
	}
}

func BenchmarkStats(b *testing.B) {
	f := newFixture(b, func(o *Options) { o.APILimit = 1 << 30 })
	f.fill(b, 10_000)
	f.bench(b, "/api/v1/dashboard/stats", "read-only")
}

// BenchmarkGates is the cost of a request that does next to nothing: token,
// scope, limit, headers.
func BenchmarkGates(b *testing.B) {
	f := newFixture(b, func(o *Options) { o.APILimit = 1 << 30 })
	f.bench(b, "/api/v1/caddy/status", "system")
}

func (f *fixture) bench(b *testing.B, path, scope string) {
	b.Helper()
	header := f.token(b, scope).header
	handler := f.Handler()
	w := newRecorder()
	hr := httptest.NewRequest("GET", path, nil)
	hr.Host, hr.Header = "localhost", header
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		handler.ServeHTTP(w, hr)
		if w.status != 200 {
			b.Fatal(w.status)
		}
	}
}
