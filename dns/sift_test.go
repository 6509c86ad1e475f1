package dns

import (
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestSift(t *testing.T) {
	for _, tt := range []struct {
		name    string
		kind    uint16
		records []string
		want    []string
		ns      int
	}{
		{"chain", dns.TypeA, []string{"@ 60 IN CNAME a.example.org.", "A.example.org. 60 IN CNAME b.example.org.", "b.example.org. 60 IN A 192.0.2.9"},
			[]string{"a.example.org.", "b.example.org.", "192.0.2.9"}, 0},
		{"chain in any order", dns.TypeA, []string{"b.example.org. 60 IN A 192.0.2.9", "@ 60 IN CNAME b.example.org."},
			[]string{"b.example.org.", "192.0.2.9"}, 0},
		{"loop", dns.TypeA, []string{"@ 60 IN CNAME www.example.org."}, nil, 0},
		{"stowaways", dns.TypeA, []string{exampleA, "bank.example. 60 IN A 203.0.113.1", "@ 60 IN TXT x"}, []string{"192.0.2.1"}, 0},
		{"loopback", dns.TypeA, []string{exampleA, "@ 60 IN A 127.0.0.53"}, []string{"192.0.2.1"}, 0},
		{"only loopback", dns.TypeA, []string{"@ 60 IN A 127.0.0.1"}, nil, 0},
		{"unspecified", dns.TypeA, []string{"@ 60 IN A 0.0.0.0"}, nil, 0},
		{"this network", dns.TypeA, []string{"@ 60 IN A 0.1.2.3"}, nil, 0},
		{"link-local", dns.TypeA, []string{"@ 60 IN A 169.254.169.254"}, nil, 0},
		{"private passes", dns.TypeA, []string{"@ 60 IN A 192.168.1.5"}, []string{"192.168.1.5"}, 0},
		{"IPv6 loopback", dns.TypeAAAA, []string{"@ 60 IN AAAA ::1"}, nil, 0},
		{"IPv6 unspecified", dns.TypeAAAA, []string{"@ 60 IN AAAA ::"}, nil, 0},
		{"IPv6 link-local", dns.TypeAAAA, []string{"@ 60 IN AAAA fe80::1"}, nil, 0},
		{"mapped loopback", dns.TypeAAAA, []string{"@ 60 IN AAAA ::ffff:127.0.0.1"}, nil, 0},
		{"compatible loopback", dns.TypeAAAA, []string{"@ 60 IN AAAA ::127.0.0.1"}, nil, 0},
		{"IPv6 passes", dns.TypeAAAA, []string{"@ 60 IN AAAA 2001:db8::1"}, []string{"2001:db8::1"}, 0},
		{"hint", dns.TypeHTTPS, []string{"@ 60 IN HTTPS 1 . ipv4hint=127.0.0.1"}, nil, 0},
		{"no hint", dns.TypeHTTPS, []string{"@ 60 IN HTTPS 1 . alpn=h2"}, []string{`1 . alpn="h2"`}, 0},
		{"SOA", dns.TypeA, []string{exampleSOA}, nil, 1},
		{"SOA of a stranger", dns.TypeA, []string{strings.Replace(exampleSOA, "example.org.", "example.net.", 1)}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := newResolver(t, records(0, tt.records...))
			r := start(t, exampleConfig(), nil, up.addr)
			m := r.ask(t, "udp", question("www.example.org", tt.kind))
			if tt.name == "loop" {
				if len(m.Answer) > maxChain {
					t.Fatalf("got %v", m)
				}
				return
			}
			if m.Rcode != 0 || !reflect.DeepEqual(answered(m), tt.want) || len(m.Ns) != tt.ns || len(m.Extra) != 0 {
				t.Fatalf("got %v", m)
			}
		})
	}
}
