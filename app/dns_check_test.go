package app_test

import (
	"net"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// outside is a resolver of the world outside, on a loopback port.
func outside(t testing.TB, records map[string][]string) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, done := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		list, known := records[q.Question[0].Name]
		for _, text := range list {
			hdr := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}
			if q.Question[0].Qtype == dns.TypeA {
				a.Answer = append(a.Answer, &dns.A{Hdr: hdr, A: net.ParseIP(text)})
			}
		}
		if !known {
			a.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(a)
	})}
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return pc.LocalAddr().String()
}

// TestCheckDNS asks where domains lead. In the tunnel every route's domain leads
// to this server; what counts is what others see.
func TestCheckDNS(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	resolver := outside(t, map[string][]string{
		"vpn.example.com.": {"203.0.113.9"}, "here.example.com.": {"203.0.113.9"}, "there.example.com.": {"198.51.100.1", "198.51.100.2"},
	})
	s := lab.Start(t, func(o *app.Options) {
		o.WGHost, o.PublicResolvers = "vpn.example.com", []string{silent.LocalAddr().String(), resolver}
	})
	for _, domain := range []string{"here.example.com", "there.example.com"} {
		s.API.Call(t, 201, "POST", "/api/v1/routes", fields{"domain": domain, "target_ip": "198.51.100.7", "target_port": 80}, nil)
	}
	deaf := lab.Start(t, func(o *app.Options) {
		o.WGHost, o.PublicResolvers = "203.0.113.9", []string{silent.LocalAddr().String()}
	})
	for _, c := range []struct {
		name, domain string
		at           *lab.Server
		addrs        []string
		matches      bool
	}{
		{"here", "here.example.com", s, []string{"203.0.113.9"}, true},
		{"elsewhere", "there.example.com", s, []string{"198.51.100.1", "198.51.100.2"}, false},
		{"nowhere", "none.example.com", s, []string{}, false},
		{"nobody answers", "here.example.com", deaf, []string{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got struct {
				Matches, Resolves   *bool
				ResolvedIPs, Actual []string
				ExpectedIP          *string
				Expected            *string
			}
			c.at.API.Call(t, 200, "POST", "/api/v1/routes/check-dns", fields{"domain": c.domain}, &got)
			if got.Matches == nil || *got.Matches != c.matches || got.Resolves == nil || *got.Resolves != c.matches ||
				!slices.Equal(got.ResolvedIPs, c.addrs) || got.ResolvedIPs == nil || !slices.Equal(got.Actual, c.addrs) || got.Actual == nil ||
				got.ExpectedIP == nil || *got.ExpectedIP != "203.0.113.9" || got.Expected == nil || *got.Expected != "203.0.113.9" {
				t.Errorf("%+v", got)
			}
		})
	}
	for _, body := range []fields{{}, {"domain": nil}, {"domain": 7}, {"domain": []string{"here.example.com"}}, {"domain": "here_.example.com"}} {
		var refused struct{ Fields map[string]string }
		if s.API.Call(t, 400, "POST", "/api/v1/routes/check-dns", body, &refused); refused.Fields["domain"] == "" {
			t.Errorf("%v: %+v", body, refused)
		}
	}
}
