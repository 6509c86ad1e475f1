package dns

import (
	"context"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	exampleA   = "@ 300 IN A 192.0.2.1"
	exampleSOA = "example.org. 900 IN SOA ns.example.org. hostmaster.example.org. 1 2 3 4 600"
)

func TestForwardAndCache(t *testing.T) {
	up := newResolver(t, records(dns.RcodeSuccess, exampleA))
	r := start(t, exampleConfig(), nil, up.addr)
	r.frozen.Store(true)
	for i, network := range []string{"udp", "tcp", "udp"} {
		m := question("www.Example.org", dns.TypeA)
		m.SetEdns0(4096, false)
		m = r.ask(t, network, m)
		if got := answered(m); len(got) != 1 || got[0] != "192.0.2.1" || m.Authoritative || !m.RecursionAvailable {
			t.Fatalf("got %v", m)
		}
		if m.Answer[0].Header().Name != "www.Example.org." {
			t.Errorf("spelling of the question is lost: %v", m)
		}
		if want := uint32(300 - 100*i); m.Answer[0].Header().Ttl != want {
			t.Errorf("TTL %d, want %d", m.Answer[0].Header().Ttl, want)
		}
		r.now.Add(int64(100 * time.Second))
	}
	if n := up.queries.Load(); n != 1 {
		t.Errorf("%d queries upstream, want 1", n)
	}
	r.now.Add(int64(10 * time.Second)) // 310 s
	if m := r.ask(t, "udp", question("www.example.org", dns.TypeA)); m.Answer[0].Header().Ttl != 300 {
		t.Errorf("expired, but TTL is %d", m.Answer[0].Header().Ttl)
	}
}

func TestWhatIsCached(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rcode   int
		records []string
		after   time.Duration
		queries int64 // in all, for one question now and one after
		want    int   // rcode
	}{
		{"positive", 0, []string{exampleA}, 299 * time.Second, 1, 0},
		{"expired", 0, []string{exampleA}, 300 * time.Second, 2, 0},
		{"a month is a day", 0, []string{"@ 2592000 IN A 192.0.2.1"}, 24*time.Hour - time.Second, 1, 0},
		{"and not more", 0, []string{"@ 2592000 IN A 192.0.2.1"}, 24 * time.Hour, 2, 0},
		{"TTL zero", 0, []string{"@ 0 IN A 192.0.2.1"}, 0, 2, 0},
		{"NXDOMAIN", 3, []string{exampleSOA}, 299 * time.Second, 1, 3},
		{"NXDOMAIN for five minutes", 3, []string{exampleSOA}, 300 * time.Second, 2, 3},
		{"no data", 0, []string{strings.Replace(exampleSOA, "600", "60", 1)}, 59 * time.Second, 1, 0},
		{"no data, minimum over", 0, []string{strings.Replace(exampleSOA, "600", "60", 1)}, 60 * time.Second, 2, 0},
		{"NXDOMAIN without SOA", 3, nil, 0, 2, 3},
		{"SERVFAIL", 2, nil, 0, 2, 2},
		{"REFUSED", 5, nil, 0, 2, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := newResolver(t, records(tt.rcode, tt.records...))
			r := start(t, exampleConfig(), nil, up.addr)
			r.frozen.Store(true)
			for range 2 {
				if m := r.ask(t, "udp", question("www.example.org", dns.TypeA)); m.Rcode != tt.want {
					t.Fatalf("got %v", m)
				}
				r.now.Add(int64(tt.after))
			}
			if n := up.queries.Load(); n != tt.queries {
				t.Fatalf("%d queries upstream, want %d", n, tt.queries)
			}
		})
	}
}

// A liar sends wrong ids, wrong questions, queries and garbage before the
// truth; each is ignored, and the wait goes on.
func TestLyingUpstream(t *testing.T) {
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		lie := func(change func(a *dns.Msg)) {
			a := answerWith(m, 0, "@ 300 IN A 203.0.113.66")
			change(a)
			_ = w.WriteMsg(a)
		}
		lie(func(a *dns.Msg) { a.Id++ })
		lie(func(a *dns.Msg) { a.Question[0].Name = "www.example.net." })
		lie(func(a *dns.Msg) { a.Question[0].Qtype = dns.TypeAAAA })
		lie(func(a *dns.Msg) { a.Question[0].Qclass = dns.ClassCHAOS })
		lie(func(a *dns.Msg) { a.Question = nil })
		lie(func(a *dns.Msg) { a.Response = false })
		lie(func(a *dns.Msg) { a.Opcode = dns.OpcodeStatus })
		_, _ = w.Write([]byte{1})
		_, _ = w.Write(append([]byte{byte(m.Id >> 8), byte(m.Id)}, make([]byte, 30)...))
		_ = w.WriteMsg(answerWith(m, 0, exampleA))
	})
	r := start(t, exampleConfig(), nil, up.addr)
	m := r.ask(t, "udp", question("www.example.org", dns.TypeA))
	if got := answered(m); !reflect.DeepEqual(got, []string{"192.0.2.1"}) {
		t.Fatalf("got %v", m)
	}
}

