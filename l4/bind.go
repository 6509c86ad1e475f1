package l4

import (
	"context"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How fast a client that vanished without a word is noticed: after a minute of
// silence, four probes 15 seconds apart.
const (
	keepAliveIdle     = 60 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 4
)

// udpReadBuffer is what is asked of the kernel for a listening UDP socket, in
// bytes: one socket takes the datagrams of all clients, and the usual 208 KiB
// are full after 150 of them. The kernel may grant less.
const udpReadBuffer = 1 << 20

// Bind is one place where every port is opened: the host, or the tunnel
// address. Both functions open the port at once and must not be nil.
type Bind struct {
	Name         string // for messages
	Listen       func(port uint16) (net.Listener, error)
	ListenPacket func(port uint16) (net.PacketConn, error)
}

// HostBind opens ports on the host, on one IP address or, if address is empty,
// on all interfaces with one socket for IPv4 and IPv6.
func HostBind(address string) Bind {
	udp := net.ListenConfig{Control: pktInfo}
	hostPort := func(port uint16) string {
		return net.JoinHostPort(address, strconv.Itoa(int(port)))
	}
	return Bind{
		Name: "host",
		Listen: func(port uint16) (net.Listener, error) {
			return ListenTCP(hostPort(port))
		},
		ListenPacket: func(port uint16) (net.PacketConn, error) {
			pc, err := udp.ListenPacket(context.Background(), "udp", hostPort(port))
			if err != nil {
				return nil, err
			}
			_ = pc.(*net.UDPConn).SetReadBuffer(udpReadBuffer) // best effort
			return pc, nil
		},
	}
}

// ListenTCP opens a TCP port of the host, at host:port or :port.
func ListenTCP(address string) (net.Listener, error) {
	// Accepted connections inherit keepalive from the listener, which saves
	// four system calls for each. Multipath TCP would cost splice.
	c := net.ListenConfig{KeepAlive: -1, Control: keepAlive}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp", address)
}

// keepAlive turns keepalive on for a listening socket.
func keepAlive(_, _ string, c syscall.RawConn) error {
	var err error
	set := func(fd uintptr) {
		for _, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
			}
		}
	}
	if cerr := c.Control(set); cerr != nil {
		return cerr
	}
	return err
}
