// Package proxy is the HTTP plane: it answers on the plain and the TLS port,
// finds the route of a request by its host, and forwards it to the target behind.
// It owns its configuration, the connections of clients and to backends, and the
// internal certificate authority; it dials and listens through functions that it
// is given, and of ours imports the model package alone.
//
// A request passes the door of its version, with the strict checks of its head:
// fasthttp's server loop for HTTP/1.1 (conn.go, head.go), frames of our own for
// HTTP/2 (h2.go), quic-go's streams for HTTP/3 (h3.go), and for both the bridge that
// makes their requests look like those of the first (bridge.go). Then comes the
// pipeline (pipeline.go, match.go), whose gates (gate.go) may refuse, and one exchange
// with a backend (forward.go, upload.go, stream.go, upgrade.go): which one, and how
// often (paths.go, balance.go, sticky.go, login.go, retry.go, upstream.go), what it gets
// (outgoing.go, headers.go, mirror.go), and what the client gets of its answer
// (interim.go, answer.go, coding.go). A visit (visit.go) goes along and tells of it in the end.
package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"gatecontrol/model"
)

// Options are what a Server is made of. Log, Dial and Certificate are needed.
type Options struct {
	Log *slog.Logger
	// Dial connects to a backend, through the tunnel or from the host.
	Dial func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	// DialAdmin connects to the admin API, which speaks plain HTTP/1.1 there.
	// Without it there can be no admin hosts.
	DialAdmin func(ctx context.Context) (net.Conn, error)
	// Certificate returns the certificate of a name that the current Config
	// serves, normalised. It may be called from many goroutines at once, and may
	// take as long as a handshake may.
	Certificate func(name string) (*tls.Certificate, error)
	// Challenge returns what an authority is answered that asks host, normalised,
	// for a token under /.well-known/acme-challenge/ (RFC 8555, section 8.3), and
	// whether a running order put that there. ChallengeCertificate does the same
	// for handshakes, nil is none. Both may be called at any time and must not
	// wait; without them there are no challenges.
	Challenge            func(host, token string) (string, bool)
	ChallengeCertificate func(name string) *tls.Certificate
	// Serving is told the names that each committed Config serves, normalised. It
	// must not wait. It may be nil.
	Serving func(names []string)
	// Country tells the country of an address, as two upper-case letters (ISO
	// 3166-1); an error means that it cannot be found out. It does not wait for
	// anything. Without it, every country rule meets an error.
	Country func(addr netip.Addr) (string, error)
	// Observe is told of each request once its answer has ended. It is called by
	// the goroutines that answer, so it must not wait, and must not keep the record.
	Observe func(*model.AccessRecord)
	// LastSeen tells what is known of the peer with a tunnel address; false if no
	// peer has it. It must not wait. Without it, error pages do not tell.
	LastSeen func(addr netip.Addr) (Sighting, bool)
	// Bots are the networks that bot blockers refuse; nil stands for all that are
	// known without asking.
	Bots *Bots
	// HTTPSPort is put into redirects to https; 0 and 443 are left out.
	HTTPSPort uint16
	// Clients tells whom connections are counted against.
	Clients model.Clients
	// Room bounds connections, those to backends included, together with the sockets of
	// others; nil does not.
	Room *model.Room
	// StickyKey signs the cookies that keep a client at one backend. With the same
	// key they stay good over a restart; without one they do not.
	StickyKey []byte
	// ResetKey is secret and tells clients of HTTP/3, after a restart, that this
	// server has forgotten their connections. If it is zero, they find out by
	// waiting.
	ResetKey [32]byte
}

// Server is the HTTP plane. All methods may be called at any time from any
// goroutine, but Prepare, Commit and Abort by one at a time.
type Server struct {
	opts    Options
	limits  limits
	fast    *fasthttp.Server
	tls     *tls.Config
	quic    *tls.Config // the same policy for HTTP/3
	qpack   *qpack.Decoder
	dialer  tlsDialer
	dialer2 tlsDialer // of HTTP/2, for gRPC

	snapshot atomic.Pointer[snapshot]
	census   census
	workers  workers
	upgrades upgrades
	draining atomic.Bool
	altDoors atomic.Pointer[[]netip.AddrPort] // where HTTP/3 is served; nil: nowhere

	visits, exchanges, pieces, records, heads sync.Pool
	bridges, h2streams, h2queues, h3streams   sync.Pool

	encoders                [codings]sync.Pool
	encoding, eventEncoding budget // of encoders

	stickyKey    []byte
	bodies       budget // of bodies in HTTP/2 that wait for a backend
	heldBodies   budget // of bodies that are kept to be sent again
	mirrors      mirrors
	copiedBodies budget    // of bodies for mirrors
	began        time.Time // what elapsed counts from

	// What gates count, of all routes and clients.
	requests *windows
	logins   *logins
	bots     *Bots
	blocked  counters // requests that bot blockers refused
	tarpits  atomic.Int32
	traces   traces
	refused  []atomic.Int64 // by the steps of the pipeline
	hits     hits
	ending   chan struct{} // closed when no answer may take its time any more
	endOnce  sync.Once

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	doors     map[*quicDoor]struct{}
	h3conns   map[*h3Conn]struct{}
	backends  map[*backendConn]struct{}
	ended     bool // no connection to a backend may be open any more
	// running counts connections, upgrades and Serve calls. Additions happen
	// under mu while draining is false, or from something that is counted.
	running sync.WaitGroup
}

