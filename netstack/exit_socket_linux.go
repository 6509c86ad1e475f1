package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// icmpFilter is the option by which a raw ICMP socket names the types that it
// does not want (linux/icmp.h).
const icmpFilter = 1

// icmp6Filter is the same for ICMPv6 (linux/icmpv6.h). It takes 256 bits.
const icmp6Filter = 1

// errorQueueSpace holds the control message of one queued error: a header, a
// sock_extended_err (linux/errqueue.h) and the address of the sender.
const errorQueueSpace = 128

// dialICMP opens a socket that exchanges ICMP echo messages with addr. Its
// kind is what the process is allowed: a datagram socket, whose local port is
// the identifier that the system writes into every message, or a raw one. If
// it is allowed neither, the error is errNoEcho.
func dialICMP(addr netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if addr.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	kind := unix.SOCK_DGRAM
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, unix.EACCES) {
		kind = unix.SOCK_RAW
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	}
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, errNoEcho
	case err != nil:
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "icmp")
	defer file.Close() // the connection has a descriptor of its own
	if kind == unix.SOCK_RAW {
		if err := onlyReplies(fd, addr.Is6()); err != nil {
			return nil, fmt.Errorf("keep other ICMP away: %w", err)
		}
	}
	// Like every socket that was not told otherwise it may send no broadcast.
	if addr.Is6() {
		err = unix.Connect(fd, &unix.SockaddrInet6{Addr: addr.As16()})
	} else {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4()})
	}
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}

// onlyReplies has a raw ICMP socket read echo replies and nothing else.
func onlyReplies(fd int, v6 bool) error {
	if !v6 {
		const others = ^(1 << icmpEchoReply)
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, others)
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = 1<<32 - 1
	}
	filter.Data[icmp6EchoReply/32] &^= 1 << (icmp6EchoReply % 32)
	return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, icmp6Filter, &filter)
}

// reportErrors makes the system keep the ICMP errors that arrive about what a
// socket sends to addr; see readError.
func reportErrors(c syscall.RawConn, addr netip.Addr) {
	if addr.Is6() {
		setOption(c, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	} else {
		setOption(c, unix.SOL_IP, unix.IP_RECVERR, 1)
	}
}

// setTTL sets how many routers the packets of a socket to addr may pass.
func setTTL(c syscall.RawConn, addr netip.Addr, ttl uint8) {
	if addr.Is6() {
		setOption(c, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, int(ttl))
	} else {
		setOption(c, unix.SOL_IP, unix.IP_TTL, int(ttl))
	}
}

func setOption(c syscall.RawConn, level, option, value int) {
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, option, value) })
}

// newJoinedRead has the system join datagrams that a UDP socket receives, if it
// can. Kernels before 5.12, which cannot tell the option's value, have it with
// faults; it stays off there.
func newJoinedRead(c syscall.RawConn) *joinedRead {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO); err != nil {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		}
	})
	r := new(joinedRead)
	r.msg.Iov, r.msg.Control = &r.data, &r.control[0]
	r.msg.SetIovlen(1)
	return r
}

// joinedRead is what one recvmsg call needs.
type joinedRead struct {
	data    unix.Iovec
	msg     unix.Msghdr
	control [64]byte // aligned by the pointers before it
}

// read reads once, without waiting: n bytes of datagrams of segment bytes each,
// the last perhaps shorter. 0 is one datagram.
func (r *joinedRead) read(fd uintptr, b []byte) (n, segment int, err error) {
	r.data.Base = unsafe.SliceData(b)
	r.data.SetLen(len(b))
	r.msg.SetControllen(len(r.control))
	got, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT)
	r.data.Base = nil
	if errno != 0 {
		return 0, 0, errno
	}
	for control := r.control[:r.msg.Controllen]; len(control) >= unix.SizeofCmsghdr; {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if control = rest; header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(data) >= 4 {
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		}
	}
	return int(got), segment, nil
}

// joinedWrite is what one sendmsg call needs that sends several datagrams.
type joinedWrite struct {
	data    [maxRun]unix.Iovec
	msg     unix.Msghdr
	control [32]byte // aligned by the pointers before it
	once    func(fd uintptr)
	errno   unix.Errno
}

