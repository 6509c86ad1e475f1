package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxInFlight bounds the questions under way to upstreams, each with a
	// goroutine and at most one socket; maxWaiting the clients that wait for
	// them. Whoever comes later gets SERVFAIL and asks again.
	maxInFlight = 1024
	maxWaiting  = 4096

	// attemptTimeout is the wait for one upstream, and forwardTimeout that for
	// all of them: resolvers of clients give up after five seconds.
	attemptTimeout = 1500 * time.Millisecond
	forwardTimeout = 4500 * time.Millisecond

	// staleAfter is the wait when there is a stale answer to give instead
	// (RFC 8767 section 5).
	staleAfter = 1800 * time.Millisecond
)

// forwarder asks upstreams and joins those who ask the same.
type forwarder struct {
	server    *Server
	upstreams []*upstream

	mu      sync.Mutex
	flights map[string]*flight // by cache key
	waiting int
}

// flight is one question under way.
type flight struct {
	waiters []waiter // guarded by forwarder.mu
}

// waiter is one query that waits for a flight.
type waiter struct {
	query  query
	client client
}

// submit makes c wait for the answer to q, of which stale may be an old one.
// It reports false if there is no room.
func (f *forwarder) submit(q *query, key []byte, stale *cached, c client) bool {
	w := waiter{query: *q, client: c}
	w.query.name = append([]byte(nil), q.name...)

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting >= maxWaiting {
		return false
	}
	fl := f.flights[string(key)]
	if fl == nil {
		if len(f.flights) >= maxInFlight || !f.server.begin() {
			return false
		}
		fl = new(flight)
		f.flights[string(key)] = fl
		// The flight works on a copy of the query, and ends with Close.
		go f.run(string(key), w.query, fl, stale)
	}
	fl.waiters = append(fl.waiters, w)
	f.waiting++
	return true
}

// run asks upstreams and answers everyone who waits.
func (f *forwarder) run(key string, q query, fl *flight, stale *cached) {
	s := f.server
	defer s.wg.Done()
	answer := f.resolve(&q, stale)
	if answer != nil && answer != stale {
		s.cache.put([]byte(key), answer)
	}
	f.mu.Lock()
	delete(f.flights, key)
	f.waiting -= len(fl.waiters)
	f.mu.Unlock() // nobody joins any more
	var buf []byte
	for i := range fl.waiters {
		w := &fl.waiters[i]
		s.limiter.done(w.client.addr)
		if answer == nil {
			buf = refuse(buf, &w.query, dns.RcodeServerFailure)
		} else {
			buf = s.fromCache(buf, answer, &w.query, w.client.tcp != nil)
		}
		w.client.send(buf)
	}
}

// resolve returns an answer, fresh or stale; nil if there is none.
func (f *forwarder) resolve(q *query, stale *cached) (answer *cached) {
	s := f.server
	answer = stale
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("forwarding ended by a fault", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	limit := forwardTimeout
	if stale != nil {
		limit = staleAfter
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	r, err := f.ask(ctx, q)
	if err != nil {
		s.log.Debug("not resolved", "err", err)
		return stale
	}
	fresh, err := sift(r, s.now())
	switch {
	case err != nil:
		return stale
	case fresh.ttl == 0 && r.Rcode != dns.RcodeSuccess && stale != nil && r.Rcode != dns.RcodeNameError:
		return stale // the upstream answers, but only that it cannot
	}
	return fresh
}

// ask tries the upstreams in order, those that failed lately last. One that
// answers that it cannot is passed over, but not held against it.
func (f *forwarder) ask(ctx context.Context, q *query) (*dns.Msg, error) {
	order := f.order(f.server.now())
	var second *dns.Msg
	err := errors.New("no upstream")
	for i := 0; i <= len(order) && len(order) > 0; i++ { // the first gets a second chance
		u := order[i%len(order)]
		if i == len(order) && second != nil {
			break
		}
		var r *dns.Msg
		r, err = f.attempt(ctx, u, q)
		if ctx.Err() != nil && r == nil {
			break
		}
		if err != nil {
			continue
		}
		if r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError {
			return r, nil
		}
		second = r
	}
	if second != nil {
		return second, nil
	}
	return nil, err
}

// attempt asks one upstream.
func (f *forwarder) attempt(ctx context.Context, u *upstream, q *query) (*dns.Msg, error) {
	s := f.server
	part, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	m, err := q.message()
	if err != nil {
		return nil, err
	}
	r, err := u.exchange(part, m)
	if err == nil && r.Rcode == dns.RcodeFormatError && len(m.Extra) > 0 {
		m.Extra = nil // it is from before EDNS (RFC 6891 section 7)
		r, err = u.exchange(part, m)
	}
	if err == nil {
		u.failedUntil.Store(0)
		return r, nil
	}
	if s.ctx.Err() == nil {
		if !u.failing(s.now()) {
			s.log.Warn("upstream does not answer", "upstream", u.name, "err", err)
		}
		u.failedUntil.Store(int64(s.now() + failMemory))
	}
	return nil, err
}

// order returns the upstreams, those that failed lately last.
func (f *forwarder) order(now time.Duration) []*upstream {
	if !slices.ContainsFunc(f.upstreams, func(u *upstream) bool { return u.failing(now) }) {
		return f.upstreams
	}
	order := slices.Clone(f.upstreams)
	slices.SortStableFunc(order, func(a, b *upstream) int {
		switch x, y := a.failing(now), b.failing(now); {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
	return order
}

// lost reports whether every upstream failed lately.
func (f *forwarder) lost(now time.Duration) bool {
	return !slices.ContainsFunc(f.upstreams, func(u *upstream) bool { return !u.failing(now) })
}

// message returns the question as it goes upstream, with what we can take and
// nothing of what the client said besides (RFC 6891 section 6.2.6).
func (q *query) message() (*dns.Msg, error) {
	name, _, err := dns.UnpackDomainName(q.key(), 0)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.RecursionDesired = true
	m.CheckingDisabled = q.bits&bitCD != 0
	m.Question = []dns.Question{{Name: name, Qtype: q.kind, Qclass: dns.ClassINET}}
	m.SetEdns0(udpSize, q.do)
	return m, nil
}

// notToSelf wraps dial so that it never ends at a tunnel address of our own.
func (s *Server) notToSelf(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		config := &s.index.Load().config
		self := func(a netip.Addr) bool {
			a = a.Unmap()
			return a.IsValid() && (a == config.Address || a == config.Address6)
		}
		if ap, err := netip.ParseAddrPort(addr); err == nil && self(ap.Addr()) {
			return nil, errToSelf
		}
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if self(addrPort(c.RemoteAddr()).Addr()) {
			_ = c.Close()
			return nil, errToSelf
		}
		return c, nil
	}
}

var errToSelf = errors.New("the upstream is this server")
