package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// boundUnsent has the kernel take no more of an answer than its client makes room for,
// and maxUnsent beyond. Without that it takes up to 4 MiB for a client that reads
// nothing: they are fetched from the backend, through a tunnel that others need.
// A listener does not hand it down where it speaks Multipath TCP, as Go's do.
func boundUnsent(c net.Conn) {
	sock, ok := c.(syscall.Conn)
	if !ok {
		return // of the tunnel, where connections have a bound of their own
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}
