package l4

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A failed accept (out of file descriptors, say) is tried again after a pause
// that doubles up to the longest.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// tcpFlow is one connection of a client and the one to the target.
type tcpFlow struct {
	port   *port
	owner  owner
	client net.Conn
	from   netip.Addr         // clientKey of the client
	cancel context.CancelFunc // ends the dial

	mu       sync.Mutex
	upstream net.Conn // nil while dialing
	ended    bool     // by reset
}

// acceptLoop serves one listener until the port closes.
func (p *port) acceptLoop(ln net.Listener) {
	var pause time.Duration
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = 0
			p.accepted(conn)
			continue
		}
		if p.server.draining.Load() {
			<-p.done
		}
		select {
		case <-p.done:
			return
		default:
		}
		if pause == 0 { // once per streak
			p.server.log.Warn("accept failed, will be tried again", "port", p.key.port, "err", err)
		}
		pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
		select {
		case <-p.done:
			return
		case <-time.After(pause):
		}
	}
}

// accepted starts a flow for conn if the limits allow it. The flow's goroutine
// ends when the flow does; reset ends it from outside.
func (p *port) accepted(conn net.Conn) {
	f := &tcpFlow{port: p, client: conn, from: p.server.clients.Key(addrPort(conn.RemoteAddr()).Addr())}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	f.cancel = cancel
	if !p.begin(f) {
		cancel()
		_ = conn.Close()
		return
	}
	p.server.wg.Go(func() {
		defer p.server.recovered()
		defer p.finish(f)
		f.run(ctx)
	})
}

// begin registers f with the owner of the moment.
func (p *port) begin(f *tcpFlow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.server.draining.Load() {
		return false
	}
	f.owner = p.owner
	if !p.server.tcp.admit(f.owner.route, f.from) {
		p.server.refused.Add(1)
		return false
	}
	p.flows[f] = struct{}{}
	return true
}

func (p *port) finish(f *tcpFlow) {
	f.close()
	p.mu.Lock()
	delete(p.flows, f)
	p.mu.Unlock()
	p.server.tcp.release(f.owner.route, f.from)
}

// run dials the target and copies both ways until both ends are done.
func (f *tcpFlow) run(ctx context.Context) {
	upstream, err := f.port.server.dial(ctx, "tcp", f.owner.target)
	f.cancel()
	if err != nil {
		f.port.server.log.Debug("target not reached", "route", f.owner.route, "target", f.owner.target, "err", err)
		return
	}
	if !f.setUpstream(upstream) {
		_ = upstream.Close()
		return
	}
	var up, down stream
	up = stream{dst: upstream, src: f.client, opposite: &down, room: f.port.server.room}
	down = stream{dst: f.client, src: upstream, opposite: &up, room: f.port.server.room}

	var wg sync.WaitGroup
	wg.Go(func() {
		defer f.port.server.recovered()
		f.carry(&down)
	})
	f.carry(&up)
	wg.Wait()
}

// carry runs one direction. If it broke, both ends learn so by a reset: a cut
// stream must not look like a complete one.
func (f *tcpFlow) carry(s *stream) {
	whole := false
	defer func() {
		if !whole {
			f.reset()
		}
	}()
	whole = s.run()
}

// setUpstream makes the dialed connection part of f, unless f has ended.
func (f *tcpFlow) setUpstream(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.upstream = c
	}
	return !f.ended
}

// reset ends f at once: the dial if it still runs, else both connections,
// where possible with a TCP reset.
func (f *tcpFlow) reset() {
	f.mu.Lock()
	f.ended = true
	conns := [...]net.Conn{f.client, f.upstream}
	f.mu.Unlock()
	f.cancel()
	for _, c := range conns {
		if c == nil {
			continue
		}
		if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
			_ = l.SetLinger(0)
		}
		_ = c.Close()
	}
}

// close closes both connections; what was written still arrives.
func (f *tcpFlow) close() {
	f.mu.Lock()
	upstream := f.upstream
	f.mu.Unlock()
	f.cancel()
	_ = f.client.Close()
	if upstream != nil {
		_ = upstream.Close()
	}
}
