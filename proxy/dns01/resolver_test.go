package dns01

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// names is a DNS server of a table.
type names map[string][]string // by name and type, records in presentation format

func (n names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	known := false
	name := q.Question[0].Name
	for key, list := range n {
		at, kind, _ := strings.Cut(key, " ")
		known = known || at == name
		if at != name || dns.StringToType[kind] != q.Question[0].Qtype {
			continue
		}
		for _, text := range list {
			if text == "SERVFAIL" {
				a.Rcode = dns.RcodeServerFailure
				continue
			}
			as := kind
			if strings.Contains(text, ":") && kind == "A" {
				as = "AAAA" // nobody asked for it
			}
			rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", name, as, text))
			if err != nil {
				panic(err)
			}
			a.Answer = append(a.Answer, rr)
		}
	}
	if !known {
		a.Rcode = dns.RcodeNameError
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && len(a.Answer) > 3 {
		a.Answer, a.Truncated = nil, true
	}
	_ = w.WriteMsg(a)
}

func (n names) serve(t *testing.T) *Resolver {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: ln, Handler: n}, {PacketConn: pc, Handler: n}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return &Resolver{Servers: []string{"127.0.0.1:1", ln.Addr().String()}} // the first one is dead
}

func TestAddrs(t *testing.T) {
	r := names{
		"a.example.com. A":     {"192.0.2.1", "192.0.2.2"},
		"a.example.com. AAAA":  {"2001:db8::1"},
		"many.example.com. A":  {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"},
		"txt.example.com. TXT": {`"x"`}, "bad.example.com. A": {"SERVFAIL"}, "bad.example.com. AAAA": {"SERVFAIL"},
	}.serve(t)
	addr := netip.MustParseAddr
	if got, err := r.Addrs(t.Context(), "a.example.com"); err != nil || !slices.Equal(got, []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1")}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := r.Addrs(t.Context(), "many.example.com"); err != nil || len(got) != 5 {
		t.Errorf("cut over UDP: %v, %v", got, err)
	}
	for _, name := range []string{"none.example.com", "txt.example.com"} {
		if got, err := r.Addrs(t.Context(), name); !errors.Is(err, ErrNoName) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := r.Addrs(t.Context(), "bad.example.com"); err == nil || errors.Is(err, ErrNoName) {
		t.Errorf("a failure is taken for an answer: %v", err)
	}
}

// TestAtOnce: a resolver that never answers holds nothing up, and a name that one
// of them does not know is not there.
func TestAtOnce(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r := names{
		"a.example.com. A": {"2001:db8::2", "192.0.2.1"}, "a.example.com. AAAA": {"2001:db8::1"}, "bad.example.com. A": {"SERVFAIL"},
	}.serve(t)
	r.Servers = append([]string{silent.LocalAddr().String()}, r.Servers...)
	r.AtOnce = true
	ctx, cancel := context.WithTimeout(t.Context(), queryTime-time.Second) // one after the other would not do
	defer cancel()
	if got, err := r.Addrs4(ctx, "a.example.com"); err != nil || !slices.Equal(got, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := r.Addrs4(ctx, "none.example.com"); !errors.Is(err, ErrNoName) {
		t.Errorf("%v, %v", got, err)
	}
	// Nobody has an answer: then the time is waited for, and is not an answer either.
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := r.Addrs4(ctx, "bad.example.com"); err == nil || errors.Is(err, ErrNoName) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := (&Resolver{Servers: []string{"127.0.0.1:1"}, AtOnce: true}).Addrs4(t.Context(), "a.example.com"); err == nil {
		t.Errorf("from nobody: %v", got)
	}
}

func TestCAA(t *testing.T) {
	r := names{
		"example.com. CAA":      {`0 issue "letsencrypt.org; validationmethods=dns-01"`, `0 iodef "mailto:a@example.com"`},
		"sub.example.com. CAA":  {`0 issue "other.example"`, `0 issuewild "letsencrypt.org"`},
		"none.example.com. CAA": {`0 issue ";"`},
		"bad.example.com. CAA":  {"SERVFAIL"},
		"free.org. A":           {"192.0.2.1"},
	}.serve(t)
	le := []string{"letsencrypt.org"}
	for _, tt := range []struct {
		name, at string
		allowed  bool
	}{
		{"example.com", "example.com", true},
		{"a.b.example.com", "example.com", true},
		{"*.example.com", "example.com", true},
		{"x.sub.example.com", "sub.example.com", false},
		{"*.sub.example.com", "sub.example.com", true},
		{"none.example.com", "none.example.com", false},
		{"free.org", "", true},
		{"nobody.test", "", true},
	} {
		c, err := r.CAA(t.Context(), tt.name)
		if err != nil || c.At != tt.at || c.Allows(tt.name, le) != tt.allowed {
			t.Errorf("%s: %+v, %v", tt.name, c, err)
		}
	}
	if _, err := r.CAA(t.Context(), "bad.example.com"); err == nil {
		t.Error("a failure is taken for an answer")
	}
}
