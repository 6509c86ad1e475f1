package proxy

import (
	"errors"
	"net"
	"net/netip"
)

// Outside marks a listener of the host. Peers come in on those of the tunnel, so who
// has an address of the tunnel here has made it up, and is turned away: a router in
// front of the host, or a neighbour where the host's network overlaps the tunnel's,
// would pass for a peer.
func Outside(ln net.Listener) net.Listener { return outsideListener{ln} }

// OutsidePacket is the same for a UDP socket.
func OutsidePacket(pc net.PacketConn) net.PacketConn { return outsideSocket{pc} }

type outsideListener struct{ net.Listener }

type outsideSocket struct{ net.PacketConn }

var errMadeUp = errors.New("an address of the tunnel, but not through it")

// inside reports whether addr is of the tunnel.
func (s *Server) inside(addr netip.Addr) bool {
	return containsAddr(s.snapshot.Load().tunnel, addr)
}
