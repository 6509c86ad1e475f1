package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

const (
	// receiveBuffer is what may wait to be read, in bytes: 50 ms at a gigabit per
	// second, and as much as the in-kernel implementation has. sendBuffer is what
	// may wait to leave. It is smaller, because senders wait for room here rather
	// than lose anything, and all of it is delay for what comes behind: 80 ms at
	// 100 Mbit/s. The system may grant less (net.core.rmem_max, wmem_max).
	receiveBuffer = 7 << 20
	sendBuffer    = 1 << 20

	// portTries bounds the search for a port that is free in both families.
	portTries = 100

	// receiveFailures is how many reads in a row may fail before the socket
	// counts as broken. A failure that the network causes comes with a datagram
	// and goes with the read.
	receiveFailures = 100
)

const (
	// maxSegments is how many datagrams one call may send. The kernel takes 64,
	// since 6.9 it takes 128.
	maxSegments = 64

	// maxSendBytes is how much one call may send: 45 datagrams of 1452 bytes.
	// With the headers of any tunnel below it stays under the 65536 bytes that
	// devices take whole; more is cut by the system before the device, at three
	// times the cost.
	maxSendBytes = 65400
)

// endpoint is where datagrams of a peer come from and go to. Comparable.
type endpoint struct {
	addr  netip.AddrPort // the peer's, unmapped
	local netip.Addr     // the address of this host that the datagram came to; zero: the system chooses
	iface uint32         // the interface that addr, link-local, is on; 0: any other address, or unknown
}

// sockets are the UDP sockets of a device, one for each family of addresses, on
// one port. All methods may be called concurrently.
type sockets struct {
	v4, v6    *socket   // one of them may be nil
	strangers []*socket // of the same port, for what no session sent; none: v4 and v6 get that
}

// openSockets listens on port of every address of this host. Port 0 takes any
// that is free in both families. A family that this host does not have is left
// out. The error wraps the system's number, such as syscall.EADDRINUSE.
func openSockets(log *slog.Logger, port uint16) (*sockets, error) {
	tries := 1
	if port == 0 {
		tries = portTries
	}
	var s *sockets
	var err error
	for range tries {
		s, err = tryPort(log, port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listening on UDP port %d: %w", port, err)
	}
	return s, nil
}

// split leaves v4 and v6 to the data messages of sessions, whose numbers have tag as
// their highest byte, where the system can tell them from all else.
func (s *sockets) split(tag byte) {
	for _, family := range []struct {
		socket  **socket
		network string
	}{{&s.v4, "udp4"}, {&s.v6, "udp6"}} {
		if *family.socket == nil {
			continue
		}
		if sessions := (*family.socket).split(family.network, tag); sessions != nil {
			s.strangers = append(s.strangers, *family.socket)
			*family.socket = sessions
		}
	}
}

func tryPort(log *slog.Logger, port uint16) (*sockets, error) {
	v4, err4 := openSocket(log, "udp4", port, setOptions)
	if err4 != nil && !familyMissing(err4) {
		return nil, err4
	}
	if v4 != nil {
		port = v4.port()
	}
	v6, err6 := openSocket(log, "udp6", port, setOptions)
	switch {
	case err6 == nil:
	case v4 != nil && familyMissing(err6):
	case v4 != nil:
		return nil, errors.Join(err6, v4.conn.Close())
	default:
		return nil, errors.Join(err4, err6)
	}
	return &sockets{v4: v4, v6: v6}, nil
}

// familyMissing: the host has no addresses of this kind. The second and third
// are what it says where the protocol is built in but switched off.
func familyMissing(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT) ||
		errors.Is(err, syscall.EADDRNOTAVAIL)
}

// openSocket listens on port of all addresses of a family, "udp4" or "udp6".
func openSocket(log *slog.Logger, network string, port uint16, options func(fd uintptr, v6 bool) error) (*socket, error) {
	config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = options(fd, network == "udp6") }); e != nil {
			return e
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s, err := newSocket(log, conn.(*net.UDPConn), network == "udp6")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// port is the one they listen on.
func (s *sockets) port() uint16 { return s.each()[0].port() }

// each lists them: one or two, and as many for strangers.
func (s *sockets) each() []*socket {
	all := make([]*socket, 0, 4)
	if s.v4 != nil {
		all = append(all, s.v4)
	}
	if s.v6 != nil {
		all = append(all, s.v6)
	}
	return append(all, s.strangers...)
}

// close makes every receive and send return net.ErrClosed. It may be called
// again.
func (s *sockets) close() error {
	var errs []error
	for _, socket := range s.each() {
		if err := socket.conn.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// send is sendMarked without a mark.
func (s *sockets) send(buf []byte, segment int, to *endpoint) error {
	return s.sendMarked(buf, segment, to, notECT)
}

// sendMarked sends datagrams of segment bytes each, the last perhaps shorter. It
// blocks while the send buffer is full. It keeps nothing of buf, nor of to. A
// datagram that was not sent is lost, with the ones behind it.
func (s *sockets) sendMarked(buf []byte, segment int, to *endpoint, mark uint8) error {
	socket := s.v6
	if to.addr.Addr().Is4() {
		socket = s.v4
	}
	if socket == nil {
		return fmt.Errorf("sending to %v: %w", to.addr, syscall.EAFNOSUPPORT)
	}
	if len(buf) == 0 {
		return nil
	}
	if segment <= 0 {
		segment = len(buf)
	}
	return socket.send(buf, segment, to, mark)
}

func (s *socket) port() uint16 {
	return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// receive reads once: n bytes of one or several datagrams of one sender, each
// segment bytes long, the last perhaps shorter. Only a closed or broken socket
// gives an error. One call at a time.
func (s *socket) receive(buf []byte) (n, segment int, from endpoint, err error) {
	for range receiveFailures {
		n, segment, from, err = s.read(buf)
		for err == nil && n == 0 { // empty or cut off: not ours
			n, segment, from, err = s.read(buf)
		}
		if err == nil || errors.Is(err, net.ErrClosed) {
			break
		}
	}
	return n, segment, from, err
}
