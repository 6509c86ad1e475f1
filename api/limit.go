package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"gatecontrol/model"
)

// limitWindow is the window of the rate limits.
const limitWindow = 15 * time.Minute

// maxWindows bounds what a limiter remembers. Beyond it a window is forgotten,
// one that has ended if there is one.
const maxWindows = 1 << 16

// limitKey is who is counted: a token, else an address (IPv6: its /64, which is
// what one client has).
type limitKey struct {
	token model.TokenID
	addr  netip.Addr
}

// limiter counts in fixed windows that begin with the first request.
type limiter struct {
	limit   int
	window  time.Duration
	refusal string // what is said beyond it
	now     func() time.Time

	mu      sync.Mutex
	windows map[limitKey]window
	swept   time.Time
}

type window struct {
	used int
	ends time.Time
}

func newLimiter(limit int, length time.Duration, now func() time.Time) *limiter {
	return &limiter{limit: limit, window: length, refusal: "too many requests; try again later", now: now, windows: make(map[limitKey]window)}
}

// take counts a request of k, or reports false if k has none left.
func (l *limiter) take(k limitKey) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	w, known := l.windows[k]
	if !known || !now.Before(w.ends) {
		if !known {
			l.makeRoomLocked(now)
		}
		w = window{ends: now.Add(l.window)}
	}
	allowed := w.used < l.limit
	if allowed {
		w.used++
	}
	l.windows[k] = w
	return allowed
}

// refund takes a counted request back.
func (l *limiter) refund(k limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.windows[k]; ok && w.used > 0 {
		w.used--
		l.windows[k] = w
	}
}

// headers tells the client where it stands (contract-admin section 3).
func (l *limiter) headers(h http.Header, k limitKey) {
	now := l.now()
	l.mu.Lock()
	w, ok := l.windows[k]
	l.mu.Unlock()
	if !ok || !now.Before(w.ends) {
		w = window{ends: now.Add(l.window)}
	}
	limit, left := strconv.Itoa(l.limit), strconv.Itoa(l.limit-w.used)
	reset := strconv.Itoa(seconds(w.ends.Sub(now)))
	h.Set("RateLimit-Limit", limit)
	h.Set("RateLimit-Remaining", left)
	h.Set("RateLimit-Reset", reset)
	h.Set("RateLimit-Policy", limit+";w="+strconv.Itoa(seconds(l.window)))
	h.Set("X-RateLimit-Limit", limit)
	h.Set("X-RateLimit-Remaining", left)
	h.Set("X-RateLimit-Reset", strconv.FormatInt(w.ends.Unix(), 10))
}

// retryAfter is how long k has to wait, in seconds.
func (l *limiter) retryAfter(k limitKey) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strconv.Itoa(max(seconds(l.windows[k].ends.Sub(l.now())), 1))
}

// seconds rounds up, so that whoever waits that long is not early.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// makeRoomLocked looks for ended windows at most once a second: with every
// window in use, a look at all of them frees none.
func (l *limiter) makeRoomLocked(now time.Time) {
	if len(l.windows) < maxWindows {
		return
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, w := range l.windows {
			if !now.Before(w.ends) {
				delete(l.windows, k)
			}
		}
	}
	for k := range l.windows {
		if len(l.windows) < maxWindows {
			return
		}
		delete(l.windows, k)
	}
}
