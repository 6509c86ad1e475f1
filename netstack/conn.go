package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	gvipv4 "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gvipv6 "gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcpConn is a TCP connection of the stack. It knows its addresses also after
// it was cut, when the stack has forgotten them.
type tcpConn struct {
	*gonet.TCPConn
	flight        *flight
	intake        *intake
	local, remote *net.TCPAddr
}

// newTCPConn wraps an endpoint that is connected to a peer and turns keepalive
// on.
func (d *Device) newTCPConn(wq *waiter.Queue, ep tcpip.Endpoint, peer *identity, local, remote netip.AddrPort) *tcpConn {
	setKeepalive(ep)
	return &tcpConn{
		TCPConn: gonet.NewTCPConn(wq, ep), flight: d.flights.add(ep, peer), intake: peer.intakes.add(ep),
		local: net.TCPAddrFromAddrPort(local), remote: net.TCPAddrFromAddrPort(remote),
	}
}

// WriteSize returns how many bytes are best written at once: they leave
// together, with nothing small behind them.
func (c *tcpConn) WriteSize() int { return c.flight.all.writeSize }

// Write waits until b is written, but not until it has arrived.
func (c *tcpConn) Write(b []byte) (int, error) {
	c.flight.write(len(b))
	return c.TCPConn.Write(b)
}

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.intake.read(n)
	return n, err
}

// Buffered returns how many bytes can be read without waiting.
func (c *tcpConn) Buffered() int {
	n, _ := c.flight.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption) // 0 of a closed one
	return n
}

// Quiet reports whether the connection is open in both directions and there is
// nothing to be read.
func (c *tcpConn) Quiet() bool {
	return c.flight.ep.Readiness(waiter.ReadableEvents|waiter.EventRdHUp|waiter.EventHUp|waiter.EventErr) == 0
}

func (c *tcpConn) LocalAddr() net.Addr  { return c.local }
func (c *tcpConn) RemoteAddr() net.Addr { return c.remote }

// Close ends the connection in good order, and calls that wait in it at once.
func (c *tcpConn) Close() error {
	_ = c.SetDeadline(time.Unix(0, 0))
	c.intake.close()
	return c.TCPConn.Close()
}

// SetLinger has Close reset the connection, if sec is 0, or end it in good order, if it
// is below.
func (c *tcpConn) SetLinger(sec int) error {
	c.flight.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

func setKeepalive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// dialTCP connects to addr, an address of peer, from the tunnel address.
func (d *Device) dialTCP(ctx context.Context, peer *identity, addr netip.AddrPort) (*tcpConn, error) {
	var wq waiter.Queue
	ep, terr := d.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(addr.Addr()), &wq)
	if terr != nil {
		return nil, stackError("dial", "tcp", addr, terr)
	}
	ep.SocketOptions().SetReceiveBufferSize(intakeFirst, false) // before the peer is told a window
	connected, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&connected)
	defer wq.EventUnregister(&connected)

	// Not bound first: so the stack picks a port that is free for this target
	// rather than one that is free for all.
	terr = ep.Connect(fullAddress(addr))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			ep.Close()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: ctx.Err()}
		case <-ready:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, stackError("dial", "tcp", addr, terr)
	}
	local, terr := ep.GetLocalAddress()
	if state := tcp.EndpointState(ep.State()); terr == nil && state != tcp.StateEstablished && state != tcp.StateCloseWait {
		terr = &tcpip.ErrAborted{} // cut while it was connecting
	}
	if terr != nil {
		ep.Close()
		return nil, stackError("dial", "tcp", addr, terr)
	}
	return d.newTCPConn(&wq, ep, peer, addrPort(local), addr), nil
}

// udpConn is a UDP socket of the stack, connected to a peer.
type udpConn struct {
	*gonet.UDPConn
	local, remote *net.UDPAddr
}

// dialUDP opens a UDP socket from the address local to addr.
func dialUDP(s *stack.Stack, local netip.Addr, addr netip.AddrPort) (*udpConn, error) {
	var wq waiter.Queue
	ep, terr := s.NewEndpoint(udp.ProtocolNumber, protocolOf(addr.Addr()), &wq)
	if terr != nil {
		return nil, stackError("dial", "udp", addr, terr)
	}
	terr = ep.Bind(fullAddress(netip.AddrPortFrom(local, 0)))
	if terr == nil {
		terr = ep.Connect(fullAddress(addr))
	}
	var bound tcpip.FullAddress
	if terr == nil {
		bound, terr = ep.GetLocalAddress()
	}
	if terr != nil {
		ep.Close()
		return nil, stackError("dial", "udp", addr, terr)
	}
	return &udpConn{
		UDPConn: gonet.NewUDPConn(&wq, ep), remote: net.UDPAddrFromAddrPort(addr),
		local: net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, bound.Port)),
	}, nil
}

func (c *udpConn) LocalAddr() net.Addr  { return c.local }
func (c *udpConn) RemoteAddr() net.Addr { return c.remote }

// Read returns net.ErrClosed once the socket is closed or its peer cut off.
func (c *udpConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	if errors.Is(err, io.EOF) {
		err = net.ErrClosed
	}
	return n, err
}

func (c *udpConn) Close() error {
	_ = c.SetDeadline(time.Unix(0, 0))
	return c.UDPConn.Close()
}

// readEndpoint reads what is there, without waiting. It returns 0, nil, true
// if there is nothing, and io.EOF after the other side's end.
func readEndpoint(ep tcpip.Endpoint, b []byte) (n int, err error, empty bool) {
	w := tcpip.SliceWriter(b)
	res, terr := ep.Read(&w, tcpip.ReadOptions{})
	switch terr.(type) {
	case nil:
		return res.Count, nil, false
	case *tcpip.ErrWouldBlock:
		return 0, nil, true
	case *tcpip.ErrClosedForReceive:
		return 0, io.EOF, false
	}
	return 0, errors.New(terr.String()), false
}

func stackError(op, network string, addr netip.AddrPort, terr tcpip.Error) error {
	return &net.OpError{Op: op, Net: network, Addr: net.TCPAddrFromAddrPort(addr), Err: errors.New(terr.String())}
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: toStack(a.Addr()), Port: a.Port()}
}

func toStack(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// protocolOf returns the network protocol of an address.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return gvipv6.ProtocolNumber
	}
	return gvipv4.ProtocolNumber
}

func addrPort(f tcpip.FullAddress) netip.AddrPort {
	return netip.AddrPortFrom(fromStack(f.Addr), f.Port)
}

func fromStack(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
