//go:build !linux

package wireguard

import (
	"log/slog"
	"net"
)

// socket is one UDP socket: one datagram in each call, and the system chooses
// the source address.
type socket struct {
	conn *net.UDPConn
}

func setOptions(uintptr, bool) error { return nil }

func newSocket(_ *slog.Logger, conn *net.UDPConn, _ bool) (*socket, error) {
	// Best effort: some systems refuse what is over their limit.
	_ = conn.SetReadBuffer(receiveBuffer)
	_ = conn.SetWriteBuffer(sendBuffer)
	return &socket{conn: conn}, nil
}

// split is for systems that can tell messages apart.
func (*socket) split(string, byte) *socket { return nil }

// read is receive without its patience.
func (s *socket) read(buf []byte) (n, segment int, from endpoint, err error) {
	n, addr, err := s.conn.ReadFromUDPAddrPort(buf)
	return n, n, endpoint{addr: addr}, err
}

// send is sockets.sendMarked for one family, without the mark.
func (s *socket) send(buf []byte, segment int, to *endpoint, _ uint8) error {
	for len(buf) > 0 {
		part := buf[:min(segment, len(buf))]
		if _, err := s.conn.WriteToUDPAddrPort(part, to.addr); err != nil {
			return err
		}
		buf = buf[len(part):]
	}
	return nil
}

// mark is for systems that tell it.
func (*socket) mark() uint8 { return notECT }

// busy and more are for systems where a read may go without waiting; here that
// is never tried.
func (*socket) busy() bool                                  { return false }
func (*socket) more([]byte) (n, segment int, from endpoint) { return 0, 0, endpoint{} }
