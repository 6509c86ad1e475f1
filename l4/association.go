package l4

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"gatecontrol/model"
)

// maxUnasked is how many bytes a client is sent since its last packet. It
// keeps a forged source address from drawing an endless stream.
const maxUnasked = 256 << 10

// maxReadErrors ends an association whose socket only fails. Refusals by the
// target arrive as read errors too, one per datagram sent.
const maxReadErrors = 64

// association is one UDP client of one port, with a socket of its own towards
// the target: the target tells clients apart, and answers find their way back.
type association struct {
	socket   *udpSocket
	route    model.RouteID
	client   netip.AddrPort
	addr     net.Addr // client, for a socket of the tunnel
	control  []byte   // the address answers come from, for a socket of the host
	upstream net.Conn
	host     *net.UDPConn // upstream, if it is a socket of the host

	active  atomic.Int64 // time of the last datagram passed on, since Server.start
	unasked atomic.Int64 // bytes sent to the client since its last datagram
}

func newAssociation(u *udpSocket, route model.RouteID, from sender, upstream net.Conn) *association {
	a := &association{
		socket: u, route: route,
		client: from.at, addr: from.addr, control: answerFrom(from.control),
		upstream: upstream,
	}
	a.host, _ = upstream.(*net.UDPConn)
	a.heard()
	return a
}

// heard notes a datagram of the client.
func (a *association) heard() {
	a.touch()
	a.unasked.Store(0)
}

func (a *association) touch() { a.active.Store(int64(time.Since(a.socket.port.server.start))) }

// deadline is when the association ends unless something comes.
func (a *association) deadline() time.Time {
	s := a.socket.port.server
	return s.start.Add(time.Duration(a.active.Load()) + s.udpIdle)
}

// finish closes and forgets the association.
func (a *association) finish() {
	_ = a.upstream.Close()
	p := a.socket.port
	p.mu.Lock()
	if a.socket.associations[a.client] == a {
		delete(a.socket.associations, a.client)
	}
	p.mu.Unlock()
	p.server.udp.release(a.route, p.server.clients.Key(a.client.Addr()))
}

// carryAnswers passes what the target sends to the client, until the
// association is idle or closed.
func (a *association) carryAnswers() {
	var raw syscall.RawConn
	if a.host != nil {
		raw, _ = a.host.SyscallConn()
	}
	for errs := 0; errs < maxReadErrors; {
		deadline := a.deadline()
		if time.Until(deadline) <= 0 || a.upstream.SetReadDeadline(deadline) != nil {
			return
		}
		err := error(nil)
		if raw == nil {
			err = a.answers(make([]byte, tunnelDatagram), deadline)
		} else if err = waitReadable(raw); err == nil {
			buf := largeBuffers.Get().(*[largeBuffer]byte)
			err = a.answers(buf[:], time.Now().Add(bufferHold))
			largeBuffers.Put(buf)
		}
		switch {
		case isTimeout(err):
			errs = 0
		case refused(err):
			errs++
		default:
			return // closed
		}
	}
}

// answers passes datagrams on until until, or an error.
func (a *association) answers(buf []byte, until time.Time) error {
	if err := a.upstream.SetReadDeadline(until); err != nil {
		return err
	}
	for {
		n, err := a.upstream.Read(buf)
		if err != nil {
			return err
		}
		s := a.socket.port.server
		if n == len(buf) { // cut off
			s.dropped.Add(1)
			buf = make([]byte, largeBuffer)
			continue
		}
		if a.unasked.Add(int64(n)) > maxUnasked {
			s.dropped.Add(1)
			continue
		}
		a.touch()
		a.send(buf[:n])
	}
}

// send answers the client.
func (a *association) send(b []byte) {
	if host := a.socket.host; host != nil {
		_, _, _ = host.WriteMsgUDPAddrPort(b, a.control, a.client)
		return
	}
	_, _ = a.socket.conn.WriteTo(b, a.addr)
}
