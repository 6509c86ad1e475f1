package l4

import (
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"gatecontrol/model"
)

// port is one open port on every bind. Whoever opened it closes it.
type port struct {
	server    *Server
	key       portKey
	listeners []net.Listener // TCP
	sockets   []*udpSocket   // UDP
	done      chan struct{}  // closed by close

	mu     sync.Mutex
	owner  owner
	closed bool
	flows  map[*tcpFlow]struct{} // and the associations of each socket
}

func newPort(s *Server, key portKey, own owner) *port {
	return &port{
		server: s,
		key:    key,
		done:   make(chan struct{}),
		owner:  own,
		flows:  make(map[*tcpFlow]struct{}),
	}
}

// openOn opens the port on one more bind.
func (p *port) openOn(b Bind) error {
	if p.key.network == "udp" {
		pc, err := b.ListenPacket(p.key.port)
		if err == nil {
			p.sockets = append(p.sockets, newUDPSocket(p, pc))
		}
		return err
	}
	ln, err := b.Listen(p.key.port)
	if err == nil {
		p.listeners = append(p.listeners, ln)
	}
	return err
}

// serve starts one goroutine per bind. They end with close, and the server
// waits for them.
func (p *port) serve() {
	for _, ln := range p.listeners {
		p.server.wg.Go(func() { p.acceptLoop(ln) })
	}
	for _, u := range p.sockets {
		p.server.wg.Go(u.readLoop)
	}
}

func (p *port) ownerNow() owner {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner
}

// handTo makes own the owner. The flows of another owner end.
func (p *port) handTo(own owner) {
	p.mu.Lock()
	if p.owner == own {
		p.mu.Unlock()
		return
	}
	p.owner = own
	end := p.takeFlowsLocked()
	p.mu.Unlock()
	end()
}

// close closes the port and ends its flows. It is idempotent, and the port can
// be opened again as soon as it returns.
func (p *port) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	end := p.takeFlowsLocked()
	p.mu.Unlock()
	close(p.done)
	for _, ln := range p.listeners {
		_ = ln.Close()
	}
	for _, u := range p.sockets {
		_ = u.conn.Close()
	}
	end()
}

// takeFlowsLocked forgets all flows and returns what ends them, to be called
// without the lock.
func (p *port) takeFlowsLocked() (end func()) {
	flows := p.flows
	p.flows = make(map[*tcpFlow]struct{})
	var associations []*association
	for _, u := range p.sockets {
		for _, a := range u.associations {
			associations = append(associations, a)
		}
		clear(u.associations)
	}
	return func() {
		for f := range flows {
			f.reset()
		}
		for _, a := range associations {
			_ = a.upstream.Close()
		}
	}
}

// forget ends the associations of some clients.
func (p *port) forget(lost func(client netip.Addr) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.sockets {
		for at, a := range u.associations {
			if lost(at.Addr().Unmap()) {
				delete(u.associations, at)
				_ = a.upstream.Close() // and its goroutine ends the rest
			}
		}
	}
}

// recovered ends one flow that panicked and leaves all others alone.
func (s *Server) recovered() {
	if v := recover(); v != nil {
		s.panics.Add(1)
		s.log.Error("flow ended by a fault", "panic", v, "stack", string(debug.Stack()))
	}
}

// listenError turns a failure to open a port into what a person can act on.
func listenError(key portKey, err error) error {
	var e *model.Error
	switch {
	case errors.Is(err, syscall.EADDRINUSE), strings.Contains(err.Error(), "in use"): // the tunnel's stack has no errno
		e = model.Conflict(fieldListenPort, "%s port %d is in use by another program", key.network, key.port)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e = model.Conflict(fieldListenPort, "%s port %d may not be opened: the system reserves ports below 1024", key.network, key.port)
	default:
		e = model.Failure(model.KindUnavailable, "%s port %d cannot be opened at the moment", key.network, key.port)
		e.Field = fieldListenPort
	}
	e.Err = err
	return e
}

// addrPort reads the address of a client out of a. Clients without one, such
// as a connection of the tunnel that is gone already, share one limit.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}
	case interface{ AddrPort() netip.AddrPort }:
		return a.AddrPort()
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}