// A stranger that guesses the port is not heard, because the socket belongs to
// the upstream's address.
func TestQueriesUseFreshPortsAndIDs(t *testing.T) {
	var mu sync.Mutex
	ports, ids := map[string]bool{}, map[uint16]bool{}
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		mu.Lock()
		ports[w.RemoteAddr().String()], ids[m.Id] = true, true
		mu.Unlock()
		records(0, "@ 0 IN A 192.0.2.1")(w, m)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	for range 40 {
		r.ask(t, "udp", question("www.example.org", dns.TypeA))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) < 30 || len(ids) < 35 {
		t.Fatalf("%d ports and %d ids in 40 queries", len(ports), len(ids))
	}
}

func TestTruncationUpstreamAndDown(t *testing.T) {
	var rrs []string
	for i := range 100 {
		rrs = append(rrs, "@ 300 IN A 198.51.100."+big.NewInt(int64(i)).String())
	}
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		a := answerWith(m, 0, rrs...)
		if w.RemoteAddr().Network() == "udp" {
			a.Answer, a.Truncated = nil, true
		}
		_ = w.WriteMsg(a)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	if m := r.ask(t, "tcp", question("big.example.org", dns.TypeA)); len(m.Answer) != 100 || m.Truncated {
		t.Fatalf("tcp: %d records, truncated %v", len(m.Answer), m.Truncated)
	}
	for _, size := range []uint16{0, 600, 1232, 4096} {
		q := question("big.example.org", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		if m := r.ask(t, "udp", q); !m.Truncated || len(m.Answer) != 0 || (m.IsEdns0() != nil) != (size > 0) {
			t.Errorf("size %d: %v", size, m)
		}
	}
}

// What fits the client's size goes by UDP.
func TestUDPSize(t *testing.T) {
	var rrs []string
	for i := range 40 { // 12 + 21 + 40*16 bytes
		rrs = append(rrs, "@ 300 IN A 198.51.100."+big.NewInt(int64(i)).String())
	}
	up := newResolver(t, records(0, rrs...))
	r := start(t, exampleConfig(), nil, up.addr)
	for size, fits := range map[uint16]bool{0: false, 512: false, 1232: true, 4096: true} {
		q := question("mid.example.org", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		if m := r.ask(t, "udp", q); m.Truncated == fits || (len(m.Answer) == 40) != fits {
			t.Errorf("size %d: %d records, truncated %v", size, len(m.Answer), m.Truncated)
		}
	}
}

// A domain that only exists here is not reported as missing for other types.
func TestRouteDomainUnknownToThePublic(t *testing.T) {
	up := newResolver(t, records(dns.RcodeNameError, exampleSOA))
	r := start(t, exampleConfig(), nil, up.addr)
	if m := r.ask(t, "udp", question("app.example.com", dns.TypeMX)); m.Rcode != 0 || len(m.Answer) != 0 {
		t.Fatalf("got %v", m)
	}
}

func TestStale(t *testing.T) {
	up := newResolver(t, records(0, exampleA))
	r := start(t, exampleConfig(), nil, up.addr)
	r.frozen.Store(true)
	ask := func(name string) *dns.Msg { return r.ask(t, "udp", question(name, dns.TypeA)) }
	ask("www.example.org")
	ask("other.example.org")
	up.set(func(dns.ResponseWriter, *dns.Msg) {}) // silent
	r.now.Add(int64(301 * time.Second))
	begun := time.Now()
	m := ask("www.example.org")
	if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL {
		t.Fatalf("got %v", m)
	}
	if d := time.Since(begun); d < attemptTimeout {
		t.Fatalf("the upstream was not waited for: %v", d)
	}
	n := up.queries.Load()
	if m := ask("other.example.org"); len(m.Answer) != 1 || up.queries.Load() != n {
		t.Fatalf("a lost upstream was asked again, got %v", m)
	}
	up.set(records(dns.RcodeServerFailure))
	r.now.Add(int64(failMemory))
	if m := ask("www.example.org"); len(m.Answer) != 1 {
		t.Fatalf("upstream answers SERVFAIL: got %v", m)
	}
	up.set(records(0, "@ 300 IN A 192.0.2.77"))
	r.now.Add(int64(failMemory))
	if got := answered(ask("www.example.org")); len(got) != 1 || got[0] != "192.0.2.77" {
		t.Fatalf("upstream is back, got %v", got)
	}
	up.set(records(dns.RcodeServerFailure))
	r.now.Add(int64(staleFor + 301*time.Second))
	if m := ask("www.example.org"); m.Rcode != dns.RcodeServerFailure {
		t.Fatalf("too old to serve, got %v", m)
	}
}

func TestFailover(t *testing.T) {
	for name, broken := range map[string]func(dns.ResponseWriter, *dns.Msg){
		"silent":   func(dns.ResponseWriter, *dns.Msg) {},
		"refusing": records(dns.RcodeRefused),
		"failing":  records(dns.RcodeServerFailure),
	} {
		t.Run(name, func(t *testing.T) {
			first, second := newResolver(t, broken), newResolver(t, records(0, exampleA))
			r := start(t, exampleConfig(), nil, first.addr, second.addr)
			r.frozen.Store(true)
			for _, host := range []string{"a.example.org", "b.example.org"} {
				if m := r.ask(t, "udp", question(host, dns.TypeA)); len(m.Answer) != 1 {
					t.Fatalf("got %v", m)
				}
			}
			// One that does not answer is left alone for a while; one that
			// says no to a name may know the next.
			want := int64(2)
			if name == "silent" {
				want = 1
			}
			if n := first.queries.Load(); n != want {
				t.Errorf("the broken one was asked %d times, want %d", n, want)
			}
			r.now.Add(int64(failMemory))
			first.set(records(0, exampleA))
			r.ask(t, "udp", question("c.example.org", dns.TypeA))
			if n := first.queries.Load(); n != want+1 {
				t.Error("the first is not preferred again")
			}
		})
	}
}

// An upstream from before EDNS refuses the OPT record.
func TestUpstreamWithoutEDNS(t *testing.T) {
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if m.IsEdns0() != nil {
			records(dns.RcodeFormatError)(w, m)
			return
		}
		records(0, exampleA)(w, m)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	if m := r.ask(t, "udp", question("www.example.org", dns.TypeA)); len(m.Answer) != 1 {
		t.Fatalf("got %v", m)
	}
}

func TestIdenticalQuestionsAreJoined(t *testing.T) {
	release := make(chan struct{})
	up := newResolver(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		records(0, exampleA)(w, m)
	})
	r := start(t, exampleConfig(), nil, up.addr)
	var wg sync.WaitGroup
	for i := range 2 * maxConnsPerPeer {
		wg.Go(func() {
			network := [...]string{"udp", "tcp"}[i%2]
			if m := r.ask(t, network, question("www.example.org", dns.TypeA)); len(m.Answer) != 1 {
				t.Errorf("got %v", m)
			}
		})
	}
	waitFor(t, func() bool {
		r.forward.mu.Lock()
		defer r.forward.mu.Unlock()
		return r.forward.waiting == 2*maxConnsPerPeer
	})
	close(release)
	wg.Wait()
	if n := up.queries.Load(); n != 1 {
		t.Fatalf("%d queries upstream", n)
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time")
		}
	}
}

