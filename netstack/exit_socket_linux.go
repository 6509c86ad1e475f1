package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// icmpFilter is the option by which a raw ICMP socket names the types that it
// does not want (linux/icmp.h).
const icmpFilter = 1

// errorQueueSpace holds the control message of one queued error: a header, a
// sock_extended_err (linux/errqueue.h) and the address of the sender.
const errorQueueSpace = 128

// dialICMP opens a socket that exchanges ICMP echo messages with addr. Its
// kind is what the process is allowed: a datagram socket, whose local port is
// the identifier that the system writes into every message, or a raw one. If
// it is allowed neither, the error is errNoEcho.
func dialICMP(addr netip.Addr) (net.Conn, error) {
	kind := unix.SOCK_DGRAM
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
	if errors.Is(err, unix.EACCES) {
		kind = unix.SOCK_RAW
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
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
		const others = ^(1 << icmpEchoReply)
		if err := unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, others); err != nil {
			return nil, fmt.Errorf("keep other ICMP away: %w", err)
		}
	}
	// Like every socket that was not told otherwise it may send no broadcast.
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}

// reportErrors makes the system keep the ICMP errors that arrive about what
// the socket sends; see readError.
func reportErrors(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1) })
}

// setTTL sets how many routers the socket's packets may pass.
func setTTL(c syscall.RawConn, ttl uint8) {
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL, int(ttl)) })
}

// receiveFrom reads a message and tells who sent it, without waiting.
func receiveFrom(fd uintptr, b []byte) (int, netip.Addr, error) {
	for {
		n, from, err := unix.Recvfrom(int(fd), b, 0)
		if err == unix.EINTR {
			continue
		}
		if from, ok := from.(*unix.SockaddrInet4); ok && err == nil {
			return n, netip.AddrFrom4(from.Addr), nil
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
			if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR {
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
	const size, addrAt = 16, 4 // of sock_extended_err; in sockaddr_in
	if len(b) < size || b[4] != unix.SO_EE_ORIGIN_ICMP {
		return e, false
	}
	e.typ, e.code = b[5], b[6]
	if e.typ == icmpUnreachable && e.code == codeFragmentationNeeded {
		e.mtu = int(min(binary.NativeEndian.Uint32(b[8:]), 65535))
	}
	if len(b) >= size+addrAt+4 && binary.NativeEndian.Uint16(b[size:]) == unix.AF_INET {
		e.from = netip.AddrFrom4([4]byte(b[size+addrAt:]))
	}
	return e, true
}
