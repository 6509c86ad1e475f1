package api

import (
	"strconv"
	"testing"
	"time"

	"gatecontrol/model"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestAPILimit(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.APILimit = 3 })
	one, two, admin := f.token(t, "peers"), f.token(t, "peers"), f.admin(t)
	for _, as := range []*caller{one, two, admin} { // each has a count of its own
		for i := range 3 {
			w := as.do("GET", "/api/v1/peers", "")
			h := w.Header()
			left := itoa(2 - i)
			if w.Code != 200 || h.Get("RateLimit-Limit") != "3" || h.Get("RateLimit-Remaining") != left || h.Get("RateLimit-Policy") != "3;w=900" ||
				h.Get("RateLimit-Reset") != "900" || h.Get("X-RateLimit-Limit") != "3" || h.Get("X-RateLimit-Remaining") != left ||
				h.Get("X-RateLimit-Reset") != itoa(int(f.clock.now().Add(15*time.Minute).Unix())) {
				t.Fatalf("request %d: %d %v", i, w.Code, h)
			}
			// What fails does not count.
			if w := as.do("GET", "/api/v1/peers/999", ""); i < 2 && (w.Code != 404 || w.Header().Get("RateLimit-Remaining") != left) {
				t.Errorf("a failure after %d: %d, %s left", i, w.Code, w.Header().Get("RateLimit-Remaining"))
			}
		}
		w := as.do("GET", "/api/v1/peers", "")
		if w.Code != 429 || w.Header().Get("RateLimit-Remaining") != "0" || w.Header().Get("Retry-After") != "900" {
			t.Errorf("over the limit: %d %v", w.Code, w.Header())
		}
	}
	f.clock.advance(14*time.Minute + 59*time.Second + time.Millisecond)
	if w := one.do("GET", "/api/v1/peers", ""); w.Code != 429 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("a moment before the end: %d %v", w.Code, w.Header())
	}
	f.clock.advance(time.Second)
	one.call(t, 200, "GET", "/api/v1/peers", "")
}

func TestStrangersAreNotCounted(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.APILimit = 1 })
	for range 5 {
		w := f.anonymous().do("GET", "/api/v1/peers", "")
		if w.Code != 401 || w.Header().Get("RateLimit-Limit") != "" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
	}
	f.admin(t).call(t, 200, "GET", "/api/v1/peers", "") // from the same address
}

func TestLimiterIsBounded(t *testing.T) {
	at := &clock{at: start}
	l := newLimiter(1, time.Minute, at.now)
	for i := range maxWindows + 1000 {
		l.take(limitKey{token: model.TokenID(i + 1)})
	}
	if n := len(l.windows); n > maxWindows {
		t.Errorf("%d windows are remembered", n)
	}
	at.advance(2 * time.Minute)
	l.take(limitKey{token: 1 << 40})
	if n := len(l.windows); n > 2 {
		t.Errorf("%d windows are left although they have ended", n)
	}
}
