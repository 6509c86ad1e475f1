package netstack

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"gatecontrol/model"
)

// Bounds of the exit, for all peers together and for one.
const (
	// TCP flows whose destination has not answered yet. Each is one dial of
	// this host; more of them only come from scans and floods.
	maxHalfOpen, maxHalfOpenPeer = 4096, 512

	// TCP flows in all. Each holds a descriptor of this host and up to 14 MiB
	// of buffers while it moves data.
	maxTCPFlows, maxTCPFlowsPeer = 16384, 4096

	// UDP flows. Each holds a descriptor.
	maxUDPFlows, maxUDPFlowsPeer = 16384, 2048
)

// abortInterval is how long wait gives flows to end before it looks again.
const abortInterval = 20 * time.Millisecond

// dnsPort is the one of DNS (RFC 1035 section 4.2).
const dnsPort = 53

// dialTimeout ends a dial that gets no answer. Peers give up on their own, but
// not all of them do so.
const dialTimeout = 30 * time.Second

// exit carries flows of peers to the internet: they end here, TCP in the stack,
// and this host dials their destination.
type exit struct {
	log     *slog.Logger
	d       *Device
	dial    func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	hosts   *hostAddrs
	room    *model.Room
	forward *tcp.Forwarder

	ctx    context.Context // ends dials on close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of flows
	since  time.Time

	udpIdle, udpIdleDNS, echoIdle time.Duration

	halfOpen, tcpFlows, udpFlows, echoFlows atomic.Int32

	echoes       echoes
	associations associations
	datagrams    atomic.Uint32 // to peers: numbers them

	buffers         sync.Pool // of *[copyBuffer]byte
	datagramBuffers sync.Pool // of *[datagramBuffer]byte

	mu     sync.Mutex
	flows  map[*flow]struct{}
	closed bool
}

// flow is one TCP connection, UDP association or series of echo requests
// through the exit. Echo has no ports; its identifier stands for the peer's.
type flow struct {
	from *identity
	src  netip.AddrPort
	dst  netip.AddrPort
	as   ruling // what was said of it: allowed or ourselves

	done   <-chan struct{} // closed by abort
	cancel context.CancelFunc

	mu   sync.Mutex
	ep   tcpip.Endpoint // the peer's side; nil until the flow is accepted, and for all but TCP
	host net.Conn       // the destination's side; nil until it was dialed
}

func newExit(d *Device, public []netip.Addr, dial func(context.Context, string, netip.AddrPort) (net.Conn, error)) *exit {
	e := &exit{
		log: d.log, d: d, dial: dial, hosts: newHostAddrs(d.log, public), since: time.Now(),
		udpIdle: udpIdle, udpIdleDNS: udpIdleDNS, echoIdle: echoIdle,
		flows: make(map[*flow]struct{}), echoes: echoes{flows: make(map[echoKey]*echoFlow)},
		associations: associations{flows: make(map[flowKey]*association)},
	}
	if e.dial == nil {
		e.dial = e.dialHost
	}
	e.buffers.New = func() any { return new([copyBuffer]byte) }
	e.datagramBuffers.New = func() any { return new([datagramBuffer]byte) }
	e.ctx, e.cancel = context.WithCancel(context.Background())
	// The forwarder's own bound silently drops, so ours, which refuses, comes first.
	e.forward = tcp.NewForwarder(d.stack, tcpBufferInit, 2*maxHalfOpen, e.serveTCP)
	d.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, e.handleTCP)
	d.stack.SetTransportProtocolHandler(udp.ProtocolNumber, e.handleUDP)
	d.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, e.handleICMP)
	return e
}

// rules are what destinations are judged by under table t.
func (e *exit) rules(t *table) exitRules {
	return exitRules{
		tunnel: t.self.inside, private: t.config.Exit.Private,
		host:  e.hosts.contains,
		peers: func(addr netip.Addr) bool { return t.lookup(addr) != nil },
	}
}

// judge decides about a flow from a peer. The peer is nil if the source is
// nobody's, and then the flow is refused. Echo has no port.
func (e *exit) judge(t *table, src netip.Addr, dst netip.AddrPort) (*peer, ruling) {
	p := t.lookup(src)
	if p == nil {
		return nil, refused
	}
	v := e.rules(t).judge(dst.Addr())
	switch {
	case v != allowed:
	case t.config.Exit.RedirectDNS && dst.Port() == dnsPort:
		v = ourselves
	case p.NoExit || !t.config.Exit.Enabled:
		v = refused
	}
	return p, v
}

// dialHost dials from this host, from an ephemeral port. The address is judged
// once more where the system is told it.
func (e *exit) dialHost(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	if network == "icmp" {
		if e.rules(e.d.table.Load()).judge(addr.Addr()) != allowed {
			return nil, syscall.EACCES
		}
		return dialICMP(addr.Addr())
	}
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount},
		Control: func(network, address string, c syscall.RawConn) error {
			dialed, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("judge %s: %w", address, err)
			}
			if e.rules(e.d.table.Load()).judge(dialed.Addr()) != allowed {
				return syscall.EACCES
			}
			if strings.HasPrefix(network, "udp") {
				return noBroadcast(c)
			}
			return nil
		},
	}
	return dialer.DialContext(ctx, network, addr.String())
}

