package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxStreamConns bounds the connections to one encrypted upstream. Each
	// carries one question at a time over TLS, many over HTTP/2.
	maxStreamConns = 16

	// streamIdle is how long a connection is kept for the next question.
	// Public resolvers hang up after ten seconds or more.
	streamIdle = 9 * time.Second
)

// tlsUpstream asks over TLS (RFC 7858) and keeps connections for reuse.
type tlsUpstream struct {
	addr string
	conf *tls.Config
	dial dialFunc
	free chan struct{} // one token per connection that may be in use

	mu     sync.Mutex
	idle   []idleConn // the last one was used last
	timer  *time.Timer
	closed bool
}

type idleConn struct {
	net.Conn
	since time.Time
}

func newTLSUpstream(addr string, conf *tls.Config, dial dialFunc) *tlsUpstream {
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(maxStreamConns)
	return &tlsUpstream{addr: addr, conf: conf, dial: dial, free: make(chan struct{}, maxStreamConns)}
}

func (t *tlsUpstream) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	select {
	case t.free <- struct{}{}:
		defer func() { <-t.free }()
	case <-ctx.Done():
		return nil, errors.New("all connections are busy")
	}
	for {
		c, reused, err := t.connect(ctx)
		if err != nil {
			return nil, err
		}
		r, err := exchangeStream(ctx, c, m)
		if err == nil {
			t.keep(c)
			return r, nil
		}
		_ = c.Close()
		if !reused || ctx.Err() != nil {
			return nil, err
		}
		// The upstream had hung up on a kept connection: the next one, or a
		// new one at last.
	}
}

// connect takes the connection used last, or makes one.
func (t *tlsUpstream) connect(ctx context.Context) (c net.Conn, reused bool, err error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		c = t.idle[n-1].Conn
		t.idle = t.idle[:n-1]
	}
	t.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	raw, err := t.dial(ctx, "tcp", t.addr)
	if err != nil {
		return nil, false, err
	}
	secured := tls.Client(raw, t.conf)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, false, err
	}
	return secured, false, nil
}

// keep puts a connection aside until streamIdle has passed.
func (t *tlsUpstream) keep(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || c.SetDeadline(time.Time{}) != nil {
		_ = c.Close()
		return
	}
	t.idle = append(t.idle, idleConn{c, time.Now()})
	if t.timer == nil {
		t.timer = time.AfterFunc(streamIdle, t.prune)
	}
}

// prune closes what was not used for streamIdle.
func (t *tlsUpstream) prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.idle) && time.Since(t.idle[n].since) >= streamIdle {
		_ = t.idle[n].Close()
		n++
	}
	t.idle = append(t.idle[:0], t.idle[n:]...)
	t.timer = nil
	if len(t.idle) > 0 && !t.closed {
		t.timer = time.AfterFunc(streamIdle-time.Since(t.idle[0].since), t.prune)
	}
}

func (t *tlsUpstream) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, c := range t.idle {
		_ = c.Close()
	}
	t.idle = nil
	if t.timer != nil {
		t.timer.Stop()
	}
}
