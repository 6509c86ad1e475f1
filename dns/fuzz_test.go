package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzHandle feeds packets of strangers to the handler. Whatever comes in,
// what goes out is a well-formed answer to it that fits.
func FuzzHandle(f *testing.F) {
	s, err := New(Options{Log: quiet, Zone: zone})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	p, err := s.Prepare(exampleConfig())
	if err != nil {
		f.Fatal(err)
	}
	p.Commit()
	hit, err := sift(answerWith(question("www.example.org", dns.TypeA), 0, exampleA), s.now())
	if err != nil {
		f.Fatal(err)
	}
	s.cache.put([]byte("\x03www\x07example\x03org\x00\x00\x01\x00"), hit)

	for _, name := range []string{"nas.gc.internal", "NAS", "x.gc.internal", "app.example.com", "5.0.8.10.in-addr.arpa", "www.example.org", "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeSOA, dns.TypeANY, dns.TypeAXFR} {
			m := question(name, kind)
			b, _ := m.Pack()
			f.Add(b)
			m.SetEdns0(512, true)
			b, _ = m.Pack()
			f.Add(b)
		}
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		out, later := s.handle(in, nil, client{addr: netip.IPv4Unspecified(), udp: &udpServer{s, noSocket{}, nil}})
		if later || out == nil {
			return
		}
		if len(out) > udpSize || len(out) > dns.MinMsgSize && !hasOPT(in) {
			t.Fatalf("%d bytes", len(out))
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil {
			t.Fatalf("%v: %x", err, out)
		}
		if !m.Response || m.Id != binary.BigEndian.Uint16(in) {
			t.Fatalf("not an answer: %v", m)
		}
	})
}

// noSocket takes answers that come later.
type noSocket struct{ net.PacketConn }

func (noSocket) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

func hasOPT(in []byte) bool {
	var q query
	q.parse(in)
	return q.edns
}

// FuzzUpstream feeds what upstreams send to the parts that read it.
func FuzzUpstream(f *testing.F) {
	asked := question("www.example.org", dns.TypeA)
	asked.Id = 1
	for _, rrs := range [][]string{
		{exampleA}, {exampleSOA}, {"@ 60 IN CNAME a.example.org.", "a.example.org. 1 IN A 127.0.0.1"},
		{"@ 60 IN HTTPS 1 . ipv4hint=192.0.2.1"}, {"example.org. 60 IN DNAME example.net.", "@ 60 IN CNAME www.example.net."},
	} {
		b, _ := answerWith(asked, 0, rrs...).Pack()
		f.Add(b)
	}
	var q query
	b, _ := asked.Pack()
	q.parse(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		r := readAnswer(in, asked)
		if r == nil {
			return
		}
		c, err := sift(r, 0)
		if err != nil {
			return
		}
		for _, tcp := range []bool{false, true} {
			m := new(dns.Msg)
			if err := m.Unpack(c.answer(nil, &q, tcp, c.ttl/2)); err != nil {
				t.Fatal(err)
			}
			for _, rr := range m.Answer {
				if leadsAstray(rr) {
					t.Fatalf("passed on: %v", rr)
				}
			}
		}
	})
}
