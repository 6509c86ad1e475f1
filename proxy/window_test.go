package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

// TestWindowsAgainstModel compares windows with a list of all that passed: never
// more than the limit in one span, and nothing refused that had room in a span
// that is one slot longer.
func TestWindowsAgainstModel(t *testing.T) {
	for range 200 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWindows()
		span := []time.Duration{time.Second, time.Minute, 5 * time.Minute, time.Hour}[rng.IntN(4)]
		longest := (windowSlots + 1) * (&window{span: span}).slot()
		limit := 1 + rng.IntN(20)
		keys := []windowKey{{1, netip.MustParseAddr("192.0.2.1")}, {2, netip.MustParseAddr("192.0.2.1")}, {1, netip.MustParseAddr("2001:db8::")}}
		passed := make(map[windowKey][]time.Time)
		now := w.epoch
		within := func(list []time.Time, d time.Duration) (n int) {
			for _, at := range list {
				if now.Sub(at) < d {
					n++
				}
			}
			return n
		}
		for step := range 400 {
			now = now.Add(time.Duration(rng.ExpFloat64() * float64(span) / float64(limit) / 4))
			if rng.IntN(100) == 0 {
				now = now.Add(2 * span)
			}
			key := keys[rng.IntN(len(keys))]
			peeked, could := w.peek(key, limit, span, now)
			wait, ok := w.take(key, limit, span, now)
			if could != ok || peeked != wait {
				t.Fatalf("seed %d, step %d: peek says %v %v, take %v %v", seed, step, could, peeked, ok, wait)
			}
			switch {
			case ok && within(passed[key], span) >= limit:
				t.Fatalf("seed %d, step %d: %d passed within %v already", seed, step, limit, span)
			case !ok && within(passed[key], longest) < limit:
				t.Fatalf("seed %d, step %d: refused with room", seed, step)
			case !ok && (wait <= 0 || wait > longest):
				t.Fatalf("seed %d, step %d: wait %v", seed, step, wait)
			}
			if !ok {
				if _, could := w.peek(key, limit, span, now.Add(wait)); !could {
					t.Fatalf("seed %d, step %d: no room after the wait of %v", seed, step, wait)
				}
				if rng.IntN(4) == 0 {
					now = now.Add(wait)
				}
			} else if rng.IntN(8) == 0 {
				w.giveBack(key)
			} else {
				passed[key] = append(passed[key], now)
			}
		}
	}
}

func TestWindowsAtOnce(t *testing.T) {
	w := newWindows()
	key := windowKey{1, netip.MustParseAddr("192.0.2.1")}
	const limit = 500
	var passed atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 100 {
				if _, ok := w.take(key, limit, time.Hour, time.Now()); ok {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := passed.Load(); n != limit {
		t.Errorf("%d passed", n)
	}
}

// TestWindowsAreBounded floods a table with addresses.
func TestWindowsAreBounded(t *testing.T) {
	w := newWindows()
	size := func() (n int) {
		for i := range w.shards {
			n += len(w.shards[i].m)
		}
		return n
	}
	refused := 0
	flood := func(n int, now time.Time) {
		for i := range n {
			addr := netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)})
			if _, ok := w.take(windowKey{1, addr}, 10, time.Minute, now); !ok {
				refused++
			}
		}
	}
	worst := windowKey{1, netip.MustParseAddr("192.0.2.1")}
	for range 10 {
		w.take(worst, 10, time.Minute, w.epoch)
	}
	flood(2*maxWindows, w.epoch)
	if n := size(); n > maxWindows || refused > 0 {
		t.Errorf("%d windows, %d newcomers refused", n, refused)
	}
	if _, ok := w.take(worst, 10, time.Minute, w.epoch); ok {
		t.Error("the flood has cleared who was at the limit")
	}
	flood(maxWindows, w.epoch.Add(3*time.Minute)) // everyone of before is idle
	if refused > maxWindows/100 {
		t.Errorf("%d refused for those that are gone", refused)
	}
	for range 100 { // a trickle of clients clears the table
		flood(1000, w.epoch.Add(time.Hour))
	}
	small := newWindows()
	for i := range 200_000 {
		addr := netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)})
		small.take(windowKey{1, addr}, 1, time.Second, small.epoch.Add(time.Duration(i)*10*time.Millisecond))
	}
	n := 0
	for i := range small.shards {
		n += len(small.shards[i].m)
	}
	if n > 2000 { // 100 clients a second, whose windows last two at most
		t.Errorf("%d windows are kept for 200 busy clients", n)
	}
}

// TestLimitOutlivesConfig commits between requests.
func TestLimitOutlivesConfig(t *testing.T) {
	s := newRig(t, Config{})
	cfg := gated(netip.MustParseAddrPort("127.0.0.1:1"), RouteOptions{RateLimit: &model.RateLimit{Requests: 3, Window: time.Hour}})
	pass := func(addr string) bool {
		g := s.srv.snapshot.Load().routes[1].gates
		v := &visit{srv: s.srv, addr: netip.MustParseAddr(addr), at: time.Now()}
		return g[len(g)-1].check(v) == nil
	}
	for i := range 4 {
		s.commit(cfg)
		cfg.Routes[0].Target.PeerName = fmt.Sprint("changed ", i)
		if got := pass("2001:db8::1"); got != (i < 3) {
			t.Errorf("request %d passes: %v", i, got)
		}
	}
	if pass("2001:db8::2") {
		t.Error("another address of the same /64 has a limit of its own")
	}
	if !pass("2001:db8:0:1::1") {
		t.Error("another /64 has none")
	}
}

func BenchmarkWindows(b *testing.B) {
	w := newWindows()
	key := windowKey{1, netip.MustParseAddr("192.0.2.1")}
	b.ReportAllocs()
	for b.Loop() {
		w.take(key, 100_000, time.Second, time.Now())
	}
}
