package netstack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
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

	// portTries bounds the search for a port that is free on both tunnel addresses.
	portTries = 100
)

// listener is a TCP port on the tunnel addresses. Besides its own connections
// it accepts those that peers open to the same port of this host's public
// addresses.
type listener struct {
	d      *Device
	doors  []door // one for each tunnel address, the one of IPv4 first
	wq     waiter.Queue
	handed chan *tcpConn

	once sync.Once
	done chan struct{}
}

var _ net.Listener = (*listener)(nil)

// door is a port of one address.
type door struct {
	ep   tcpip.Endpoint
	addr netip.AddrPort
}

// openDoors opens a port on every tunnel address, the same on all. Port 0 is one
// that is free on all.
func (d *Device) openDoors(network string, port uint16, open func(netip.AddrPort) (door, tcpip.Error)) (doors []door, err error) {
	for range portTries {
		doors = doors[:0]
		at := port
		for _, addr := range d.own() {
			opened, terr := open(netip.AddrPortFrom(addr, at))
			if terr != nil {
				for _, o := range doors {
					o.ep.Close()
				}
				err = listenError(network, netip.AddrPortFrom(addr, at), terr)
				break
			}
			at = opened.addr.Port()
			doors = append(doors, opened)
		}
		if len(doors) == len(d.own()) {
			return doors, nil
		}
		if port != 0 {
			break
		}
	}
	return nil, err
}

// openDoor binds one endpoint.
func (d *Device) openDoor(proto tcpip.TransportProtocolNumber, wq *waiter.Queue, addr netip.AddrPort) (door, tcpip.Error) {
	ep, terr := d.stack.NewEndpoint(proto, protocolOf(addr.Addr()), wq)
	if terr != nil {
		return door{}, terr
	}
	if proto == tcp.ProtocolNumber {
		ep.SocketOptions().SetReceiveBufferSize(intakeFirst, false) // of what it accepts
	}
	terr = ep.Bind(fullAddress(addr))
	if terr == nil && proto == tcp.ProtocolNumber {
		terr = ep.Listen(listenBacklog)
	}
	var bound tcpip.FullAddress
	if terr == nil {
		bound, terr = ep.GetLocalAddress()
	}
	if terr != nil {
		ep.Close()
		return door{}, terr
	}
	return door{ep, netip.AddrPortFrom(addr.Addr(), bound.Port)}, nil
}

// Listen opens a TCP port on the tunnel addresses, any free one if port is 0.
// A taken port is a KindConflict error. It may be called before Start.
func (d *Device) Listen(port uint16) (net.Listener, error) {
	l := &listener{d: d, handed: make(chan *tcpConn, handoverBacklog), done: make(chan struct{})}
	var err error
	l.doors, err = d.openDoors("tcp", port, func(addr netip.AddrPort) (door, tcpip.Error) {
		return d.openDoor(tcp.ProtocolNumber, &l.wq, addr)
	})
	if err != nil {
		return nil, err
	}
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

// acceptOwn takes a connection out of the backlogs; nil, nil if there is none.
func (l *listener) acceptOwn() (net.Conn, error) {
	for _, door := range l.doors {
		if c, err := l.acceptAt(door); c != nil || err != nil {
			return c, err
		}
	}
	return nil, nil
}

func (l *listener) acceptAt(door door) (net.Conn, error) {
	for {
		var remote tcpip.FullAddress
		ep, wq, terr := door.ep.Accept(&remote)
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
			return l.d.newTCPConn(wq, ep, p.identity, door.addr, from), nil
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
		for _, door := range l.doors {
			door.ep.Close()
		}
		l.refuseHanded()
	})
	return nil
}

// Addr returns the tunnel address of IPv4, and the port.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.doors[0].addr) }

func (l *listener) port() uint16 { return l.doors[0].addr.Port() }

func (d *Device) addListener(l *listener) {
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	d.listeners[l.port()] = l
}

func (d *Device) removeListener(l *listener) {
	d.listenersMu.Lock()
	defer d.listenersMu.Unlock()
	if d.listeners[l.port()] == l {
		delete(d.listeners, l.port())
	}
}

// listener returns what listens on a TCP port of the tunnel address.
func (d *Device) listener(port uint16) *listener {
	d.listenersMu.RLock()
	defer d.listenersMu.RUnlock()
	return d.listeners[port]
}
