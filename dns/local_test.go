package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gatecontrol/model"
)

func TestLocalAnswers(t *testing.T) {
	up := newResolver(t, records(dns.RcodeSuccess, "@ 60 IN TXT forwarded"))
	r := start(t, exampleConfig(), nil, up.addr)
	for _, tt := range []struct {
		name  string
		kind  uint16
		rcode int
		want  []string
		soa   string // owner of the SOA, if there is to be one
	}{
		{name: "nas.gc.internal", kind: dns.TypeA, want: []string{"10.8.0.5"}},
		{name: "NAS.gc.Internal", kind: dns.TypeA, want: []string{"10.8.0.5"}},
		{name: "nas", kind: dns.TypeA, want: []string{"10.8.0.5"}},
		{name: "web.nas.gc.internal", kind: dns.TypeA, want: []string{"10.8.0.7"}},
		{name: "gateway.gc.internal", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "server", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "app.example.com", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "admin.example.com", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "wiki.gc.internal", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "1.0.8.10.in-addr.arpa", kind: dns.TypePTR, want: []string{"gateway.gc.internal."}},
		{name: "5.0.8.10.in-addr.arpa", kind: dns.TypePTR, want: []string{"nas.gc.internal."}},
		{name: "gc.internal", kind: dns.TypeNS, want: []string{"gateway.gc.internal."}},

		{name: "nas.gc.internal", kind: dns.TypeAAAA, soa: "gc.internal."},
		{name: "nas", kind: dns.TypeAAAA, soa: "nas."},
		{name: "app.example.com", kind: dns.TypeAAAA, soa: "app.example.com."},
		{name: "app.example.com", kind: dns.TypeHTTPS, soa: "app.example.com."},
		{name: "app.example.com", kind: dns.TypeSVCB, soa: "app.example.com."},
		{name: "wiki.gc.internal", kind: dns.TypeTXT, soa: "gc.internal."},
		{name: "gc.internal", kind: dns.TypeA, soa: "gc.internal."},
		{name: "0.8.10.in-addr.arpa", kind: dns.TypePTR, soa: "10.in-addr.arpa."}, // names below it
		{name: "10.in-addr.arpa", kind: dns.TypeA, soa: "10.in-addr.arpa."},

		{name: "other.gc.internal", kind: dns.TypeA, rcode: dns.RcodeNameError, soa: "gc.internal."},
		{name: "a.b.c.gc.internal", kind: dns.TypeMX, rcode: dns.RcodeNameError, soa: "gc.internal."},
		{name: "below.nas.gc.internal", kind: dns.TypeA, rcode: dns.RcodeNameError, soa: "gc.internal."},
		{name: "9.0.8.10.in-addr.arpa", kind: dns.TypePTR, rcode: dns.RcodeNameError, soa: "10.in-addr.arpa."},
		{name: "1.1.168.192.in-addr.arpa", kind: dns.TypePTR, rcode: dns.RcodeNameError, soa: "168.192.in-addr.arpa."},
		{name: "1.1.31.172.in-addr.arpa", kind: dns.TypePTR, rcode: dns.RcodeNameError, soa: "31.172.in-addr.arpa."},
		{name: "1.1.100.100.in-addr.arpa", kind: dns.TypePTR, rcode: dns.RcodeNameError, soa: "100.100.in-addr.arpa."},
		{name: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", kind: dns.TypePTR, rcode: dns.RcodeNameError, soa: "d.f.ip6.arpa."},
		{name: "foo.localhost", kind: dns.TypeA, rcode: dns.RcodeNameError, soa: "localhost."},
		{name: "use-application-dns.net", kind: dns.TypeA, soa: "use-application-dns.net."},
		{name: "printer2", kind: dns.TypeA, rcode: dns.RcodeNameError},
		{name: "web.nas", kind: dns.TypeTXT, want: []string{`"forwarded"`}}, // not a bare name

		{name: "app.example.com", kind: dns.TypeTXT, want: []string{`"forwarded"`}},
		{name: "www.app.example.com", kind: dns.TypeTXT, want: []string{`"forwarded"`}},
		{name: "notgc.internal", kind: dns.TypeTXT, want: []string{`"forwarded"`}},
		{name: "1.1.32.172.in-addr.arpa", kind: dns.TypeTXT, want: []string{`"forwarded"`}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprint(tt.name, " ", dns.TypeToString[tt.kind], " ", network), func(t *testing.T) {
				before := up.queries.Load()
				m := r.ask(t, network, question(tt.name, tt.kind))
				if m.Rcode != tt.rcode || !reflect.DeepEqual(answered(m), tt.want) || !m.RecursionAvailable {
					t.Fatalf("got %v", m)
				}
				if m.Question[0].Name != tt.name+"." {
					t.Errorf("question came back as %q", m.Question[0].Name)
				}
				soa := ""
				if len(m.Ns) > 0 {
					soa = m.Ns[0].(*dns.SOA).Hdr.Name
				}
				if soa != tt.soa {
					t.Errorf("SOA of %q, want %q", soa, tt.soa)
				}
				forwarded := len(tt.want) == 1 && tt.want[0] == `"forwarded"`
				if !forwarded && up.queries.Load() != before {
					t.Error("asked upstream")
				}
				if local := len(tt.want) > 0 || tt.soa != ""; local && m.Authoritative == forwarded {
					t.Error("the AA bit is wrong")
				}
			})
		}
	}
}

