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
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// handedBacklog bounds the datagrams that wait to be read from a packetListener
// and were meant for another address. What is beyond is lost, as on any network.
const handedBacklog = 256

// packetListener is a UDP port on the tunnel addresses. Besides its own datagrams
// it takes those that peers send to other addresses and that the exit hands over.
type packetListener struct {
	d      *Device
	doors  []door       // one for each tunnel address, the one of IPv4 first
	wq     waiter.Queue // of all doors
	handed chan handedDatagram
	turn   atomic.Uint32 // of the two

	once sync.Once
	done chan struct{}
}

var _ net.PacketConn = (*packetListener)(nil)

// handedDatagram is one that was meant for another address.
type handedDatagram struct {
	payload []byte
	from    otherSender
}

// otherSender is a sender that wrote to another address than the tunnel's of
// IPv4, and so gets its answers from there: from an endpoint of the stack or, if
// that is nil, from an address that is not the stack's.
type otherSender struct {
	*net.UDPAddr
	ep   tcpip.Endpoint
	to   netip.AddrPort
	peer *identity
}

// ListenPacket opens a UDP port on the tunnel addresses, any free one if port is
// 0. A taken port is a KindConflict error. It may be called before Start. WriteTo
// takes any address, but answers a sender from where it wrote to only if it gets
// the one that ReadFrom returned. There are no deadlines.
func (d *Device) ListenPacket(port uint16) (net.PacketConn, error) {
	l := &packetListener{d: d, handed: make(chan handedDatagram, handedBacklog), done: make(chan struct{})}
	var err error
	l.doors, err = d.openDoors("udp", port, func(addr netip.AddrPort) (door, tcpip.Error) {
		return d.openDoor(udp.ProtocolNumber, &l.wq, addr)
	})
	if err != nil {
		return nil, err
	}
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	d.packetListeners[l.port()] = l
	return l, nil
}

func (l *packetListener) port() uint16 { return l.doors[0].addr.Port() }

// hand gives a datagram of a peer to ReadFrom, and copies its payload.
func (l *packetListener) hand(payload []byte, peer *identity, from, to netip.AddrPort) {
	select {
	case l.handed <- handedDatagram{bytes.Clone(payload), otherSender{net.UDPAddrFromAddrPort(from), nil, to, peer}}:
	default:
	}
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
		case d := <-l.handed:
			return copy(b, d.payload), d.from, nil
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
	if l.turn.Add(1)%2 == 0 { // so that neither keeps the other waiting
		select {
		case d := <-l.handed:
			return copy(b, d.payload), d.from, true, nil
		default:
		}
	}
	for i, door := range l.doors {
		w := tcpip.SliceWriter(b)
		res, terr := door.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			sender := net.UDPAddrFromAddrPort(addrPort(res.RemoteAddr))
			if i > 0 {
				return res.Count, otherSender{UDPAddr: sender, ep: door.ep}, true, nil
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
	if o, ok := to.(otherSender); ok && o.ep == nil {
		l.answer(b, o)
		return len(b), nil
	} else if ok {
		ep, to = o.ep, o.UDPAddr
	}
	ua, ok := to.(*net.UDPAddr)
	if !ok || !ua.AddrPort().IsValid() {
		return 0, l.opError("write", net.InvalidAddrError("not an IP address"))
	}
	addr := netip.AddrPortFrom(ua.AddrPort().Addr().Unmap().WithZone(""), ua.AddrPort().Port())
	if ep == nil {
		i := slices.IndexFunc(l.doors, func(d door) bool { return d.addr.Addr().Is6() == addr.Addr().Is6() })
		if i < 0 {
			return 0, l.opError("write", net.InvalidAddrError("there is no IPv6 in the tunnel"))
		}
		ep = l.doors[i].ep
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

// answer sends b to a peer from the address that it wrote to, if it is still the
// one who wrote.
func (l *packetListener) answer(b []byte, o otherSender) {
	to := o.UDPAddr.AddrPort()
	if p := l.d.table.Load().lookup(to.Addr()); p != nil && p.identity == o.peer {
		if b := l.d.exit.sendDatagrams(p, o.to, to, b, []int{len(b)}); b != nil {
			b.SendSoon(true)
		}
	}
}

func (l *packetListener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Addr: l.LocalAddr(), Err: err}
}

// Close ends the port on every address, and ReadFrom.
func (l *packetListener) Close() error {
	l.once.Do(func() {
		l.d.listenersMu.Lock()
		if l.d.packetListeners[l.port()] == l {
			delete(l.d.packetListeners, l.port())
		}
		l.d.listenersMu.Unlock()
		close(l.done)
		for _, door := range l.doors {
			door.ep.Close()
		}
	})
	return nil
}

// LocalAddr returns the tunnel address of IPv4, and the port.
func (l *packetListener) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(l.doors[0].addr) }

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
