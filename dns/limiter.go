package dns

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// missesPerSecond is what one client may ask upstream; as much may come at
	// once after a quiet second. A page with a hundred names stays below.
	missesPerSecond = 200

	// maxWaitingPerClient keeps one client from filling maxWaiting while
	// upstreams do not answer.
	maxWaitingPerClient = 256

	// maxClients bounds what is remembered. The tunnel knows 10 000 peers at
	// most, and a client at rest for a second is forgotten.
	maxClients = 16384
)

// limiter counts what clients ask upstream.
type limiter struct {
	mu      sync.Mutex
	clients map[netip.Addr]*allowance
}

type allowance struct {
	left    float64 // tokens
	at      time.Duration
	waiting int
}

func newLimiter() *limiter { return &limiter{clients: make(map[netip.Addr]*allowance)} }

// take counts one cache miss of client, to be given back by done when it is
// answered. It reports false if the client has had its share.
func (l *limiter) take(client netip.Addr, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.clients[client]
	if a == nil {
		if len(l.clients) >= maxClients && !l.forgetLocked(now) {
			return false
		}
		a = &allowance{left: missesPerSecond, at: now}
		l.clients[client] = a
	}
	a.left = min(missesPerSecond, a.left+(now-a.at).Seconds()*missesPerSecond)
	a.at = now
	if a.left < 1 || a.waiting >= maxWaitingPerClient {
		return false
	}
	a.left--
	a.waiting++
	return true
}

func (l *limiter) done(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.clients[client]; a != nil {
		a.waiting--
	}
}

// forgetLocked drops the clients whose allowance is full again, and reports
// whether there were any.
func (l *limiter) forgetLocked(now time.Duration) bool {
	n := len(l.clients)
	for c, a := range l.clients {
		if a.waiting == 0 && now-a.at >= time.Second {
			delete(l.clients, c)
		}
	}
	return len(l.clients) < n
}
