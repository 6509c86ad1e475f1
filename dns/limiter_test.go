package dns

import (
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestMissesAreLimited(t *testing.T) {
	up := newResolver(t, records(0, exampleA))
	r := start(t, exampleConfig(), nil, up.addr)
	r.frozen.Store(true)
	codes := map[int]int{}
	for i := range missesPerSecond + 10 {
		codes[r.ask(t, "udp", question("n"+big.NewInt(int64(i)).String()+".example.org", dns.TypeA)).Rcode]++
	}
	if codes[0] != missesPerSecond || codes[dns.RcodeRefused] != 10 {
		t.Fatalf("got %v", codes)
	}
	for _, free := range []string{"n0.example.org", "nas.gc.internal"} {
		if m := r.ask(t, "udp", question(free, dns.TypeA)); len(m.Answer) != 1 {
			t.Fatalf("got %v", m)
		}
	}
}

func TestLimiter(t *testing.T) {
	l, a, b := newLimiter(), netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("10.8.0.3")
	take := func(c netip.Addr, n int, at time.Duration) (ok int) {
		for range n {
			if l.take(c, at) {
				ok++
				l.done(c)
			}
		}
		return ok
	}
	if n := take(a, 500, 0); n != missesPerSecond {
		t.Errorf("%d at once", n)
	}
	if n := take(a, 500, 100*time.Millisecond); n != missesPerSecond/10 {
		t.Errorf("%d after a tenth of a second", n)
	}
	if n := take(b, 500, 100*time.Millisecond); n != missesPerSecond {
		t.Errorf("%d for another client", n)
	}
	if n := take(a, 500, time.Hour); n != missesPerSecond {
		t.Errorf("%d after an hour", n)
	}
	waiting := 0
	for at := 2 * time.Hour; waiting <= maxWaitingPerClient && l.take(a, at); at += time.Second {
		waiting++
	}
	if waiting != maxWaitingPerClient {
		t.Errorf("%d may wait", waiting)
	}
	for i := range 3 * maxClients {
		at := 3*time.Hour + time.Duration(i)*time.Millisecond
		if c := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}); l.take(c, at) {
			l.done(c)
		}
	}
	if len(l.clients) > maxClients {
		t.Errorf("%d clients are remembered", len(l.clients))
	}
}
