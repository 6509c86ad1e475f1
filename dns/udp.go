package dns

import (
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpReaders read the socket at once, so that one answers while the next
	// packet comes in.
	udpReaders = 2

	// readPause follows a failed read or accept, so that a lasting failure
	// does not spin.
	readPause = 20 * time.Millisecond
)

// client is who asked, and how the answer gets there: tcp, or udp to at.
type client struct {
	addr netip.Addr // what limits are counted by
	tcp  *tcpConn
	udp  *udpServer
	at   netip.AddrPort
	to   net.Addr // at, as a socket of the tunnel wants it
}

// send answers from another goroutine than the one that read. b is not kept.
func (c client) send(b []byte) {
	if c.tcp != nil {
		c.tcp.send(b)
		return
	}
	c.udp.write(b, c)
}

// udpServer answers on one UDP socket.
type udpServer struct {
	server *Server
	conn   net.PacketConn
	host   *net.UDPConn // conn, if it is a socket of the host
}

func newUDPServer(s *Server, pc net.PacketConn) *udpServer {
	host, _ := pc.(*net.UDPConn)
	return &udpServer{s, pc, host}
}

func (u *udpServer) close() { _ = u.conn.Close() }

// readLoop reads and answers until Close.
func (u *udpServer) readLoop() {
	in, out := make([]byte, dns.MaxMsgSize), make([]byte, 0, dns.MaxMsgSize)
	for {
		err := u.answer(in, out)
		if err == nil {
			continue
		}
		select {
		case <-u.server.done:
			return
		case <-time.After(readPause):
		}
	}
}

// answer reads one packet and answers it.
func (u *udpServer) answer(in, out []byte) error {
	defer u.server.recovered()
	n, c, err := u.read(in)
	if err != nil {
		return err
	}
	if b, _ := u.server.handle(in[:n], out, c); b != nil {
		u.write(b, c)
	}
	return nil
}

func (u *udpServer) read(in []byte) (n int, c client, err error) {
	c.udp = u
	if u.host != nil {
		n, c.at, err = u.host.ReadFromUDPAddrPort(in)
	} else {
		n, c.to, err = u.conn.ReadFrom(in)
		c.at = addrPort(c.to)
	}
	c.addr = c.at.Addr().Unmap()
	return n, c, err
}

func (u *udpServer) write(b []byte, c client) {
	if u.host != nil {
		_, _ = u.host.WriteToUDPAddrPort(b, c.at)
		return
	}
	_, _ = u.conn.WriteTo(b, c.to)
}

// addrPort reads an address; zero if it is none.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}
	case interface{ AddrPort() netip.AddrPort }:
		return a.AddrPort()
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}

// recovered ends the handling of one packet or connection that panicked.
func (s *Server) recovered() {
	if v := recover(); v != nil {
		if s.panics.Add(1) == 1 { // a packet can be sent again and again
			s.log.Error("query ended by a fault", "panic", v, "stack", string(debug.Stack()))
		}
	}
}