// New checks the options. The Server serves nothing until a Config is committed.
func New(opts Options) (*Server, error) {
	if opts.Log == nil || opts.Dial == nil || opts.Certificate == nil {
		return nil, errors.New("proxy: Log, Dial and Certificate are needed")
	}
	s := &Server{
		opts:      opts,
		stickyKey: bytes.Clone(opts.StickyKey),
		began:     time.Now(),
		limits:    defaultLimits(),
		census:    census{addresses: opts.Clients, room: opts.Room},
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		doors:     make(map[*quicDoor]struct{}),
		h3conns:   make(map[*h3Conn]struct{}),
		backends:  make(map[*backendConn]struct{}),
	}
	if len(s.stickyKey) == 0 {
		s.stickyKey = make([]byte, 32)
		_, _ = rand.Read(s.stickyKey) // never fails
	}
	s.bodies.give(keptBudget)
	s.heldBodies.give(heldBudget)
	s.copiedBodies.give(copyBudget)
	s.encoding.give(maxEncoders)
	s.eventEncoding.give(maxEventEncoders)
	s.traces.budget, s.refused = traceBudget, make([]atomic.Int64, len(pipeline))
	s.requests, s.logins, s.ending = newWindows(), newLogins(), make(chan struct{})
	if s.bots = opts.Bots; s.bots == nil {
		var err error
		if s.bots, err = NewBots(BotOptions{}); err != nil {
			return nil, err
		}
	}
	s.upgrades.open = make(map[*upgrade]struct{})
	s.workers.init()
	s.fast = &fasthttp.Server{
		Handler:                       s.handle,
		HeaderReceived:                headRead,
		ErrorHandler:                  s.parserFailed,
		Logger:                        silent{},
		ReadBufferSize:                maxRequestLine + maxFieldBlock + 4<<10,
		WriteBufferSize:               writeBuffer,
		ReduceMemoryUsage:             true, // buffers are taken when needed: most connections idle
		DisablePreParseMultipartForm:  true,
		DisableHeaderNamesNormalizing: true,
		NoDefaultServerHeader:         true,
		NoDefaultDate:                 true,
		NoDefaultContentType:          true,
		SecureErrorLogMessage:         true,
	}
	s.visits.New = func() any { return new(visit) }
	s.exchanges.New = func() any { return newExchange(s) }
	s.heads.New = func() any { return new(headReader) }
	s.pieces.New = func() any { return new(piece) }
	s.records.New = func() any { return new(recordBuffer) }
	s.bridges.New = func() any { return new(bridge) }
	s.h2streams.New = func() any { return new(h2stream) }
	s.h2queues.New = func() any { return new(h2queue) }
	s.tls = s.tlsPolicy(http2.NextProtoTLS, "http/1.1")
	s.h3streams.New = func() any { return newH3Stream() }
	s.quic, s.qpack = s.tlsPolicy("h3"), qpack.NewDecoder()
	if s.opts.ResetKey == ([32]byte{}) {
		_, _ = rand.Read(s.opts.ResetKey[:]) // never fails
	}
	s.dialer, s.dialer2 = newTLSDialer("http/1.1"), newTLSDialer(http2.NextProtoTLS)
	s.snapshot.Store(&snapshot{})
	return s, nil
}

// elapsed is the time since the start, which no change of the clock moves.
func (s *Server) elapsed() time.Duration { return time.Since(s.began) }

// Pending is a Config that was checked and serves nothing yet.
type Pending struct {
	srv  *Server
	snap *snapshot
}

