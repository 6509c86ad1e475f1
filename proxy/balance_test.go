package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
)

// named starts a backend that answers with its name and the cookies it got.
func named(t testing.TB, name string) netip.AddrPort {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, name)
		if c := r.Header.Get("Cookie"); c != "" {
			fmt.Fprint(w, " ", c)
		}
	})
}

// several is a Config of one route with backends of the given weights.
func several(weights []int, addrs ...netip.AddrPort) Config {
	cfg := site(addrs[0])
	cfg.Routes[0].Options = new(RouteOptions)
	for i, a := range addrs {
		cfg.Routes[0].Options.Backends = append(cfg.Routes[0].Options.Backends, Backend{Target{Addr: a}, weights[i]})
	}
	return cfg
}

// turns makes n requests and returns who answered them.
func turns(t testing.TB, c *http.Client, n int) string {
	t.Helper()
	var all strings.Builder
	for range n {
		resp, body := get(t, c, "https://app.test/")
		if resp.StatusCode == 502 {
			body = "!"
		}
		all.WriteString(body)
	}
	return all.String()
}

func TestBalance(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	for _, tt := range []struct {
		name    string
		weights []int
		want    string
	}{
		{"one", []int{7}, "aaaa"},
		{"equal", []int{5, 5, 5}, "abcabcabc"},
		{"weights are spread", []int{3, 1, 1}, "abacaabaca"},
		{"a small share", []int{1, 999}, "bbbbbbbb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				r := newRig(t, several(tt.weights, []netip.AddrPort{a, b, c}[:len(tt.weights)]...))
				if got := turns(t, via(r), len(tt.want)); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			})
		})
	}
}

// TestBalanceOutlivesChange changes something else between two turns.
func TestBalanceOutlivesChange(t *testing.T) {
	cfg := several([]int{1, 1, 1}, named(t, "a"), named(t, "b"), named(t, "c"))
	r := newRig(t, cfg)
	got := ""
	for i := range 6 {
		got += turns(t, r.client(), 1)
		cfg.Routes[0].ForceHTTPS = i%2 == 0
		r.commit(cfg)
	}
	if got != "abcabc" {
		t.Error(got)
	}
	cfg.Routes[0].Options = &RouteOptions{Backends: cfg.Routes[0].Options.Backends[1:]}
	r.commit(cfg)
	if got := turns(t, r.client(), 4); got != "bcbc" {
		t.Error(got)
	}
}

// switchboard is a Dial in which addresses can be made to fail. It counts.
type switchboard struct {
	mu    sync.Mutex
	down  map[netip.AddrPort]bool
	dials map[netip.AddrPort]int
}

func (s *switchboard) dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	s.mu.Lock()
	if s.dials == nil {
		s.dials = map[netip.AddrPort]int{}
	}
	s.dials[addr]++
	down := s.down[addr]
	s.mu.Unlock()
	if down {
		return nil, errors.New("no route to host")
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr.String())
}

func (s *switchboard) set(down ...netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = map[netip.AddrPort]bool{}
	for _, a := range down {
		s.down[a] = true
	}
}

func (s *switchboard) count(addr netip.AddrPort) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials[addr]
}

func TestPassiveHealth(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	var sw switchboard
	r := newRig(t, several([]int{1, 1}, a, b), func(o *Options, l *limits) {
		o.Dial = sw.dial
		l.rest = time.Hour
	})
	pools := r.srv.snapshot.Load().routes[1].balance.members
	sw.set(a)
	if got := turns(t, r.client(), 6); got != "!bbbbb" {
		t.Errorf("%s: a backend that cannot be dialed is passed by", got)
	}
	if n := sw.count(a); n != 1 {
		t.Errorf("dialed %d times", n)
	}
	// Its rest is over: one request tries it, at a price, and it rests again.
	pools[0].pool.rest.Store(1)
	if got := turns(t, r.client(), 4); strings.Count(got, "!") != 1 || sw.count(a) != 2 {
		t.Errorf("%s, dialed %d times", got, sw.count(a))
	}
	sw.set()
	pools[0].pool.rest.Store(1)
	if got := turns(t, r.client(), 6); strings.Count(got, "a") != 3 {
		t.Errorf("%s: it is back", got)
	}
}