func TestNeverToOurselves(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	up := newResolver(t, records(0, exampleA))
	for _, upstream := range []string{up.addr, "tls://" + up.addr, "https://" + up.addr} {
		r := start(t, Config{Address: loopback}, nil, upstream)
		if m := r.ask(t, "udp", question("www.example.org", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %v", upstream, m)
		}
	}
	if n := up.queries.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

// Close ends what is under way.
func TestCloseWhileWaiting(t *testing.T) {
	asked := make(chan struct{}, 10)
	up := newResolver(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	s, err := New(Options{Log: quiet, Zone: zone, Upstreams: []string{up.addr}})
	if err != nil {
		t.Fatal(err)
	}
	pc, ln := listen(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(pc, ln) }()
	for _, network := range []string{"udp", "tcp"} {
		c, err := net.DialTimeout(network, pc.LocalAddr().String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		co := dns.Conn{Conn: c}
		if err := co.WriteMsg(question(network+".example.org", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		<-asked
	}
	begun := time.Now()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-served; err != nil || time.Since(begun) > 2*attemptTimeout {
		t.Fatalf("%v after %v", err, time.Since(begun))
	}
	pc, ln = listen(t)
	if err := s.Serve(pc, ln); err == nil {
		t.Fatal("serves after Close")
	}
}

func TestDialOption(t *testing.T) {
	up := newResolver(t, records(0, exampleA))
	var dialed atomic.Int64
	s, err := New(Options{Log: quiet, Zone: zone, Upstreams: []string{"192.0.2.53"},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if network != "udp" || addr != "192.0.2.53:53" {
				t.Errorf("dials %s %s", network, addr)
			}
			dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, network, up.addr)
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := query{kind: dns.TypeA}
	q.name = []byte("\x03www\x07example\x03org\x00")
	copy(q.lower[:], q.name)
	if a := s.forward.resolve(&q, nil); a == nil || dialed.Load() != 1 {
		t.Fatal("not resolved")
	}
}