func TestLocalSurvivesWithoutUpstreams(t *testing.T) {
	for name, upstreams := range map[string][]string{"none": nil, "dead": {nobody(t)}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, exampleConfig(), nil, upstreams...)
			if m := r.ask(t, "udp", question("example.org", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
				t.Fatalf("got %v", m)
			}
			if m := r.ask(t, "udp", question("nas.gc.internal", dns.TypeA)); len(m.Answer) != 1 {
				t.Fatalf("got %v", m)
			}
		})
	}
}

func TestCommitAndAbort(t *testing.T) {
	r := start(t, Config{Address: tunnelAddr}, nil)
	p, err := r.Prepare(exampleConfig())
	if err != nil {
		t.Fatal(err)
	}
	rcode := func() int { return r.ask(t, "udp", question("nas.gc.internal", dns.TypeA)).Rcode }
	if rcode() != dns.RcodeNameError {
		t.Fatal("served before Commit")
	}
	p.Abort()
	if rcode() != dns.RcodeNameError {
		t.Fatal("served after Abort")
	}
	p.Commit()
	if rcode() != dns.RcodeSuccess {
		t.Fatal("not served after Commit")
	}
}

func TestPrepareRefuses(t *testing.T) {
	a, b := netip.MustParseAddr("10.8.0.5"), netip.MustParseAddr("10.8.0.6")
	long := strings.Repeat("x", 63)
	for _, tt := range []struct {
		name   string
		config Config
		kind   model.Kind
		field  string
	}{
		{"two addresses", Config{Records: []Record{{Name: "nas", Addr: a}, {Name: "NAS", Addr: b}}}, model.KindConflict, "hostname"},
		{"domain of a record", Config{Address: tunnelAddr, Records: []Record{{Name: "nas", Addr: a}}, Domains: []string{"nas.gc.internal"}}, model.KindConflict, "domain"},
		{"the zone itself", Config{Address: tunnelAddr, Domains: []string{"gc.internal"}}, model.KindConflict, "domain"},
		{"localhost", Config{Records: []Record{{Name: "localhost", Addr: a}}}, model.KindConflict, "hostname"},
		{"space", Config{Records: []Record{{Name: "my nas", Addr: a}}}, model.KindInvalid, "hostname"},
		{"empty", Config{Records: []Record{{Name: "", Addr: a}}}, model.KindInvalid, "hostname"},
		{"label too long", Config{Records: []Record{{Name: long + "x", Addr: a}}}, model.KindInvalid, "hostname"},
		{"name too long", Config{Records: []Record{{Name: long + "." + long + "." + long + "." + long[:59], Addr: a}}}, model.KindInvalid, "hostname"},
		{"IPv6 record", Config{Records: []Record{{Name: "nas", Addr: netip.MustParseAddr("fd00::1")}}}, model.KindInvalid, "ip"},
		{"no address", Config{Domains: []string{"app.example.com"}}, model.KindInvalid, "address"},
		{"domain", Config{Address: tunnelAddr, Domains: []string{"app..example.com"}}, model.KindInvalid, "domain"},
		{"TTL", Config{TTL: 48 * time.Hour}, model.KindInvalid, "ttl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := New(Options{Log: quiet, Zone: zone})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Prepare(tt.config)
			e, ok := err.(*model.Error)
			if !ok || e.Kind != tt.kind || e.Field != tt.field {
				t.Fatalf("got %v", err)
			}
		})
	}
	s, _ := New(Options{Log: quiet, Zone: zone})
	if _, err := s.Prepare(Config{Address: tunnelAddr, Records: []Record{{Name: "nas", Addr: a}, {Name: "nas", Addr: a}, {Name: "server", Addr: tunnelAddr}}, Domains: []string{"server.gc.internal", "a.example.com", "a.example.com"}}); err != nil {
		t.Errorf("the same said twice: %v", err)
	}
}

