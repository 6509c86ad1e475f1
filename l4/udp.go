package l4

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	// bufferHold is how long a host socket keeps its buffer after the last
	// datagram, so that a busy one does not ask for readiness each time.
	bufferHold = time.Second

	// tunnelDatagram is the buffer, in bytes, that waits at a socket that is not
	// the host's: such a socket cannot tell that it is readable. It takes any
	// packet of the tunnel. The first datagram that was put together from
	// fragments and fills it is lost, and a largeBuffer waits for the next.
	tunnelDatagram = 2 << 10

	// udpDialTimeout bounds what a new client can hold up its port for.
	// Connecting a UDP socket waits for nobody.
	udpDialTimeout = time.Second
)

// udpSocket is one UDP port on one bind. One goroutine reads it; associations
// answer through it.
type udpSocket struct {
	port         *port
	conn         net.PacketConn
	host         *net.UDPConn                    // conn, if it is a socket of the host
	associations map[netip.AddrPort]*association // by client; guarded by port.mu
}

func newUDPSocket(p *port, pc net.PacketConn) *udpSocket {
	host, _ := pc.(*net.UDPConn)
	return &udpSocket{port: p, conn: pc, host: host, associations: make(map[netip.AddrPort]*association)}
}

// readLoop serves the socket until the port closes.
func (u *udpSocket) readLoop() {
	for {
		err := u.read()
		select {
		case <-u.port.done:
			return
		case <-time.After(minAcceptPause): // an ICMP error of some client, or no memory
			u.port.server.log.Debug("udp read failed", "port", u.port.key.port, "err", err)
		}
	}
}

// read passes datagrams on until an error.
func (u *udpSocket) read() error {
	defer u.port.server.recovered() // costs one datagram, not the port
	if u.host != nil {
		return u.readHost()
	}
	return u.readTunnel()
}

func (u *udpSocket) readTunnel() error {
	buf := make([]byte, tunnelDatagram)
	for {
		n, addr, err := u.conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n == len(buf) { // cut off
			u.port.server.dropped.Add(1)
			buf = make([]byte, largeBuffer)
			continue
		}
		u.received(buf[:n], sender{at: addrPort(addr), addr: addr})
	}
}

// readHost reads until an error, and holds no buffer while nothing comes.
func (u *udpSocket) readHost() error {
	raw, err := u.host.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if err := u.host.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		if err := waitReadable(raw); err != nil {
			return err
		}
		if err := u.readBurst(); err != nil {
			return err
		}
	}
}

// readBurst reads for bufferHold. A busy socket comes back at once, at the
// price of one poll.
func (u *udpSocket) readBurst() error {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	if err := u.host.SetReadDeadline(time.Now().Add(bufferHold)); err != nil {
		return err
	}
	var control [pktInfoSpace]byte
	for {
		n, c, _, from, err := u.host.ReadMsgUDPAddrPort(buf[:], control[:])
		if isTimeout(err) {
			return nil
		}
		if err != nil {
			return err
		}
		u.received(buf[:n], sender{at: from, control: control[:c]})
	}
}

// sender is where a datagram came from.
type sender struct {
	at      netip.AddrPort
	addr    net.Addr // the same, as a socket of the tunnel wants it back
	control []byte   // host only: what came with the datagram; see pktInfo
}

// received passes one datagram of a client on.
func (u *udpSocket) received(b []byte, from sender) {
	p := u.port
	p.mu.Lock()
	a := u.associations[from.at]
	p.mu.Unlock()
	if a == nil {
		if a = u.associate(from); a == nil {
			p.server.dropped.Add(1)
			return
		}
	}
	a.heard()
	_, _ = a.upstream.Write(b) // a lost datagram is the client's to notice
}

// associate makes an association for a new client and starts the goroutine
// that carries its answers; nil if a limit or the target forbids it.
func (u *udpSocket) associate(from sender) *association {
	p, s := u.port, u.port.server
	own, client := p.ownerNow(), p.server.clients.Key(from.at.Addr())
	if s.draining.Load() {
		return nil
	}
	if !s.udp.admit(own.route, client) {
		s.refused.Add(1)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), udpDialTimeout)
	upstream, err := s.dial(ctx, "udp", own.target)
	cancel()
	if err != nil {
		s.udp.release(own.route, client)
		s.log.Debug("target not reached", "route", own.route, "target", own.target, "err", err)
		return nil
	}
	a := newAssociation(u, own.route, from, upstream)

	p.mu.Lock()
	current := !p.closed && p.owner == own
	if current {
		u.associations[a.client] = a
	}
	p.mu.Unlock()
	if !current { // the port changed hands meanwhile
		_ = upstream.Close()
		s.udp.release(own.route, client)
		return nil
	}
	s.wg.Go(func() {
		defer s.recovered()
		defer a.finish()
		a.carryAnswers()
	})
	return a
}

// refused reports whether err only says that nobody listened at the target
// when an earlier datagram arrived.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
