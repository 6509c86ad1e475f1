package wireguard

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests need what loopback addresses cannot give: a network of their own.
// They are skipped where the system allows none.

// A datagram longer than the path takes goes in fragments, which segments
// cannot. That is a property of one path, so segments stay on.
func TestSocketsSegmentsLongerThanPath(t *testing.T) {
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		enterOwnNetwork(t, 1300)
		from, to := openTestSockets(t), openTestSockets(t)
		requireSegments(t, receiver(from))
		for _, segment := range []int{1452, 1000} {
			sent := numbered(10, segment, 7)
			peer := to.at(loopback)
			peer.local = peer.addr.Addr()
			if err := from.send(sent, segment, peer); err != nil {
				t.Fatal(err)
			}
			got, _, sender := receiveAll(t, receiver(to), len(sent), segment)
			if !bytes.Equal(got, sent) {
				t.Error("other bytes arrived than were sent")
			}
			if sender.addr.Addr() != peer.local {
				t.Errorf("from %v, want %v", sender.addr, peer.local)
			}
		}
		if !receiver(from).gso.Load() {
			t.Error("one path turned segments off for all")
		}
	})
}

// What is sent to a neighbour that has not answered yet fills the send buffer.
// Sending waits; it goes on when there is room and ends with the socket.
func TestSocketsSendWaits(t *testing.T) {
	enterOwnNetwork(t, 1500)
	addSilentNeighbours(t)
	s := openTestSockets(t)
	to := &endpoint{addr: netip.MustParseAddrPort("10.0.0.2:9")}
	setSendBuffer(t, s.v4, 1) // the system makes it its least
	done := make(chan error)
	go func() {
		for range 20 {
			if err := s.send(make([]byte, 1000), 1000, to); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	waitUntilFull(t, s.v4)
	setSendBuffer(t, s.v4, 1<<20)
	if err := <-done; err != nil {
		t.Fatal("with room again:", err)
	}

	setSendBuffer(t, s.v4, 1)
	waitUntilFull(t, s.v4)
	go func() { done <- s.send(make([]byte, 1000), 1000, to) }()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v, want net.ErrClosed", err)
	}
}

func setSendBuffer(t *testing.T, s *socket, size int) {
	t.Helper()
	var err error
	if e := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// waitUntilFull returns when the system would take no more of s.
func waitUntilFull(t *testing.T, s *socket) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var queued, limit int
		if err := s.raw.Control(func(fd uintptr) {
			queued, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
			limit, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		}); err != nil {
			t.Fatal(err)
		}
		if queued >= limit {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d bytes are queued", queued, limit)
		}
	}
}

// addSilentNeighbours gives the network of this thread an Ethernet interface
// with the addresses of 10/8, of which none but 10.0.0.1, our own, answers.
func addSilentNeighbours(t *testing.T) {
	t.Helper()
	tap, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no virtual interfaces: ", err)
	}
	t.Cleanup(func() { unix.Close(tap) })
	request, err := unix.NewIfreq("quiet0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	ioctl(t, tap, unix.TUNSETIFF, request)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := request.SetInet4Addr([]byte{10, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	ioctl(t, fd, unix.SIOCSIFADDR, request)
	request.SetUint16(unix.IFF_UP)
	ioctl(t, fd, unix.SIOCSIFFLAGS, request)
}

// enterOwnNetwork gives the goroutine a network of its own for the rest of its
// life, where the loopback interface takes packets of up to mtu bytes.
func enterOwnNetwork(t *testing.T, mtu uint32) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace: ", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint32(mtu)
	ioctl(t, fd, unix.SIOCSIFMTU, request)
	request.SetUint16(unix.IFF_UP)
	ioctl(t, fd, unix.SIOCSIFFLAGS, request)
}

func ioctl(t *testing.T, fd int, number uint, request *unix.Ifreq) {
	t.Helper()
	if err := unix.IoctlIfreq(fd, number, request); err != nil {
		t.Fatal(err)
	}
}
