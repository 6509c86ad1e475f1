package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// poolKey is what backend connections are alike in. The zero key is the admin API.
type poolKey struct {
	addr netip.AddrPort
	tls  bool
	name string // SNI of a TLS backend
	// behind is a Target's Behind: services share their gateway and no connection, for
	// a login may be good for one.
	behind string
}

// pool keeps unused connections to one target. It outlives the snapshots that
// refer to it, and is closed when none does any more.
type pool struct {
	srv *Server
	key poolKey

	mu     sync.Mutex
	idle   []*backendConn // the last one was used last
	closed bool
	sweep  *time.Timer // set while something may idle
	// For gRPC.
	multi       []*http.ClientConn
	dialing     *dialing // of the next one; nil: nobody opens one
	multiplexer *http.Transport
	failed      failureLog
	rest        atomic.Int64 // until when balance passes the target by; 0: it is well
}

// backendConn is one connection to a backend, used by one exchange at a time.
type backendConn struct {
	net.Conn
	srv    *Server
	in     source
	body   body
	ex     *exchange // whose answer is read; nil after an upgrade
	readBy time.Time
	used   time.Time // when it was put back
	reused bool
	login  bool            // a client is logged in on it, and only that may have it
	pool   *pool           // where it leads; set with login
	sock   syscall.RawConn // for quiet; nil if it is no socket
	tunnel quieter         // likewise, of a connection through the tunnel
	once   atomic.Bool
}

// quieter is a connection that can be looked at without a wait.
type quieter interface {
	// Quiet reports whether it is open and there is nothing to be read.
	Quiet() bool
}

// settled is how long after an answer a connection is looked at before it is used
// again. What a backend sends behind its answer has mostly arrived by then, and a
// busy connection, which is used again sooner, is spared the look.
const settled = time.Millisecond

// get returns a connection: a kept one if there is and if fresh does not ask for
// a new one. sure asks for one that is known to be alive, for requests that
// cannot be sent twice. A kept one on which a backend has sent what nobody asked
// for is not returned: the next client would take it for its answer.
func (p *pool) get(fresh, sure bool) (*backendConn, error) {
	for !fresh {
		bc := p.take()
		if bc == nil {
			break
		}
		if since := time.Since(bc.used); sure || since >= settled {
			const moment = 500 * time.Millisecond
			// What cannot be looked at is trusted for a moment.
			if quiet, known := bc.quiet(); known && !quiet || !known && sure && since >= moment {
				_ = bc.Close()
				continue
			}
		}
		bc.reused = true
		return bc, nil
	}
	return p.dial()
}

func (p *pool) take() *backendConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	bc := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	return bc
}

// put keeps a connection whose last exchange ended clean.
func (p *pool) put(bc *backendConn) {
	bc.settle()
	p.mu.Lock()
	if p.closed || len(p.idle) >= maxIdle {
		p.mu.Unlock()
		_ = bc.Close()
		return
	}
	p.idle = append(p.idle, bc)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.srv.limits.backendIdle, p.expire)
	}
	p.mu.Unlock()
}

// expire closes what was not used for the idle limit, and comes again while
// anything is kept. The oldest connections are in front.
func (p *pool) expire() {
	limit := p.srv.limits.backendIdle
	oldest := time.Now().Add(-limit)
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && !p.idle[n].used.After(oldest) {
		n++
	}
	old := append([]*backendConn(nil), p.idle[:n]...)
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	if kept > 0 && !p.closed {
		p.sweep.Reset(limit / 4)
	} else {
		p.sweep = nil
	}
	p.mu.Unlock()
	closeConns(old)
}

// close ends the pool: unused connections now, those in use when they come back.
func (p *pool) close() {
	p.mu.Lock()
	idle, multi := p.idle, p.multi
	p.idle, p.multi, p.closed = nil, nil, true
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	p.mu.Unlock()
	closeConns(idle)
	closeMultiplexed(multi)
}

func closeConns(all []*backendConn) {
	for _, bc := range all {
		_ = bc.Close()
	}
}

// errUnreachable says that no connection to a backend came about, for whatever
// reason.
var errUnreachable = errors.New("cannot connect")

// errGatewayAway is errUnreachable without a try.
var errGatewayAway = fmt.Errorf("%w: the home gateway is not connected", errUnreachable)

// spared reports whether up is not worth a wait for a connection: a home gateway
// that is not connected and could not be reached a moment ago. After a rest one
// request tries, and as soon as it is connected all do.
func (s *Server) spared(up *upstream) bool {
	if up.target.Behind == "" || up.pool.claim(s.elapsed()) {
		return false
	}
	_, away := s.away(&up.target)
	return away
}

// dial opens a connection for exchanges.
func (p *pool) dial() (*backendConn, error) {
	bc, err := p.connect()
	if err != nil {
		return nil, err
	}
	if p.key.tls {
		if bc.Conn, err = p.secure(p.srv.dialer, bc.Conn); err != nil {
			return nil, err
		}
	}
	bc.in.r = (*backendInput)(bc)
	p.srv.opened(bc)
	return bc, nil
}