// Prepare checks cfg. Errors are of kind invalid or conflict and name the field.
func (s *Server) Prepare(cfg Config) (*Pending, error) {
	snap, err := s.compile(cfg, s.snapshot.Load())
	if err != nil {
		return nil, err
	}
	return &Pending{srv: s, snap: snap}, nil
}

// Commit makes the Config the one that new requests see. Requests in flight end
// on theirs; connections to targets that are gone are closed once unused, and
// upgrades of routes that are gone after a time of grace.
func (p *Pending) Commit() {
	old := p.srv.snapshot.Swap(p.snap)
	p.snap.demandCertificates()
	endTraces(old, p.snap)
	p.srv.blocked.keep(p.snap)
	if p.srv.opts.Serving != nil {
		p.srv.opts.Serving(slices.Collect(maps.Keys(p.snap.hosts)))
	}
	for key, pool := range old.pools {
		if p.snap.pools[key] != pool {
			pool.close()
		}
	}
	p.srv.upgrades.judge(p.srv)
}

// Abort drops the Config. There is nothing to give back: pools without a
// connection are memory alone.
func (p *Pending) Abort() {}

// Serve answers on the plain port until ln is closed or the server shut down,
// and returns nil then. It may be called for several listeners; those of the host
// are to be Outside.
func (s *Server) Serve(ln net.Listener) error { return s.accept(ln, false) }

// ServeTLS answers on the TLS port; ln gives plain connections.
func (s *Server) ServeTLS(ln net.Listener) error { return s.accept(ln, true) }

func (s *Server) accept(ln net.Listener, secure bool) error {
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		_ = ln.Close()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
		_ = ln.Close()
		s.running.Done()
	}()
	_, outside := ln.(outsideListener)
	const shortest, longest = 5 * time.Millisecond, time.Second
	for pause := shortest; ; {
		nc, err := ln.Accept()
		if err == nil {
			pause = shortest
			if outside && s.inside(addrPort(nc.RemoteAddr()).Addr()) {
				_ = nc.Close()
				continue
			}
			s.start(nc, secure)
			continue
		}
		if errors.Is(err, net.ErrClosed) || s.draining.Load() {
			return nil
		}
		if t, ok := err.(interface{ Temporary() bool }); !ok || !t.Temporary() {
			return err
		}
		// Out of file descriptors, most likely: those that are open go on, and
		// the listener tries again.
		s.opts.Log.Warn("cannot accept connections", "addr", ln.Addr(), "err", err, "again in", pause)
		time.Sleep(pause)
		pause = min(2*pause, longest)
	}
}

// start serves one connection, in a goroutine that Shutdown and Close wait for.
func (s *Server) start(nc net.Conn, secure bool) {
	remote, local := addrPort(nc.RemoteAddr()), addrPort(nc.LocalAddr())
	tally := s.census.enter(remote.Addr(), &s.limits)
	if tally == nil {
		s.hits.at(limitConnections)
		_ = nc.Close()
		return
	}
	boundUnsent(nc)
	sock := newSocket(nc, s.limits.stall)
	c := &conn{Conn: sock, sock: sock, srv: s, tally: tally, addr: remote.Addr(), port: local.Port(), secure: secure}
	c.in.r = (*input)(c)
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		s.census.leave(remote.Addr())
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	go func() {
		if secure {
			growStack(false)
		}
		defer s.running.Done()
		defer s.survive("connection", func() { _ = c.Close() })
		if secure && !c.handshake() {
			_ = c.Close()
			return
		}
		if !c.phase.CompareAndSwap(idle, active) {
			_ = c.Close()
			return
		}
		if h := c.h2.Load(); h != nil {
			h.serve()
			_ = c.Close()
			return
		}
		_ = s.fast.ServeConn(c) // its errors are broken connections; it closes c
	}()
}

// gone forgets a connection that was closed.
func (s *Server) gone(c *conn) {
	s.census.leave(c.addr)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// survive ends a panic at the border of a connection or request.
func (s *Server) survive(what string, then func()) {
	if p := recover(); p != nil {
		s.opts.Log.Error("panic in "+what, "panic", p, "stack", string(debug.Stack()))
		then()
	}
}

// survive is that of the server, and names the request.
func (v *visit) survive(what string, then func()) {
	if p := recover(); p != nil {
		v.srv.opts.Log.Error("panic in "+what, "panic", p, "request", v.id.String(), "stack", string(debug.Stack()))
		then()
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(interface{ AddrPort() netip.AddrPort }); ok { // of TCP and UDP
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), 0) // an in-memory connection
}

// silent is fasthttp's logger: its messages can hold bytes of a request.
type silent struct{}

func (silent) Printf(string, ...any) {}
