package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// maxPublicSockets bounds the addresses of this host that one UDP port answers
// on. Hosts have a few.
const maxPublicSockets = 64

// packetListener is a UDP port on the tunnel addresses. Besides its own datagrams
// it takes those that peers send to the same port of this host's public
// addresses, through a socket for each that is opened when the first one comes.
type packetListener struct {
	d    *Device
	addr netip.AddrPort // of IPv4
	wq   waiter.Queue   // of all sockets
	done chan struct{}

	mu      sync.Mutex
	closed  bool
	sockets atomic.Pointer[[]door] // those of the tunnel addresses first, as in own
}

var _ net.PacketConn = (*packetListener)(nil)

// publicSender is a sender that wrote to another address than the tunnel's of
// IPv4, and so gets its answers from there.
type publicSender struct {
	*net.UDPAddr
	ep tcpip.Endpoint
}

// ListenPacket opens a UDP port on the tunnel addresses, any free one if port is
// 0. A taken port is a KindConflict error. It may be called before Start. WriteTo
// takes any address, but answers a sender from where it wrote to only if it gets
// the one that ReadFrom returned. There are no deadlines.
func (d *Device) ListenPacket(port uint16) (net.PacketConn, error) {
	l := &packetListener{d: d, done: make(chan struct{})}
	sockets, err := d.openDoors("udp", port, l.bind)
	if err != nil {
		return nil, err
	}
	l.addr = sockets[0].addr
	l.sockets.Store(&sockets)
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	d.packetListeners[l.addr.Port()] = l
	return l, nil
}

func (l *packetListener) bind(addr netip.AddrPort) (door, tcpip.Error) {
	return l.d.openDoor(udp.ProtocolNumber, &l.wq, addr)
}

// take accepts the first datagram that came to a public address; those after it
// find the socket. It reports false if there can be none.
func (l *packetListener) take(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	sockets := *l.sockets.Load()
	addr := netip.AddrPortFrom(fromStack(id.LocalAddress), l.addr.Port())
	i := slices.IndexFunc(sockets, func(s door) bool { return s.addr == addr })
	if i < 0 { // else another datagram was faster
		if l.closed || len(sockets) > maxPublicSockets {
			return false
		}
		s, terr := l.bind(addr)
		if terr != nil {
			return false
		}
		i, sockets = len(sockets), append(slices.Clip(sockets), s)
		l.sockets.Store(&sockets)
	}
	if ep, ok := sockets[i].ep.(stack.TransportEndpoint); ok {
		ep.HandlePacket(id, pkt)
	}
	return true
}

// ReadFrom returns net.ErrClosed after Close.
func (l *packetListener) ReadFrom(b []byte) (int, net.Addr, error) {
	if n, from, ok, err := l.read(b); ok {
		return n, from, err
	}
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		if n, from, ok, err := l.read(b); ok {
			return n, from, err
		}
		select {
		case <-ready:
		case <-l.done:
		}
	}
}

// read reads what is there; ok is false if there is nothing.
func (l *packetListener) read(b []byte) (n int, from net.Addr, ok bool, err error) {
	select {
	case <-l.done:
		return 0, nil, true, l.opError("read", net.ErrClosed)
	default:
	}
	for i, s := range *l.sockets.Load() {
		w := tcpip.SliceWriter(b)
		res, terr := s.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			sender := net.UDPAddrFromAddrPort(addrPort(res.RemoteAddr))
			if i > 0 {
				return res.Count, publicSender{sender, s.ep}, true, nil
			}
			return res.Count, sender, true, nil
		case *tcpip.ErrClosedForReceive:
			return 0, nil, true, l.opError("read", net.ErrClosed)
		}
	}
	return 0, nil, false, nil
}

// WriteTo loses the datagram, as any network may, if the stack has no room.
func (l *packetListener) WriteTo(b []byte, to net.Addr) (int, error) {
	var ep tcpip.Endpoint
	if p, ok := to.(publicSender); ok {
		ep, to = p.ep, p.UDPAddr
	}
	ua, ok := to.(*net.UDPAddr)
	if !ok || !ua.AddrPort().IsValid() {
		return 0, l.opError("write", net.InvalidAddrError("not an IP address"))
	}
	addr := netip.AddrPortFrom(ua.AddrPort().Addr().Unmap().WithZone(""), ua.AddrPort().Port())
	if ep == nil {
		sockets := *l.sockets.Load()
		i := slices.IndexFunc(sockets, func(s door) bool { return s.addr.Addr().Is6() == addr.Addr().Is6() })
		if i < 0 {
			return 0, l.opError("write", net.InvalidAddrError("there is no IPv6 in the tunnel"))
		}
		ep = sockets[i].ep
	}
	dst := fullAddress(addr)
	var r bytes.Reader
	r.Reset(b)
	_, terr := ep.Write(&r, tcpip.WriteOptions{To: &dst})
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock, *tcpip.ErrNoBufferSpace:
		return len(b), nil
	case *tcpip.ErrClosedForSend, *tcpip.ErrInvalidEndpointState:
		return 0, l.opError("write", net.ErrClosed)
	}
	return 0, stackError("write", "udp", addrPort(dst), terr)
}

func (l *packetListener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Addr: l.LocalAddr(), Err: err}
}

// Close ends the port on every address, and ReadFrom.
func (l *packetListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	l.d.listenersMu.Lock()
	if port := l.addr.Port(); l.d.packetListeners[port] == l {
		delete(l.d.packetListeners, port)
	}
	l.d.listenersMu.Unlock()
	for _, s := range *l.sockets.Load() {
		s.ep.Close()
	}
	return nil
}

// LocalAddr returns the tunnel address of IPv4, and the port.
func (l *packetListener) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(l.addr) }

// SetDeadline, like the two below, is not offered.
func (l *packetListener) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (l *packetListener) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (l *packetListener) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// packetListener returns what listens on a UDP port of the tunnel address.
func (d *Device) packetListener(port uint16) *packetListener {
	d.listenersMu.RLock()
	defer d.listenersMu.RUnlock()
	return d.packetListeners[port]
}
