package dns

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = "gc.internal"

var (
	tunnelAddr = netip.MustParseAddr("10.8.0.1")
	quiet      = slog.New(slog.DiscardHandler)
)

// exampleConfig is a small tunnel.
func exampleConfig() Config {
	return Config{
		Address: tunnelAddr,
		Records: []Record{
			{Name: "gateway", Addr: tunnelAddr}, {Name: "server", Addr: tunnelAddr}, {Name: "gc-server", Addr: tunnelAddr},
			{Name: "nas", Addr: netip.MustParseAddr("10.8.0.5")},
			{Name: "printer", Addr: netip.MustParseAddr("10.8.0.6")},
			{Name: "web.nas", Addr: netip.MustParseAddr("10.8.0.7")},
		},
		Domains: []string{"app.example.com", "Admin.Example.com.", "wiki.gc.internal"},
	}
}

// running is a server on loopback.
type running struct {
	*Server
	addr   string        // UDP and TCP
	now    *atomic.Int64 // nanoseconds, added to the time
	frozen *atomic.Bool  // only now counts
}

// start serves c until the end of the test. Time moves by what is added to now.
func start(t testing.TB, c Config, conf *tls.Config, upstreams ...string) running {
	t.Helper()
	if conf == nil {
		conf = new(tls.Config)
	}
	s, err := newServer(Options{Log: quiet, Zone: zone, Upstreams: upstreams}, conf)
	if err != nil {
		t.Fatal(err)
	}
	now, frozen, real := new(atomic.Int64), new(atomic.Bool), s.now
	s.now = func() time.Duration {
		if frozen.Load() {
			return time.Duration(now.Load())
		}
		return real() + time.Duration(now.Load())
	}
	p, err := s.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit()
	pc, ln := listen(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(pc, ln) }()
	waitFor(t, func() bool { // so that Close does not come before Serve
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.closers) > 0
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return running{s, pc.LocalAddr().String(), now, frozen}
}

// listen opens UDP and TCP on one port of loopback.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, ln
		}
		_ = pc.Close()
	}
	t.Fatal("no free port")
	return nil, nil
}

// ask sends m by "udp" or "tcp" with a client that is not ours.
func (r running) ask(t testing.TB, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 8 * time.Second, UDPSize: dns.MaxMsgSize}
	in, _, err := c.Exchange(m, r.addr)
	if err != nil {
		t.Fatalf("%s %v: %v", network, m.Question, err)
	}
	if in.Id != m.Id || !in.Response {
		t.Fatalf("not the answer: %v", in)
	}
	return in
}

func question(name string, kind uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
}

// resolver is an upstream in this process.
type resolver struct {
	addr    string
	queries atomic.Int64 // that came in

	mu      sync.Mutex
	answers func(w dns.ResponseWriter, m *dns.Msg)
}

// set replaces what the resolver does.
func (r *resolver) set(f func(w dns.ResponseWriter, m *dns.Msg)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = f
}

// ServeDNS implements dns.Handler.
func (r *resolver) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	r.queries.Add(1)
	r.mu.Lock()
	f := r.answers
	r.mu.Unlock()
	f(w, m)
}

// newResolver answers on UDP and TCP until the end of the test.
func newResolver(t testing.TB, f func(w dns.ResponseWriter, m *dns.Msg)) *resolver {
	t.Helper()
	pc, ln := listen(t)
	r := &resolver{addr: pc.LocalAddr().String(), answers: f}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: r}, {Listener: ln, Handler: r}} {
		serve(t, s)
	}
	return r
}

func serve(t testing.TB, s *dns.Server) {
	ready := make(chan struct{})
	s.NotifyStartedFunc = func() { close(ready) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe()
	}()
	<-ready
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
}

// records answers every question with rrs in presentation form; "@" stands for
// the name asked.
func records(rcode int, rrs ...string) func(dns.ResponseWriter, *dns.Msg) {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		_ = w.WriteMsg(answerWith(m, rcode, rrs...))
	}
}

func answerWith(m *dns.Msg, rcode int, rrs ...string) *dns.Msg {
	a := new(dns.Msg).SetRcode(m, rcode)
	a.RecursionAvailable = true
	for _, text := range rrs {
		if text[0] == '@' {
			text = m.Question[0].Name + text[1:]
		}
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if _, ok := rr.(*dns.SOA); ok {
			a.Ns = append(a.Ns, rr)
		} else {
			a.Answer = append(a.Answer, rr)
		}
	}
	return a
}

func nobody(t testing.TB) string {
	pc, ln := listen(t)
	defer pc.Close()
	defer ln.Close()
	return pc.LocalAddr().String()
}

// answered returns the data of all answers, without owners and TTLs.
func answered(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		out = append(out, rr.String()[len(rr.Header().String()):])
	}
	return out
}
