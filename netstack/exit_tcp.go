package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// handleTCP takes the TCP segments that belong to no connection. False makes
// the stack answer with a reset, which is what a closed port and a refused
// destination have in common.
func (e *exit) handleTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src, dst := fromStack(id.RemoteAddress), netip.AddrPortFrom(fromStack(id.LocalAddress), id.LocalPort)
	if e.d.is(dst.Addr()) {
		return false
	}
	p, v := e.judge(e.d.table.Load(), src, dst)
	switch {
	case v == refused, v == ourselves && e.d.listener(id.LocalPort) == nil:
		return false
	case e.halfOpen.Load() >= maxHalfOpen, p.halfOpen.Load() >= maxHalfOpenPeer:
		return false // a cheap look; serveTCP counts
	}
	return e.forward.HandlePacket(id, pkt)
}

// serveTCP runs in a goroutine of its own, from the first segment of a flow to
// its end.
func (e *exit) serveTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	src, dst := addrPort(tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort}), addrPort(tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort})
	p, v := e.judge(e.d.table.Load(), src.Addr(), dst)
	if v == refused {
		r.Complete(true)
		return
	}
	ctx, f := e.open(p.identity, src, dst, v)
	if f == nil {
		r.Complete(false)
		return
	}
	defer e.end(f)
	if !e.acquireSocket(&e.tcpFlows, &f.from.tcpFlows, maxTCPFlows, maxTCPFlowsPeer) {
		r.Complete(true)
		return
	}
	defer e.releaseSocket(&e.tcpFlows, &f.from.tcpFlows)
	if v == ourselves {
		e.handOver(r, f)
		return
	}
	if peer, host := e.connect(ctx, r, f); peer != nil {
		e.splice(f, peer, host)
	}
}

// connect dials the destination first and completes the peer's handshake only
// then, so that the peer sees a refusal as a refusal. It completes r.
func (e *exit) connect(ctx context.Context, r *tcp.ForwarderRequest, f *flow) (*peerSide, net.Conn) {
	if !acquire(&e.halfOpen, &f.from.halfOpen, maxHalfOpen, maxHalfOpenPeer) {
		r.Complete(true)
		return nil, nil
	}
	defer release(&e.halfOpen, &f.from.halfOpen)

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, err := e.dial(ctx, "tcp", f.dst)
	if err != nil {
		// No answer is passed on as no answer, everything else as a refusal.
		r.Complete(!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syscall.ETIMEDOUT))
		return nil, nil
	}
	if !f.setHost(host) {
		r.Complete(true)
		return nil, nil
	}
	return e.accept(f, r), host
}

// handOver gives a connection that a peer opened to one of this host's own
// addresses, or that is redirected, to the listener on the same port in the tunnel.
func (e *exit) handOver(r *tcp.ForwarderRequest, f *flow) {
	l := e.d.listener(f.dst.Port())
	if l == nil {
		r.Complete(true)
		return
	}
	if !acquire(&e.halfOpen, &f.from.halfOpen, maxHalfOpen, maxHalfOpenPeer) {
		r.Complete(true)
		return
	}
	defer release(&e.halfOpen, &f.from.halfOpen)
	p := e.accept(f, r)
	if p == nil {
		return
	}
	if ep := f.detach(); ep != nil {
		c := e.d.newTCPConn(&p.wq, ep, f.from, f.dst, f.src)
		if !l.hand(c) {
			ep.Abort()
			ep.Close()
		}
	}
}

// peerSide is the peer's end of a TCP flow.
type peerSide struct {
	wq     waiter.Queue
	ep     tcpip.Endpoint
	conn   *gonet.TCPConn // for writing
	flight *flight
}

// accept completes the peer's handshake, and r. It returns nil if that fails.
func (e *exit) accept(f *flow, r *tcp.ForwarderRequest) *peerSide {
	p := new(peerSide)
	ep, terr := r.CreateEndpoint(&p.wq)
	r.Complete(terr != nil)
	if terr != nil {
		return nil
	}
	setKeepalive(ep)
	if !f.setEndpoint(ep) {
		return nil
	}
	p.ep, p.conn, p.flight = ep, gonet.NewTCPConn(&p.wq, ep), e.d.flights.add(ep, f.from)
	return p
}

// splice copies both ways until both have ended, or the flow is aborted. The
// end of one direction is passed on while the other goes on.
func (e *exit) splice(f *flow, p *peerSide, host net.Conn) {
	inbound := make(chan struct{})
	go func() { // ends with the flow, and is waited for below
		defer close(inbound)
		if err := e.copyToPeer(p, host); err != nil {
			f.abort()
		}
	}()
	if err := e.copyFromPeer(f, p, host); err != nil {
		f.abort()
	}
	<-inbound
	f.drain(p)
}

// drain waits until the peer has all that was sent, and acknowledged the end of
// it: what the stack still holds when the flow ends is lost. A peer that does
// not answer is given up by the stack's retransmissions.
func (f *flow) drain(p *peerSide) {
	entry, changed := waiter.NewChannelEntry(waiter.EventHUp)
	p.wq.EventRegister(&entry)
	defer p.wq.EventUnregister(&entry)
	for {
		switch tcp.EndpointState(p.ep.State()) {
		case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
			return
		}
		select {
		case <-changed:
		case <-f.done:
			return
		}
	}
}

// copyFromPeer writes to host what the peer sends. A buffer is taken only
// while there is something in it.
func (e *exit) copyFromPeer(f *flow, p *peerSide, host net.Conn) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	p.wq.EventRegister(&entry)
	defer p.wq.EventUnregister(&entry)
	for {
		buf := e.buffers.Get().(*[copyBuffer]byte)
		n, err, empty := readEndpoint(p.ep, buf[:])
		if n > 0 {
			p.ep.ModerateRecvBuf(n)
			_, err = host.Write(buf[:n])
		}
		e.buffers.Put(buf)
		switch {
		case errors.Is(err, io.EOF):
			return closeWrite(host)
		case err != nil:
			return err
		case empty:
			select {
			case <-ready:
			case <-f.done:
				return context.Canceled
			}
		}
	}
}

// copyToPeer writes to the peer what host sends.
func (e *exit) copyToPeer(p *peerSide, host net.Conn) error {
	from := e.newReader(host, e.d.flights.writeSize)
	for {
		buf, n, err := from.next()
		if err == nil && n > 0 {
			p.flight.write(n)
			_, err = p.conn.Write(buf[:n])
		} else if err == nil {
			err = io.EOF
		}
		if buf != nil {
			e.buffers.Put(buf)
		}
		switch {
		case errors.Is(err, io.EOF):
			return p.conn.CloseWrite()
		case err != nil:
			return err
		}
	}
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
