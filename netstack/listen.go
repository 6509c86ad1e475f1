package netstack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"gatecontrol/model"
)

const (
	// listenBacklog bounds the connections that wait for Accept, as common
	// systems do.
	listenBacklog = 4096

	// handoverBacklog bounds those among them that were meant for a public
	// address of this host.
	handoverBacklog = 128
)

// listener is a TCP port on the tunnel address. Besides its own connections
// it accepts those that peers open to the same port of this host's public
// addresses.
type listener struct {
	d      *Device
	ep     tcpip.Endpoint
	wq     waiter.Queue
	addr   netip.AddrPort
	handed chan *tcpConn

	once sync.Once
	done chan struct{}
}

var _ net.Listener = (*listener)(nil)

// Listen opens a TCP port on the tunnel address, any free one if port is 0.
// A taken port is a KindConflict error. It may be called before Start.
func (d *Device) Listen(port uint16) (net.Listener, error) {
	l := &listener{d: d, handed: make(chan *tcpConn, handoverBacklog), done: make(chan struct{})}
	ep, terr := d.stack.NewEndpoint(tcp.ProtocolNumber, gvipv4.ProtocolNumber, &l.wq)
	if terr != nil {
		return nil, listenError("tcp", netip.AddrPortFrom(d.addr, port), terr)
	}
	terr = ep.Bind(fullAddress(netip.AddrPortFrom(d.addr, port)))
	if terr == nil {
		terr = ep.Listen(listenBacklog)
	}
	var bound tcpip.FullAddress
	if terr == nil {
		bound, terr = ep.GetLocalAddress()
	}
	if terr != nil {
		ep.Close()
		return nil, listenError("tcp", netip.AddrPortFrom(d.addr, port), terr)
	}
	l.ep, l.addr = ep, netip.AddrPortFrom(d.addr, bound.Port)
	d.addListener(l)
	return l, nil
}

func listenError(network string, addr netip.AddrPort, terr tcpip.Error) error {
	if _, taken := terr.(*tcpip.ErrPortInUse); taken {
		return model.Conflict("", "port %d/%s of the tunnel address is in use", addr.Port(), network)
	}
	return stackError("listen", network, addr, terr)
}

// Accept waits for the next connection. It returns net.ErrClosed after Close.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		if c, err := l.acceptOwn(); c != nil || err != nil {
			return c, err
		}
		select {
		case <-ready:
		case c := <-l.handed:
			return c, nil
		case <-l.done:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
		}
	}
}

// acceptOwn takes a connection out of the backlog; nil, nil if there is none.
func (l *listener) acceptOwn() (net.Conn, error) {
	for {
		var remote tcpip.FullAddress
		ep, wq, terr := l.ep.Accept(&remote)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return nil, nil
		default:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
		}
		// The peer may have been removed while the connection was in the backlog.
		from := addrPort(remote)
		if p := l.d.table.Load().lookup(from.Addr()); p != nil {
			return l.d.newTCPConn(wq, ep, p.identity, l.addr, from), nil
		}
		ep.Abort()
		ep.Close()
	}
}

// hand gives a connection to Accept. It reports false if too many wait.
func (l *listener) hand(c *tcpConn) bool {
	select {
	case l.handed <- c:
	default:
		return false
	}
	select {
	case <-l.done:
		l.refuseHanded() // Close may have looked before c was there
	default:
	}
	return true
}

// refuseHanded closes what was handed over and will not be accepted.
func (l *listener) refuseHanded() {
	for {
		select {
		case c := <-l.handed:
			_ = c.Close()
		default:
			return
		}
	}
}

// Close ends the listener and Accept, and refuses what waits to be accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.d.removeListener(l)
		close(l.done)
		l.ep.Close()
		l.refuseHanded()
	})
	return nil
}

// Addr returns the tunnel address and port.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (d *Device) addListener(l *listener) {
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	d.listeners[l.addr.Port()] = l
}

func (d *Device) removeListener(l *listener) {
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	if d.listeners[l.addr.Port()] == l {
		delete(d.listeners, l.addr.Port())
	}
}

// listener returns what listens on a TCP port of the tunnel address.
func (d *Device) listener(port uint16) *listener {
	d.listenersMu.RLock()
	defer d.listenersMu.RUnlock()
	return d.listeners[port]
}
