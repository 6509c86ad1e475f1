package netstack

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A UDP flow ends after this long without a datagram in either direction. Most
// devices assume no less than 120 s (RFC 4787 section 4.3); DNS needs one
// answer.
const (
	udpIdle    = 120 * time.Second
	udpIdleDNS = 30 * time.Second
)

// handleUDP takes the datagrams that belong to no socket. False makes the stack
// answer "port unreachable", as for a closed port.
func (e *exit) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src := addrPort(tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort})
	dst := addrPort(tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort})
	if e.d.is(dst.Addr()) {
		return false
	}
	p, v := e.judge(e.d.table.Load(), src.Addr(), dst.Addr())
	if v == ourselves {
		l := e.d.packetListener(dst.Port())
		return l != nil && l.take(id, pkt)
	}
	if v != allowed {
		return false
	}
	ttl := hops(pkt)
	if ttl <= 1 {
		e.refuse(errorHops, quotePacket(pkt))
		return true
	}
	if !acquire(&e.udpFlows, &p.udpFlows, maxUDPFlows, maxUDPFlowsPeer) {
		return true // dropped: the peer may try again
	}
	ctx, f := e.open(p.identity, src, dst)
	if f == nil {
		release(&e.udpFlows, &p.udpFlows)
		return true
	}
	a := &association{exit: e, flow: f, idle: e.udpIdle, ttl: ttl - 1}
	a.size.Store(int32(pkt.Data().Size()))
	if dst.Port() == 53 {
		a.idle = e.udpIdleDNS
	}
	// The socket is there when this returns, so that the next datagrams find
	// it; this one is its first.
	udp.NewForwarder(e.d.stack, a.accept).HandlePacket(id, pkt)
	go a.run(ctx) // ends with the flow, which exit.wait waits for
	return true
}

// association is one UDP flow. Its goroutine reads from the host's socket;
// what the peer sends is written to it where the packet arrives.
type association struct {
	exit *exit
	flow *flow
	idle time.Duration
	wq   waiter.Queue
	ep   tcpip.Endpoint // nil if it could not be opened
	ttl  uint8          // of its first datagram, for all: routes are traced with a flow each

	last atomic.Int64 // when a datagram passed: time since the exit was made
	size atomic.Int32 // of the peer's last datagram

	mu   sync.Mutex // keeps the peer's datagrams in order
	host *datagramWriter

	answered bool // of the reading goroutine: a datagram has come back
}

// accept opens the peer's side.
func (a *association) accept(r *udp.ForwarderRequest) {
	if ep, terr := r.CreateEndpoint(&a.wq); terr == nil {
		a.ep = ep
	}
}

func (a *association) run(ctx context.Context) {
	e, f := a.exit, a.flow
	defer e.end(f)
	defer release(&e.udpFlows, &f.from.udpFlows)
	if a.ep == nil || !f.setEndpoint(a.ep) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	host, err := e.dial(ctx, "udp", f.dst)
	cancel()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if what, ok := localError(errno); ok {
			a.refuse(what)
		}
	}
	if err != nil || !f.setHost(host) {
		return
	}
	a.host = newDatagramWriter(host)
	if a.host.raw != nil {
		reportErrors(a.host.raw, f.dst.Addr())
		setTTL(a.host.raw, f.dst.Addr(), a.ttl)
	}
	a.touch()
	entry := waiter.NewFunctionEntry(waiter.ReadableEvents, func(waiter.EventMask) { a.toHost() })
	a.wq.EventRegister(&entry)
	defer a.wq.EventUnregister(&entry)
	a.toHost() // what came while dialing
	a.fromHost(host)
}

// toHost sends what the peer has sent.
func (a *association) toHost() {
	a.mu.Lock()
	defer a.mu.Unlock()
	buf := a.exit.buffers.Get().(*[copyBuffer]byte)
	defer a.exit.buffers.Put(buf)
	for {
		n, err, empty := readEndpoint(a.ep, buf[:])
		if err != nil || empty {
			return
		}
		a.touch()
		a.size.Store(int32(n))
		a.send(buf[:n])
	}
}

func (a *association) send(b []byte) {
	err := a.host.write(b)
	if isReported(err) { // about an earlier one, perhaps
		a.takeErrors()
		err = a.host.write(b)
	}
	if what, ok := localError(err); ok {
		a.refuse(what)
	}
}

// fromHost sends to the peer what the destination answers, until nothing has
// passed for the idle time or the flow ends.
func (a *association) fromHost(host net.Conn) {
	from := a.exit.newReader(host, copyBuffer)
	for {
		left := a.idle - (time.Since(a.exit.since) - time.Duration(a.last.Load()))
		if left <= 0 || host.SetReadDeadline(time.Now().Add(left)) != nil {
			return
		}
		if err := a.pump(from); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// pump sends answers to the peer until reading fails. A destination that has
// never answered and refuses ends the flow: others may need its descriptor.
func (a *association) pump(from *reader) error {
	for {
		buf, n, err := from.next()
		if err == nil {
			a.answered = true
			a.touch()
			writeDatagram(a.ep, buf[:n])
		}
		if buf != nil {
			a.exit.buffers.Put(buf)
		}
		switch {
		case isReported(err):
			a.takeErrors()
			if !a.answered && err == syscall.ECONNREFUSED {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// takeErrors tells the peer what routers and the destination have told.
func (a *association) takeErrors() {
	if a.host.raw != nil {
		a.exit.takeErrors(a.host.raw, a.complain)
	}
}

// complain tells the peer of an error about its datagrams, as if it was about
// the last one.
func (a *association) complain(se *socketError) { a.exit.complain(se, a.quote()) }

// refuse does the same of an error that this host has found.
func (a *association) refuse(what icmpError) { a.exit.refuse(what, a.quote()) }

func (a *association) quote() []byte { return quoteDatagram(a.flow, int(a.size.Load())) }

func (a *association) touch() { a.last.Store(int64(time.Since(a.exit.since))) }
