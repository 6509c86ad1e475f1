package l4

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A UDP socket on all interfaces would answer from whatever address the kernel
// prefers, and a client that asked another address of this host drops that. So
// the kernel is asked which address a datagram came to (ip(7) IP_PKTINFO,
// RFC 3542 section 6.1), and answers go out from there.

// pktInfoSpace is the room for that control message, in bytes.
const pktInfoSpace = 64

// pktInfo asks the kernel for it. On a socket for both families the IPv6 option
// reports IPv4 too, as mapped addresses.
func pktInfo(network, _ string, c syscall.RawConn) error {
	level, name := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, 1) }); cerr != nil {
		return cerr
	}
	return err
}

// answerFrom turns the control message of a datagram into that of its answers;
// nil lets the kernel choose.
func answerFrom(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: interface, local address, destination
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			// struct in6_pktinfo: address, interface. Only a link-local
			// address needs the interface; the route decides for others.
			info := &unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if netip.AddrFrom16(info.Addr).IsLinkLocalUnicast() {
				info.Ifindex = binary.NativeEndian.Uint32(m.Data[16:20])
			}
			return unix.PktInfo6(info)
		}
	}
	return nil
}