// newJoinedWrite returns nil on kernels before 4.18: they pass over what they do
// not know, and would send all as one datagram.
func newJoinedWrite(c syscall.RawConn) *joinedWrite {
	known := false
	_ = c.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		known = err == nil
	})
	if !known {
		return nil
	}
	w := new(joinedWrite)
	w.msg.Iov, w.msg.Control = &w.data[0], &w.control[0]
	w.msg.SetControllen(unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&w.control[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	w.once = func(fd uintptr) {
		for {
			_, _, w.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&w.msg)), unix.MSG_DONTWAIT)
			if w.errno != unix.EINTR {
				return
			}
		}
	}
	return w
}

// write sends datagrams, at most maxRun, all but the last of size bytes. It does
// not wait.
func (w *joinedWrite) write(c syscall.RawConn, list [][]byte, size int) error {
	for i, b := range list {
		w.data[i].Base = unsafe.SliceData(b)
		w.data[i].SetLen(len(b))
	}
	w.msg.SetIovlen(len(list))
	binary.NativeEndian.PutUint16(w.control[unix.CmsgLen(0):], uint16(size))
	err := c.Control(w.once)
	clear(w.data[:len(list)])
	if err != nil {
		return err
	}
	if w.errno != 0 {
		return w.errno
	}
	return nil
}

// segmentsRefused says whether datagrams have to be sent one by one: the device
// cannot compute checksums, or one is longer than the path takes, and can go in
// fragments.
func segmentsRefused(err error) bool {
	return err == unix.EIO || err == unix.EOPNOTSUPP || err == unix.EINVAL || err == unix.EMSGSIZE
}

// receiveFrom reads a message and tells who sent it, without waiting.
func receiveFrom(fd uintptr, b []byte) (int, netip.Addr, error) {
	for {
		n, from, err := unix.Recvfrom(int(fd), b, 0)
		if err == unix.EINTR {
			continue
		}
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			return n, netip.AddrFrom4(from.Addr), err
		case *unix.SockaddrInet6:
			return n, netip.AddrFrom16(from.Addr), err
		}
		return n, netip.Addr{}, err
	}
}

// readError takes the oldest error out of the socket's queue; the beginning of
// what it is about goes into b. It reports false if there is none.
func readError(fd uintptr, b []byte) (e socketError, ok bool) {
	var control [errorQueueSpace]byte
	for {
		n, size, _, _, err := unix.Recvmsg(int(fd), b, control[:], unix.MSG_ERRQUEUE)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return e, false
		}
		messages, err := unix.ParseSocketControlMessage(control[:size])
		if err != nil {
			continue
		}
		for _, m := range messages {
			if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR ||
				m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR {
				if e, ok := parseExtendedError(m.Data); ok {
					e.about = b[:n]
					return e, true
				}
			}
		}
	}
}

// parseExtendedError reads a sock_extended_err and the address behind it. It
// reports false for what is no ICMP error.
func parseExtendedError(b []byte) (e socketError, ok bool) {
	const size, addrAt, addr6At = 16, 4, 8 // of sock_extended_err; in sockaddr_in, in sockaddr_in6
	if len(b) < size || b[4] != unix.SO_EE_ORIGIN_ICMP && b[4] != unix.SO_EE_ORIGIN_ICMP6 {
		return e, false
	}
	e.v6, e.typ, e.code = b[4] == unix.SO_EE_ORIGIN_ICMP6, b[5], b[6]
	if e.v6 && e.typ == icmp6TooBig || !e.v6 && e.typ == icmpUnreachable && e.code == codeFragmentationNeeded {
		e.mtu = int(min(binary.NativeEndian.Uint32(b[8:]), 65535))
	}
	if len(b) < size+2 {
		return e, true
	}
	switch family := binary.NativeEndian.Uint16(b[size:]); {
	case family == unix.AF_INET && len(b) >= size+addrAt+4:
		e.from = netip.AddrFrom4([4]byte(b[size+addrAt:]))
	case family == unix.AF_INET6 && len(b) >= size+addr6At+16:
		e.from = netip.AddrFrom16([16]byte(b[size+addr6At:]))
	}
	return e, true
}
