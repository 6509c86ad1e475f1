package wireguard

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSize holds the control messages of one call in either direction: the
// local address, the mark for congestion, and the length of a segment.
const controlSize = 128

// socket is one UDP socket. It receives with UDP_GRO and sends with
// UDP_SEGMENT where the system has them: many datagrams in one call.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	log     *slog.Logger
	gso     atomic.Bool // segments may be sent; false for good once refused
	sends   sync.Pool   // of *sendCall
	reading readCall
}

// setOptions prepares a socket before it is bound. What makes it faster may
// fail; what makes it right may not.
func setOptions(fd uintptr, v6 bool) error {
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer)
	setGRO(fd)
	if v6 {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		return errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	// Routers may fragment what is too long for a path, as they may with WireGuard
	// in the kernel: asking them to refuse it fails where their answer gets lost.
	return errors.Join(
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

// setBuffer asks past the system's limit first, which CAP_NET_ADMIN may, then
// for what the limit allows.
func setBuffer(fd uintptr, force, plain, size int) {
	if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, plain, size)
	}
}

// setGRO lets the system join datagrams. Kernels before 5.12, which cannot tell
// the option's value, have it with faults; it stays off there.
func setGRO(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO); err != nil {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
	}
}

func newSocket(log *slog.Logger, conn *net.UDPConn, v6 bool) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, raw: raw, log: log}
	s.sends.New = func() any { return newSendCall(v6) }
	s.reading.prepare()
	err = raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
	})
	return s, err
}

// read is receive without its patience. n is 0 for what cannot be used.
func (s *socket) read(buf []byte) (n, segment int, from endpoint, err error) {
	call := &s.reading
	call.setData(buf)
	call.waited = false
	if err := s.raw.Read(call.try); err != nil {
		return 0, 0, endpoint{}, err
	}
	if call.errno != 0 {
		return 0, 0, endpoint{}, call.errno
	}
	n, segment, from = call.result()
	return n, segment, from, nil
}

// busy reports whether the last read found something there. If it had to wait,
// there is probably no more for now, and looking would cost more than it brings.
func (s *socket) busy() bool { return !s.reading.waited }

// mark returns the mark of what was read last. The system joins only what is
// marked alike.
func (s *socket) mark() uint8 { return s.reading.mark }

// more is read without waiting: n is 0 if nothing is there, or nothing that can
// be used.
func (s *socket) more(buf []byte) (n, segment int, from endpoint) {
	call := &s.reading
	call.setData(buf)
	if s.raw.Control(call.poll) != nil || call.errno != 0 {
		return 0, 0, endpoint{}
	}
	return call.result()
}

// result takes apart what was read.
func (call *readCall) result() (n, segment int, from endpoint) {
	if call.msg.Flags&unix.MSG_TRUNC != 0 {
		return 0, 0, endpoint{}
	}
	from.addr = call.sender()
	segment, call.mark = parseControl(call.control[:call.msg.Controllen], &from)
	if n = call.n; segment <= 0 || segment > n {
		segment = n
	}
	return n, segment, from
}

func (call *readCall) setData(buf []byte) {
	call.data.Base = unsafe.SliceData(buf)
	call.data.SetLen(len(buf))
}

// readCall holds what one recvmsg call needs. Like sendCall it never blocks.
type readCall struct {
	try     func(fd uintptr) bool // call.once
	poll    func(fd uintptr)      // the same
	name    unix.RawSockaddrInet6 // the larger one; RawSockaddrInet4 on IPv4
	data    unix.Iovec
	msg     unix.Msghdr
	control [controlSize]byte // aligned by the pointers before it
	n       int
	errno   unix.Errno
	waited  bool  // there was nothing to read at first
	mark    uint8 // for congestion, of what was read
}

func (call *readCall) prepare() {
	call.try, call.poll = call.once, func(fd uintptr) { call.once(fd) }
	call.msg.Name, call.msg.Control = (*byte)(unsafe.Pointer(&call.name)), &call.control[0]
	call.msg.Iov = &call.data
	call.msg.SetIovlen(1)
}

// once reports false if there is nothing to read.
func (call *readCall) once(fd uintptr) bool {
	for {
		call.msg.Namelen, call.msg.Flags = unix.SizeofSockaddrInet6, 0
		call.msg.SetControllen(controlSize)
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&call.msg)), unix.MSG_DONTWAIT)
		if errno == unix.EINTR {
			continue
		}
		call.n, call.errno = int(n), errno
		call.waited = call.waited || errno == unix.EAGAIN
		return errno != unix.EAGAIN
	}
}

// sender returns whom the datagram is from, unmapped. A link-local address
// keeps its zone.
func (call *readCall) sender() netip.AddrPort {
	if call.name.Family == unix.AF_INET {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&call.name))
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), bigEndian(name.Port))
	}
	addr := netip.AddrFrom16(call.name.Addr).Unmap()
	if call.name.Scope_id != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(call.name.Scope_id), 10))
	}
	return netip.AddrPortFrom(addr, bigEndian(call.name.Port))
}

// parseControl takes the local address, the length of a segment (0: one datagram)
// and the mark for congestion from the control messages of a read.
func parseControl(control []byte, from *endpoint) (segment int, mark uint8) {
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		control = rest
		switch {
		case header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(*(*int32)(unsafe.Pointer(&data[0])))
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TOS && len(data) >= 1:
			mark = data[0] & markBits
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_TCLASS && len(data) >= 4:
			mark = uint8(*(*int32)(unsafe.Pointer(&data[0]))) & markBits
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			from.local = netip.AddrFrom4(info.Spec_dst)
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			from.local = netip.AddrFrom16(info.Addr)
			if from.addr.Addr().IsLinkLocalUnicast() {
				from.iface = info.Ifindex
			}
		}
	}
	return segment, mark
}