func TestConfigEqual(t *testing.T) {
	if !exampleConfig().Equal(exampleConfig()) {
		t.Error("equal configs differ")
	}
	for i, change := range []func(*Config){
		func(c *Config) { c.TTL = time.Second },
		func(c *Config) { c.Address = netip.Addr{} },
		func(c *Config) { c.Records[0].Name = "x" },
		func(c *Config) { c.Domains = nil },
	} {
		c := exampleConfig()
		change(&c)
		if c.Equal(exampleConfig()) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

// raw sends bytes and returns what comes back, nil for silence.
func (r running) raw(b []byte) []byte {
	out, _ := r.handle(b, nil, client{addr: tunnelAddr, udp: nil})
	return out
}

func TestProtocol(t *testing.T) {
	r := start(t, exampleConfig(), nil)
	pack := func(change func(m *dns.Msg)) []byte {
		m := question("nas.gc.internal", dns.TypeA)
		m.Id = 0xbeef
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	opt := func(version uint8, times int) func(m *dns.Msg) {
		return func(m *dns.Msg) {
			for range times {
				o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
				o.SetUDPSize(4096)
				o.SetVersion(version)
				o.SetDo()
				o.Option = append(o.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1122334455"})
				m.Extra = append(m.Extra, o)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		in    []byte
		rcode int // -1 is silence
	}{
		{"plain", pack(func(*dns.Msg) {}), dns.RcodeSuccess},
		{"EDNS", pack(opt(0, 1)), dns.RcodeSuccess},
		{"EDNS version 1", pack(opt(1, 1)), dns.RcodeBadVers},
		{"EDNS twice", pack(opt(0, 2)), dns.RcodeFormatError},
		{"an answer", pack(func(m *dns.Msg) { m.Response = true }), -1},
		{"short", []byte{1, 2, 3}, -1},
		{"empty", nil, -1},
		{"ANY", pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }), dns.RcodeNotImplemented},
		{"AXFR", pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
		{"IXFR", pack(func(m *dns.Msg) { m.SetIxfr("gc.internal.", 1, "a.", "b.") }), dns.RcodeRefused},
		{"CHAOS", pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"class ANY", pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"update", pack(func(m *dns.Msg) { m.SetUpdate("gc.internal.") }), dns.RcodeNotImplemented},
		{"notify", pack(func(m *dns.Msg) { m.SetNotify("gc.internal.") }), dns.RcodeNotImplemented},
		{"no question", pack(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		{"two questions", pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"question cut off", pack(func(*dns.Msg) {})[:20], dns.RcodeFormatError},
		{"type zero", pack(func(m *dns.Msg) { m.Question[0].Qtype = 0 }), dns.RcodeFormatError},
		{"compressed name", []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, dns.RcodeFormatError},
		{"answer section", pack(func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: 1, Class: 1}, A: make([]byte, 4)}}
		}), dns.RcodeFormatError},
		{"foreign name without recursion", pack(func(m *dns.Msg) { m.Question[0].Name, m.RecursionDesired = "example.org.", false }), dns.RcodeRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := r.raw(tt.in)
			if tt.rcode < 0 {
				if out != nil {
					t.Fatalf("answered %x", out)
				}
				return
			}
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil {
				t.Fatalf("%v: %x", err, out)
			}
			if m.Rcode != tt.rcode || m.Id != binary.BigEndian.Uint16(tt.in) {
				t.Fatalf("got %v", m)
			}
			if o := m.IsEdns0(); strings.HasPrefix(tt.name, "EDNS") {
				if o == nil || o.Version() != 0 || o.UDPSize() != udpSize || len(o.Option) != 0 {
					t.Fatalf("OPT: %v", o)
				}
				if tt.name == "EDNS" && !o.Do() {
					t.Fatal("DO is not copied")
				}
			} else if o != nil {
				t.Fatal("OPT was not asked for")
			}
		})
	}
}

// manyRecords is a full tunnel.
func manyRecords(n int) Config {
	c := exampleConfig()
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		c.Records = append(c.Records, Record{Name: fmt.Sprintf("peer-%d", i), Addr: a})
		c.Domains = append(c.Domains, fmt.Sprintf("app-%d.example.com", i))
	}
	return c
}

func TestManyRecords(t *testing.T) {
	r := start(t, manyRecords(10_000), nil)
	for i := 0; i < 10_000; i += 997 {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		m := r.ask(t, "udp", question(fmt.Sprintf("peer-%d.gc.internal", i), dns.TypeA))
		if got := answered(m); len(got) != 1 || got[0] != a.String() {
			t.Fatalf("got %v", m)
		}
		back, _ := dns.ReverseAddr(a.String())
		m = r.ask(t, "udp", question(back, dns.TypePTR))
		if got := answered(m); len(got) != 1 || got[0] != fmt.Sprintf("peer-%d.gc.internal.", i) {
			t.Fatalf("got %v", m)
		}
	}
}

// With IPv6 in the tunnel, names have an address of each family, and a reverse
// name for each.
func TestLocalAnswersIPv6(t *testing.T) {
	c := exampleConfig()
	c.Address6 = netip.MustParseAddr("fd00:8::1")
	c.Records = []Record{
		{Name: "gateway", Addr: tunnelAddr, Addr6: c.Address6},
		{Name: "nas", Addr: netip.MustParseAddr("10.8.0.5"), Addr6: netip.MustParseAddr("fd00:8::5")},
		{Name: "old", Addr: netip.MustParseAddr("10.9.0.5")},
	}
	r := start(t, c, nil, nobody(t))
	reverse := func(addr string) string {
		name, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(name, ".")
	}
	for _, tt := range []struct {
		name  string
		kind  uint16
		rcode int
		want  []string
	}{
		{name: "nas.gc.internal", kind: dns.TypeAAAA, want: []string{"fd00:8::5"}},
		{name: "nas.gc.internal", kind: dns.TypeA, want: []string{"10.8.0.5"}},
		{name: "nas", kind: dns.TypeAAAA, want: []string{"fd00:8::5"}},
		{name: "gateway", kind: dns.TypeAAAA, want: []string{"fd00:8::1"}},
		{name: "app.example.com", kind: dns.TypeAAAA, want: []string{"fd00:8::1"}},
		{name: "app.example.com", kind: dns.TypeA, want: []string{"10.8.0.1"}},
		{name: "wiki.gc.internal", kind: dns.TypeAAAA, want: []string{"fd00:8::1"}},
		{name: "old.gc.internal", kind: dns.TypeAAAA},
		{name: reverse("fd00:8::5"), kind: dns.TypePTR, want: []string{"nas.gc.internal."}},
		{name: reverse("fd00:8::1"), kind: dns.TypePTR, want: []string{"gateway.gc.internal."}},
		{name: reverse("fd00:8::9"), kind: dns.TypePTR, rcode: dns.RcodeNameError},
	} {
		t.Run(fmt.Sprint(tt.name, " ", dns.TypeToString[tt.kind]), func(t *testing.T) {
			m := r.ask(t, "udp", question(tt.name, tt.kind))
			if m.Rcode != tt.rcode || !reflect.DeepEqual(answered(m), tt.want) || !m.Authoritative {
				t.Fatalf("got %v", m)
			}
		})
	}
	for _, c := range []Config{
		{Address: tunnelAddr, Address6: tunnelAddr},
		{Address: tunnelAddr, Address6: netip.MustParseAddr("::ffff:10.8.0.1")},
		{Records: []Record{{Name: "nas", Addr: tunnelAddr, Addr6: tunnelAddr}}},
	} {
		if _, err := r.Prepare(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
