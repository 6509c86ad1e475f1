package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func packed(b *testing.B, name string) []byte {
	b.Helper()
	m := question(name, dns.TypeA)
	m.SetEdns0(1232, false)
	out, err := m.Pack()
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// BenchmarkHandle answers packets without a socket.
func BenchmarkHandle(b *testing.B) {
	up := newResolver(b, records(0, exampleA))
	r := start(b, manyRecords(10_000), nil, up.addr)
	r.ask(b, "udp", question("www.example.org", dns.TypeA))
	for name, host := range map[string]string{
		"local A":        "peer-5000.gc.internal",
		"route domain":   "app-5000.example.com",
		"no such name":   "missing.gc.internal",
		"cached forward": "www.example.org",
	} {
		b.Run(name, func(b *testing.B) {
			in, buf := packed(b, host), make([]byte, 0, udpSize)
			c := client{addr: tunnelAddr}
			b.ReportAllocs()
			for b.Loop() {
				if out, _ := r.handle(in, buf, c); out == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// BenchmarkUDP asks over a socket of loopback: one question after the other,
// and with 64 under way.
func BenchmarkUDP(b *testing.B) {
	r := start(b, manyRecords(10_000), nil)
	for _, window := range []int{1, 64} {
		b.Run(fmt.Sprintf("local A window %d", window), func(b *testing.B) {
			c, err := net.Dial("udp", r.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			in, out := packed(b, "peer-5000.gc.internal"), make([]byte, 2048)
			for range window - 1 {
				_, _ = c.Write(in)
			}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Write(in)
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := c.Read(out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkForwardMiss(b *testing.B) {
	up := newResolver(b, records(0, "@ 0 IN A 192.0.2.1"))
	r := start(b, exampleConfig(), nil, up.addr)
	in := packed(b, "www.example.org")
	var q query
	q.parse(in)
	b.ReportAllocs()
	for b.Loop() {
		if r.forward.resolve(&q, nil) == nil {
			b.Fatal("not resolved")
		}
	}
}

// BenchmarkPrepare renames one of 10,000 peers, and does so where nothing of the
// index before can be used.
func BenchmarkPrepare(b *testing.B) {
	for _, anew := range []bool{false, true} {
		b.Run(fmt.Sprintf("anew=%v", anew), func(b *testing.B) {
			s, err := New(Options{Log: quiet, Zone: zone})
			if err != nil {
				b.Fatal(err)
			}
			c := Config{Address: tunnelAddr}
			for i := range 10_000 {
				c.Records = append(c.Records, Record{Name: fmt.Sprintf("peer-%d", i), Addr: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})})
			}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				c.Records = slices.Clone(c.Records)
				c.Records[5000].Name = fmt.Sprintf("renamed-%d", n)
				if anew {
					c.TTL = time.Duration(1+n%2) * time.Minute
				}
				p, err := s.Prepare(c)
				if err != nil {
					b.Fatal(err)
				}
				p.Commit()
			}
		})
	}
}