// noBroadcast takes back what the runtime gives every UDP socket. Only the
// system knows which addresses are broadcasts of the networks around this host.
func noBroadcast(c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 0)
	}); cerr != nil {
		return cerr
	}
	return err
}

// open registers a flow, which the exit waits for until end is called. The
// context ends with the flow. It returns nil if the exit is closed, or if a
// change that did not see the flow has taken its right away.
func (e *exit) open(from *identity, src, dst netip.AddrPort, as ruling) (context.Context, *flow) {
	ctx, cancel := context.WithCancel(e.ctx)
	f := &flow{from: from, src: src, dst: dst, as: as, done: ctx.Done(), cancel: cancel}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		cancel()
		return nil, nil
	}
	e.wg.Add(1)
	e.flows[f] = struct{}{}
	e.mu.Unlock()
	if !e.permits(e.d.table.Load(), f) {
		e.end(f)
		return nil, nil
	}
	return ctx, f
}

// permits reports whether f may be open under table t.
func (e *exit) permits(t *table, f *flow) bool {
	p, v := e.judge(t, f.src.Addr(), f.dst)
	return p != nil && p.identity == f.from && v == f.as
}

func (e *exit) end(f *flow) {
	f.abort()
	e.mu.Lock()
	delete(e.flows, f)
	e.mu.Unlock()
	e.wg.Done()
}

// setHost and setEndpoint give a flow its two sides. They report false, and
// close what they are given, if the flow was aborted meanwhile.
func (f *flow) setHost(c net.Conn) bool {
	f.mu.Lock()
	f.host = c
	f.mu.Unlock()
	return f.alive()
}

func (f *flow) setEndpoint(ep tcpip.Endpoint) bool {
	f.mu.Lock()
	f.ep = ep
	f.mu.Unlock()
	return f.alive()
}

func (f *flow) alive() bool {
	select {
	case <-f.done:
		f.release()
		return false
	default:
		return true
	}
}

// abort ends the flow on both sides at once.
func (f *flow) abort() {
	f.cancel()
	f.release()
}

// detach takes the peer's side out of the flow, which then does not close it.
// It returns nil if the flow was aborted.
func (f *flow) detach() tcpip.Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	ep := f.ep
	f.ep = nil
	return ep
}

// release closes what the flow has. It may be called more than once.
func (f *flow) release() {
	f.mu.Lock()
	ep, host := f.ep, f.host
	f.ep, f.host = nil, nil
	f.mu.Unlock()
	if host != nil {
		_ = host.Close()
	}
	if ep != nil {
		ep.Abort()
		ep.Close()
	}
}

// review ends the flows that a new table does not allow any more.
func (e *exit) review(t *table) {
	e.mu.Lock()
	var over []*flow
	for f := range e.flows {
		if !e.permits(t, f) {
			over = append(over, f)
		}
	}
	e.mu.Unlock()
	for _, f := range over {
		f.abort()
	}
}

func (e *exit) status() ExitStatus {
	return ExitStatus{
		HalfOpen:  int(e.halfOpen.Load()),
		TCPFlows:  int(e.tcpFlows.Load()),
		UDPFlows:  int(e.udpFlows.Load()),
		EchoFlows: int(e.echoFlows.Load()),
	}
}

// stop ends all flows and lets no new ones in. Their goroutines end once the
// stack has aborted the handshakes that they may be in; see wait.
func (e *exit) stop() {
	e.mu.Lock()
	e.closed = true
	open := make([]*flow, 0, len(e.flows))
	for f := range e.flows {
		open = append(open, f)
	}
	e.mu.Unlock()
	e.cancel()
	for _, f := range open {
		f.abort()
	}
}

// wait returns when every flow has ended. abort ends the stack's handshakes;
// it is called again for one that was just beginning.
func (e *exit) wait(abort func()) {
	ended := make(chan struct{})
	go func() { // ends with the flows
		e.wg.Wait()
		close(ended)
	}()
	for {
		abort()
		select {
		case <-ended:
			return
		case <-time.After(abortInterval):
		}
	}
}

// acquire counts one more of something that is bounded in all and per peer.
func acquire(all, own *atomic.Int32, maxAll, maxOwn int32) bool {
	if own.Add(1) > maxOwn {
		own.Add(-1)
		return false
	}
	if all.Add(1) > maxAll {
		own.Add(-1)
		all.Add(-1)
		return false
	}
	return true
}

// acquireSocket is acquire for what holds a socket of this host.
func (e *exit) acquireSocket(all, own *atomic.Int32, maxAll, maxOwn int32) bool {
	if !acquire(all, own, maxAll, maxOwn) {
		return false
	}
	if !e.room.Take(1) {
		release(all, own)
		return false
	}
	return true
}

func (e *exit) releaseSocket(all, own *atomic.Int32) {
	e.room.Give(1)
	release(all, own)
}

func release(all, own *atomic.Int32) {
	own.Add(-1)
	all.Add(-1)
}
