package netstack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// Echo flows: one per peer, destination and identifier, as a program that
	// pings has one. Each holds a descriptor and a goroutine of this host. A
	// peer's share lets a monitor watch a hundred hosts.
	maxEchoFlows, maxEchoFlowsPeer = 1024, 128

	// echoIdle ends an echo flow after this long without a message in either
	// direction: longer than any answer takes, and than programs pause.
	echoIdle = 30 * time.Second

	// echoRate and echoBurst bound the echo requests of one peer: messages per
	// second and at once. A route is traced with some thirty at once. What is
	// beyond is lost.
	echoRate, echoBurst = 100, 50
)

// errNoEcho says that the system lets this process open no ICMP socket.
var errNoEcho = errors.New("this process may open no ICMP socket")

// echoes are the echo flows that are open.
type echoes struct {
	mu    sync.Mutex
	flows map[echoKey]*echoFlow
	next  uint16 // identifier to try for the next raw socket
	frags fragments

	untold sync.Once // that ICMP sockets are not allowed
}

// echoKey is what tells echo flows apart. The port is the identifier.
type echoKey struct {
	src netip.AddrPort
	dst netip.Addr
}

// echoFlow carries the echo requests of one peer with one identifier to one
// destination. Requests are sent where the packet arrives; its goroutine
// brings back what is answered.
type echoFlow struct {
	exit *exit
	flow *flow // the port of its source is the peer's identifier
	from *identity
	conn net.Conn
	raw  syscall.RawConn

	// peer is what the socket is connected to. Datagram sockets read what others
	// send, too; raw sockets read only what it sends, of IPv4 with the IP header,
	// but whoever it is meant for. id is the identifier that this host uses.
	peer      netip.Addr
	rawSocket bool
	id        uint16

	idle time.Duration
	last atomic.Int64 // when a message passed: time since the exit was made

	mu    sync.Mutex // of sending
	write *datagramWriter
	ttl   uint8 // that the socket has, 0 for its own
}

// handleICMP takes the echo requests of peers to the outside. The stack answers
// those to its own address; it has put fragments together.
func (e *exit) handleICMP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src, dst := fromStack(id.RemoteAddress), fromStack(id.LocalAddress)
	if e.d.is(dst) || header.ICMPv4(pkt.TransportHeader().Slice()).Type() != header.ICMPv4Echo {
		return true
	}
	view := stack.PayloadSince(pkt.TransportHeader())
	defer view.Release()
	if ident, ok := parseEcho(view.AsSlice(), icmpEcho); ok {
		e.request(netip.AddrPortFrom(src, ident), dst, view.AsSlice(), hops(pkt.NetworkHeader().Slice()), func() []byte { return quotePacket(pkt) })
	}
	return true
}

// handleEcho6 does the same for IPv6, where the stack answers for every address.
// The packet has passed the filter.
func (e *exit) handleEcho6(packet []byte) {
	h, ok := parseIPv6(packet)
	if ok && h.fragment {
		if packet = e.echoes.frags.join(packet); packet == nil {
			return
		}
		h, ok = parseIPv6(packet)
	}
	if !ok || sum6(packet[h.length:h.total], packet[8:40]) != 0xffff {
		return
	}
	message := bytes.Clone(packet[h.length:h.total]) // to be written
	if ident, ok := parseEchoHeader(message, icmp6Echo); ok {
		src, dst := netip.AddrFrom16(h.src), netip.AddrFrom16(h.dst)
		e.request(netip.AddrPortFrom(src, ident), dst, message, packet[7], func() []byte { return packet })
	}
}

// request passes an echo request on. The port of src is its identifier; quote
// returns the packet that it came in.
func (e *exit) request(src netip.AddrPort, dst netip.Addr, message []byte, hops uint8, quote func() []byte) {
	p, v := e.judge(e.d.table.Load(), src.Addr(), netip.AddrPortFrom(dst, 0))
	switch {
	case p == nil || !p.echoes().Allow():
	case hops <= 1:
		e.refuse(errorHops, quote())
	case v != allowed:
		e.refuse(errorProhibited, quote())
	default:
		f, err := e.echo(p, src, dst)
		if f != nil {
			err = f.send(message, hops-1)
		}
		if what, ok := localError(err); ok {
			e.refuse(what, quote())
		}
	}
}

// echo returns the flow of a peer's echo requests, which it opens if there is
// none. The flow is nil, perhaps without an error, if there can be none.
func (e *exit) echo(p *peer, src netip.AddrPort, dst netip.Addr) (*echoFlow, error) {
	key := echoKey{src, dst}
	e.echoes.mu.Lock()
	f := e.echoes.flows[key]
	e.echoes.mu.Unlock()
	if f != nil && f.from == p.identity {
		return f, nil
	}
	if !e.acquireSocket(&e.echoFlows, &p.echoFlows, maxEchoFlows, maxEchoFlowsPeer) {
		return nil, nil // the peer may try again
	}
	ctx, base := e.open(p.identity, src, netip.AddrPortFrom(dst, 0), allowed)
	if base == nil {
		e.releaseSocket(&e.echoFlows, &p.echoFlows)
		return nil, nil
	}
	f, err := e.connectEcho(ctx, base)
	if err != nil {
		e.releaseSocket(&e.echoFlows, &p.echoFlows)
		e.end(base)
		return nil, err
	}
	e.echoes.mu.Lock()
	if f.rawSocket {
		f.id = e.echoes.freeID(dst)
	}
	e.echoes.flows[key] = f
	e.echoes.mu.Unlock()
	go f.run() // ends with the flow, which exit.wait waits for
	return f, nil
}