// TestProbeConnects has a connection that still works to a backend that cannot be
// connected to: it does not count as well for that.
func TestProbeConnects(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	var sw switchboard
	r := newRig(t, several([]int{1, 1}, a, b), func(o *Options, l *limits) {
		o.Dial = sw.dial
		l.rest = time.Hour
	})
	if got := turns(t, r.client(), 4); got != "abab" { // both have a connection that is kept
		t.Fatal(got)
	}
	pool := r.srv.snapshot.Load().routes[1].balance.members[0].pool
	pool.rest.Store(1) // it failed, and its rest is over
	dials := sw.count(a)
	if got := turns(t, r.client(), 4); strings.Count(got, "a") != 2 || sw.count(a) != dials+1 || pool.rest.Load() != 0 {
		t.Errorf("%s, %d dials, rest %d", got, sw.count(a)-dials, pool.rest.Load())
	}
}

// TestOneProbe has many requests find a backend whose rest is over.
func TestOneProbe(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := newRig(t, several([]int{1, 1}, a, b), func(_ *Options, l *limits) { l.rest = time.Hour })
	bal := r.srv.snapshot.Load().routes[1].balance
	bal.members[0].pool.rest.Store(1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var got [2]int
	for i := range 64 {
		wg.Go(func() {
			n := 0
			if i%2 == 0 {
				n = bal.next(2, 0)
			} else {
				n = bal.random(2, 0)
			}
			mu.Lock()
			got[n]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if got[0] != 1 || got[1] != 63 {
		t.Errorf("chosen %v times", got)
	}
}

func TestAllDown(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	var sw switchboard
	r := newRig(t, several([]int{1, 1, 1}, a, b, c), func(o *Options, l *limits) {
		o.Dial = sw.dial
		l.rest = time.Hour
	})
	sw.set(a, b, c)
	if got := turns(t, r.client(), 6); got != "!!!!!!" {
		t.Error(got)
	}
	for _, addr := range []netip.AddrPort{a, b, c} {
		if n := sw.count(addr); n != 2 {
			t.Errorf("%v was dialed %d times: the one that failed longest ago is tried", addr, n)
		}
	}
	sw.set(b, c)
	if got := turns(t, r.client(), 3); got != "aaa" {
		t.Errorf("%s: a works again", got)
	}
}

func TestBackendsRefused(t *testing.T) {
	addr := netip.MustParseAddrPort("10.8.0.2:80")
	many := make([]Backend, model.MaxBackends+1)
	for i := range many {
		many[i] = Backend{Target{Addr: addr}, 1}
	}
	for _, tt := range []struct {
		name  string
		o     RouteOptions
		field string
	}{
		{"no weight", RouteOptions{Backends: []Backend{{Target{Addr: addr}, 1}, {Target{Addr: addr}, 0}}}, "backends[1].weight"},
		{"large weight", RouteOptions{Backends: []Backend{{Target{Addr: addr}, 1001}}}, "backends[0].weight"},
		{"no port", RouteOptions{Backends: []Backend{{Target{Addr: netip.AddrPortFrom(addr.Addr(), 0)}, 1}}}, "backends[0]"},
		{"too many", RouteOptions{Backends: many}, "backends"},
		{"cookie name", RouteOptions{Sticky: &model.Sticky{Cookie: "a b", TTL: time.Hour}}, "sticky_cookie_name"},
		{"cookie of the login", RouteOptions{Sticky: &model.Sticky{Cookie: "gc.sid", TTL: time.Hour}}, "sticky_cookie_name"},
		{"cookie without a life", RouteOptions{Sticky: &model.Sticky{Cookie: "a"}}, "sticky_cookie_ttl"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.o, tt.field) })
	}
}

// refused checks that a route with these options is refused, and for which field.
func refused(t *testing.T, o RouteOptions, field string) {
	t.Helper()
	cfg := site(netip.MustParseAddrPort("10.8.0.2:80"))
	cfg.Routes[0].Options = &o
	_, err := newRig(t, Config{}).srv.Prepare(cfg)
	var e *model.Error
	if !errors.As(err, &e) || e.Kind != model.KindInvalid || e.Field != field {
		t.Errorf("%v, want one of %s", err, field)
	}
}
