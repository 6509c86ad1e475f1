package wireguard

import (
	"net"
	"syscall"
	"testing"
	"time"

	"gatecontrol/model"
)

// breakSocket has every further read of a socket fail.
func breakSocket(t testing.TB, s *socket) {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
}

// A socket that fails is replaced on the same port; sessions stay.
func TestSocketFails(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, false)
	send(toB, []byte("before"))
	eventually(t, "session", func() bool { return b.has([]byte("before")) })
	session, port := toA.current.Load(), b.Port()
	for name, which := range map[string]func(*sockets) *socket{
		"IPv4": func(s *sockets) *socket { return s.v4 }, "IPv6": func(s *sockets) *socket { return s.v6 },
	} {
		t.Run(name, func(t *testing.T) {
			before := b.sockets.Load()
			if which(before) == nil {
				t.Skip("no such addresses")
			}
			breakSocket(t, which(before))
			eventually(t, "new socket", func() bool { s := b.sockets.Load(); return s != nil && s != before })
			if trouble := b.Trouble(); trouble.Code != "" || b.Port() != port {
				t.Fatalf("port %d instead of %d, trouble %v", b.Port(), port, trouble)
			}
			n, m := b.count(), a.count()
			send(toB, []byte("there"))
			eventually(t, "packet", func() bool { return b.count() == n+1 })
			send(toA, []byte("and back"))
			eventually(t, "packet", func() bool { return a.count() == m+1 })
			if toA.current.Load() != session {
				t.Error("the session did not stay")
			}
		})
	}
}

// takePort breaks the sockets of e and binds their port before e can again.
func takePort(t testing.TB, e *end) net.PacketConn {
	t.Helper()
	for {
		s := e.sockets.Load()
		port := int(s.port())
		breakSocket(t, s.v4)
		for e.sockets.Load() == s || e.sockets.Load() == nil {
			if c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port}); err == nil {
				return c
			}
		}
	}
}

// While the system does not give the port back the device says so. It takes the
// port as soon as it can.
func TestPortIsTaken(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, false)
	send(toB, []byte("before"))
	eventually(t, "session", func() bool { return b.has([]byte("before")) && toA.current.Load() != nil })
	port := b.Port()
	taken := takePort(t, b)
	eventually(t, "reason", func() bool { return b.Trouble().Detail == syscall.EADDRINUSE.Error() })
	if trouble := b.Trouble(); trouble.Code != model.TroublePort || time.Since(trouble.Since) > patience || b.Port() != 0 || b.Open(0) == nil {
		t.Errorf("port %d, trouble %v", b.Port(), trouble)
	}
	send(toA, []byte("nowhere to go")) // and nobody waits for it
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "port", func() bool { return b.Port() == port })
	if trouble := b.Trouble(); trouble.Code != "" {
		t.Error(trouble)
	}
	send(toB, []byte("after"))
	eventually(t, "packet", func() bool { return b.has([]byte("after")) })
}

// A device that waits for its port can be closed.
func TestCloseWithoutPort(t *testing.T) {
	a := newEnd(t).open(t)
	taken := takePort(t, a)
	defer taken.Close()
	eventually(t, "reason", func() bool { return a.Trouble().Detail == syscall.EADDRINUSE.Error() })
	if err := a.Close(); err != nil || a.Port() != 0 {
		t.Errorf("closed on port %d: %v", a.Port(), err)
	}
}

// A socket that fails each time is opened less and less often.
func TestReopenPauses(t *testing.T) {
	a := newEnd(t).open(t)
	began := time.Now()
	for range 4 {
		s := a.sockets.Load()
		breakSocket(t, s.v4)
		eventually(t, "new socket", func() bool { now := a.sockets.Load(); return now != nil && now != s })
	}
	if took := time.Since(began); took < 15*firstReopen {
		t.Errorf("opened four times in %s", took)
	}
}