// connect opens a connection, without the TLS that a target may want, within the
// dial limit.
func (p *pool) connect() (*backendConn, error) {
	s := p.srv
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.dial)
	defer cancel()
	var nc net.Conn
	var err error
	if p.key == (poolKey{}) {
		nc, err = s.opts.DialAdmin(ctx)
	} else {
		nc, err = s.opts.Dial(ctx, "tcp", p.key.addr)
	}
	if err != nil {
		p.ail()
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	bc := &backendConn{srv: s}
	if sc, ok := nc.(syscall.Conn); ok {
		bc.sock, _ = sc.SyscallConn()
	}
	bc.tunnel, _ = nc.(quieter)
	bc.Conn = newSocket(nc, backendStall)
	if !p.key.tls {
		p.well()
	}
	return bc, nil
}

// secure makes the TLS handshake with the target on nc, and closes that if it fails.
func (p *pool) secure(d tlsDialer, nc net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.srv.limits.dial)
	defer cancel()
	t, err := d.wrap(ctx, nc, p.key.name)
	if err != nil {
		if d == p.srv.dialer { // without HTTP/2 it is as well as before, and anybody can ask for that
			p.ail()
		}
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	p.well()
	return t, nil
}

// well ends the rest of a target that could be reached.
func (p *pool) well() {
	if p.rest.Load() != 0 {
		p.rest.Store(0)
	}
}

// ail says that a connection did not come about: the target is passed by for a
// while where there is another one.
func (p *pool) ail() { p.rest.Store(int64(p.srv.elapsed() + p.srv.limits.rest)) }

// usable reports whether the target is worth a try at now.
func (p *pool) usable(now time.Duration) bool { return p.rest.Load() <= int64(now) }

// restAt orders targets by when they failed last.
func (p *pool) restAt() int64 { return p.rest.Load() }

// claim reports whether the caller may try the target. After a rest that is one
// request alone, until it has come to something.
func (p *pool) claim(now time.Duration) bool {
	until := p.rest.Load()
	return until == 0 || until <= int64(now) && p.rest.CompareAndSwap(until, int64(now+p.srv.limits.rest))
}

// backendStall ends the wait for a backend that takes nothing of a request. It
// is long, because slow devices pause between the pieces of an upload.
const backendStall = 10 * time.Minute

func (bc *backendConn) Close() error {
	if bc.once.Swap(true) {
		return nil
	}
	bc.srv.closed(bc)
	return bc.Conn.Close()
}

// Reset closes the connection, from any goroutine, so that the backend does not take
// the end for a clean one.
func (bc *backendConn) Reset() {
	if !bc.once.Swap(true) {
		bc.srv.closed(bc)
		abort(bc.Conn)
		_ = bc.Conn.Close() // frees what TLS holds
	}
}

// quiet reports whether an unused connection is still open: a backend that closed
// it, or sent something that nobody asked for, has made it readable. known is false
// for one that cannot be looked at.
func (bc *backendConn) quiet() (quiet, known bool) {
	switch {
	case bc.tunnel != nil:
		return bc.tunnel.Quiet(), true
	case bc.sock == nil:
		return false, false
	}
	n, err := bc.peek()
	return n < 0 && err == syscall.EAGAIN, true
}

// hasMore reports whether reading the body goes on without a wait, as far as can be
// told.
func (bc *backendConn) hasMore() bool {
	if b := &bc.body; b.framing == chunkedBody && b.canGoOn() || b.framing != chunkedBody && len(bc.in.buffered()) > 0 {
		return true
	}
	switch {
	case bc.tunnel != nil:
		return !bc.tunnel.Quiet()
	case bc.sock != nil:
		n, _ := bc.peek() // fails, too, when the read deadline has passed
		return n >= 0
	}
	return false
}

// peek looks whether the socket can be read: n is negative if it cannot, and 0 at
// its end.
func (bc *backendConn) peek() (n int, err error) {
	n = -1
	if rerr := bc.sock.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	}); rerr != nil {
		return -1, rerr
	}
	return n, err
}

// backendInput is a backendConn as the io.Reader below its source. A backend may
// be silent for as long as it likes, but not for a client that has left: after a
// while of silence the exchange watches the client.
type backendInput backendConn

func (i *backendInput) Read(p []byte) (int, error) {
	bc := (*backendConn)(i)
	for {
		ex := bc.ex
		if ex != nil && !ex.watching {
			now := time.Now()
			patience := ex.srv.limits.patience
			if left := bc.readBy.Sub(now); left < patience/2 {
				bc.readBy = now.Add(patience)
				_ = bc.Conn.SetReadDeadline(bc.readBy)
			}
		}
		n, err := bc.Conn.Read(p)
		if n > 0 || err == nil || ex == nil || ex.watching || !isTimeout(err) {
			return n, err
		}
		if ex.watch() {
			bc.readBy = time.Time{}
			_ = bc.Conn.SetReadDeadline(time.Time{})
		}
	}
}

// failureLog keeps the failures of one target from filling the log: the first
// one is logged, and from then on at most one a minute, with their number.
type failureLog struct {
	mu      sync.Mutex
	last    time.Time
	skipped int
}

// next reports whether to log a failure at now, and how many were not since.
func (f *failureLog) next(now time.Time) (skipped int, log bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.last) < time.Minute {
		f.skipped++
		return 0, false
	}
	skipped, f.skipped, f.last = f.skipped, 0, now
	return skipped, true
}