// connectEcho opens this host's side of a flow.
func (e *exit) connectEcho(ctx context.Context, base *flow) (*echoFlow, error) {
	host, err := e.dial(ctx, "icmp", base.dst)
	if err != nil {
		if errors.Is(err, errNoEcho) {
			e.echoes.untold.Do(func() {
				e.log.Warn("peers cannot ping through the exit", "err", err,
					"allow", `sysctl net.ipv4.ping_group_range="0 2147483647"`)
			})
			return nil, syscall.EACCES
		}
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			return nil, errno
		}
		return nil, err
	}
	if !base.setHost(host) {
		return nil, net.ErrClosed
	}
	f := &echoFlow{exit: e, flow: base, from: base.from, conn: host, peer: base.dst.Addr(), idle: e.echoIdle, write: newDatagramWriter(host)}
	if f.raw = f.write.raw; f.raw == nil {
		return nil, net.UnknownNetworkError(host.LocalAddr().Network())
	}
	switch local := host.LocalAddr().(type) {
	case *net.UDPAddr:
		f.id = uint16(local.Port)
	case *net.IPAddr:
		f.rawSocket = true
	default:
		return nil, net.UnknownNetworkError(local.Network())
	}
	if remote, ok := host.RemoteAddr().(*net.UDPAddr); ok { // the system does not tell of ICMP sockets
		f.peer = remote.AddrPort().Addr().Unmap()
	}
	reportErrors(f.raw, f.peer)
	f.touch()
	return f, nil
}

// freeID returns an identifier that no other flow to dst has.
func (s *echoes) freeID(dst netip.Addr) uint16 {
	if s.next == 0 {
		s.next = uint16(rand.Uint32())
	}
	for {
		s.next++
		taken := false
		for key, f := range s.flows {
			taken = taken || key.dst == dst && f.id == s.next
		}
		if !taken {
			return s.next
		}
	}
}

// send sends an echo request of the peer, whose identifier it replaces.
func (f *echoFlow) send(message []byte, ttl uint8) error {
	f.touch()
	setEchoID(message, f.id)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ttl != ttl {
		setTTL(f.raw, f.peer, ttl)
		f.ttl = ttl
	}
	err := f.write.write(message)
	if isReported(err) { // about an earlier one, perhaps
		f.exit.takeErrors(f.raw, f.complain)
		err = f.write.write(message)
	}
	return err
}

// run brings back what is answered until nothing has passed for the idle time
// or the flow ends.
func (f *echoFlow) run() {
	e := f.exit
	defer e.end(f.flow)
	defer e.releaseSocket(&e.echoFlows, &f.from.echoFlows)
	defer e.forget(f)
	for {
		left := f.idle - (time.Since(e.since) - time.Duration(f.last.Load()))
		if left <= 0 || f.conn.SetReadDeadline(time.Now().Add(left)) != nil {
			return
		}
		if err := f.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

func (e *exit) forget(f *echoFlow) {
	key := echoKey{f.flow.src, f.flow.dst.Addr()}
	e.echoes.mu.Lock()
	defer e.echoes.mu.Unlock()
	if e.echoes.flows[key] == f {
		delete(e.echoes.flows, key)
	}
}

// receive passes answers on until reading fails.
func (f *echoFlow) receive() error {
	for {
		b, buf, err := f.next()
		if err == nil && b != nil {
			f.answer(b)
		}
		if buf != nil {
			f.exit.buffers.Put(buf)
		}
		switch {
		case isReported(err):
			f.exit.takeErrors(f.raw, f.complain)
		case err != nil:
			return err
		}
	}
}

// next waits for a message, which is nil if it came from somebody else. The
// buffer that holds it, if it is not nil, belongs to the caller, who puts it
// back into the pool; none is held while waiting.
func (f *echoFlow) next() (b []byte, buf *[copyBuffer]byte, err error) {
	pool := &f.exit.buffers
	closed := f.raw.Read(func(fd uintptr) bool {
		var n int
		var from netip.Addr
		buf = pool.Get().(*[copyBuffer]byte)
		if n, from, err = receiveFrom(fd, buf[:]); err == syscall.EAGAIN {
			pool.Put(buf)
			buf, err = nil, nil
			return false
		}
		if err == nil && (f.rawSocket || from == f.peer) {
			b = buf[:n]
		}
		return true
	})
	return b, buf, cmp.Or(closed, err)
}

// answer passes an echo reply on to the peer. b may be anything.
func (f *echoFlow) answer(b []byte) {
	var id uint16
	var ok bool
	if f.peer.Is6() {
		id, ok = parseEchoHeader(b, icmp6EchoReply) // the system has verified it
	} else {
		if f.rawSocket {
			h, ok := parseIPv4(b)
			if !ok {
				return
			}
			b = b[h.length:h.total]
		}
		id, ok = parseEcho(b, icmpEchoReply)
	}
	if !ok || id != f.id {
		return
	}
	f.touch()
	setEchoID(b, f.flow.src.Port())
	f.exit.sendICMP(f.flow.dst.Addr(), f.flow.src.Addr(), 0, b)
}

// complain passes an ICMP error about one of the requests on to the peer.
func (f *echoFlow) complain(se *socketError) {
	typ := uint8(icmpEcho)
	if se.v6 {
		typ = icmp6Echo
	}
	if id, ok := parseEchoHeader(se.about, typ); ok && id == f.id {
		f.exit.complain(se, quoteEcho(f.flow, se.about))
	}
}

func (f *echoFlow) touch() { f.last.Store(int64(time.Since(f.exit.since))) }

// echoes returns what bounds the echo requests of a peer.
func (i *identity) echoes() *rate.Limiter {
	if l := i.echoRate.Load(); l != nil {
		return l
	}
	i.echoRate.CompareAndSwap(nil, rate.NewLimiter(echoRate, echoBurst))
	return i.echoRate.Load()
}
