package dns

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"gatecontrol/model"
)

// Options is what a Server is built from.
type Options struct {
	Log *slog.Logger

	// Zone is the internal domain, "gc.internal".
	Zone string

	// Upstreams answer everything else, in this order of preference:
	// "1.1.1.1", "1.1.1.1:53", "tls://host[:853]" or "https://host/dns-query".
	// Without any, only local names resolve.
	Upstreams []string

	// Dial connects to upstreams from the host; nil is a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Server is the resolver. Its methods may be called at the same time.
type Server struct {
	log     *slog.Logger
	zone    string // wire name
	index   atomic.Pointer[index]
	cache   *cache
	forward *forwarder
	limiter *limiter
	now     func() time.Duration // monotonic; replaced by tests
	panics  atomic.Uint64

	ctx    context.Context // ends with Close; parent of what goes upstream
	cancel context.CancelFunc
	done   chan struct{} // closed by Close

	mu      sync.Mutex
	closers []func()       // what Serve has to close
	closed  bool           // no more begin
	wg      sync.WaitGroup // every goroutine; Add only through begin
}

// New checks o. The error is of KindInvalid and names the zone or the upstream
// that is wrong.
func New(o Options) (*Server, error) {
	return newServer(o, new(tls.Config))
}

// newServer is New with the TLS configuration for upstreams, which tests bring
// their own authority with.
func newServer(o Options, conf *tls.Config) (*Server, error) {
	if o.Log == nil {
		return nil, model.Failure(model.KindInternal, "dns: no logger")
	}
	zone, err := wireName("dns_domain", o.Zone)
	if err != nil {
		return nil, err
	}
	if len(zone) > 128 { // half of a name, so that names fit below it
		return nil, model.Invalid("dns_domain", "%q is too long for a zone", o.Zone)
	}
	dial := dialFunc(o.Dial)
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	start := time.Now()
	s := &Server{
		log:     o.Log.With("part", "dns"),
		zone:    zone,
		cache:   newCache(),
		limiter: newLimiter(),
		now:     func() time.Duration { return time.Since(start) },
		done:    make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.forward = &forwarder{server: s, flights: make(map[string]*flight)}
	for _, text := range o.Upstreams {
		u, err := parseUpstream(text, s.notToSelf(dial), conf)
		if err != nil {
			return nil, err
		}
		s.forward.upstreams = append(s.forward.upstreams, u)
	}
	empty, err := newIndex(zone, Config{}, 1)
	if err != nil {
		return nil, err
	}
	s.index.Store(empty)
	return s, nil
}

// Pending is a Config that is ready to be served.
type Pending struct {
	server *Server
	index  *index
}

// Prepare checks c and builds its index. The errors are of KindInvalid and
// KindConflict. What is being served does not change.
func (s *Server) Prepare(c Config) (*Pending, error) {
	serial := uint32(time.Now().Unix())
	x, ok := s.index.Load().with(s.zone, c, serial)
	if !ok {
		var err error
		if x, err = newIndex(s.zone, c, serial); err != nil {
			return nil, err
		}
	}
	return &Pending{s, x}, nil
}

// Commit serves the new Config from the next query on.
func (p *Pending) Commit() { p.server.index.Store(p.index) }

// Abort forgets the Config. There is nothing to give back.
func (p *Pending) Abort() {}

// Serve answers on a UDP and a TCP socket, both of the tunnel address, until
// Close, which closes them. It is called once and returns nil.
func (s *Server) Serve(pc net.PacketConn, ln net.Listener) error {
	u := newUDPServer(s, pc)
	t := newTCPServer(s, ln)
	if !s.begin() {
		u.close()
		t.close()
		return model.Failure(model.KindUnavailable, "the resolver has stopped")
	}
	defer s.wg.Done()
	s.onClose(u.close, t.close)
	var loops sync.WaitGroup
	for range udpReaders {
		loops.Go(u.readLoop)
	}
	loops.Go(t.acceptLoop)
	loops.Wait()
	return nil
}

// Close stops serving, drops what is under way and waits until all is gone.
func (s *Server) Close() error {
	s.mu.Lock()
	closers := s.closers
	s.closers = nil
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	s.mu.Unlock()
	s.cancel()
	for _, f := range closers {
		f()
	}
	s.wg.Wait()
	for _, u := range s.forward.upstreams {
		u.close()
	}
	return nil
}

// onClose registers what Close closes, or closes it if that was called already.
func (s *Server) onClose(closers ...func()) {
	s.mu.Lock()
	if !s.closed {
		s.closers = append(s.closers, closers...)
		closers = nil
	}
	s.mu.Unlock()
	for _, f := range closers {
		f()
	}
}

// begin announces a goroutine that Close waits for; it ends with wg.Done. It
// reports false after Close.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Add(1)
	}
	return !s.closed
}

// handle answers one packet in buf, which is grown if needed. If later is set,
// the answer comes through c.send; if not and it is nil, there is none. in is
// not kept.
func (s *Server) handle(in, buf []byte, c client) (answer []byte, later bool) {
	var q query
	rcode, ok := q.parse(in)
	if !ok {
		return nil, false
	}
	if rcode != 0 {
		return refuse(buf, &q, rcode), false
	}
	if answer, ok := s.index.Load().lookup(buf, &q); ok {
		return answer, false
	}
	if q.bits&bitRD == 0 {
		return refuse(buf, &q, dns.RcodeRefused), false // not ours, and we are not to ask
	}
	var k cacheKey
	key, now := q.cacheKey(&k), s.now()
	known := s.cache.get(key, now)
	if known != nil && (known.fresh(now) || s.forward.lost(now)) {
		return s.fromCache(buf, known, &q, c.tcp != nil), false
	}
	if !s.limiter.take(c.addr, now) {
		return refuse(buf, &q, dns.RcodeRefused), false
	}
	if !s.forward.submit(&q, key, known, c) {
		s.limiter.done(c.addr)
		return refuse(buf, &q, dns.RcodeServerFailure), false
	}
	return nil, true
}

// fromCache writes an upstream answer as the answer to q.
func (s *Server) fromCache(buf []byte, a *cached, q *query, tcp bool) []byte {
	out := a.answer(buf, q, tcp, s.now())
	if out[3]&rcodeMask == dns.RcodeNameError && s.index.Load().has(q) {
		// The public tree does not know the domain, but it has an address
		// here: "no such name" would hold for all types (RFC 2308 section 5).
		out[3] &^= rcodeMask
	}
	return out
}
