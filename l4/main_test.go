package l4

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const loopback = "127.0.0.1"

// dialHost is what app fills in for targets outside the tunnel.
func dialHost(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr.String())
}

// newServer returns a server on loopback that is closed at the end of the test.
func newServer(t testing.TB, change ...func(*Options)) *Server {
	t.Helper()
	o := Options{Log: slog.New(slog.DiscardHandler), Dial: dialHost, Binds: []Bind{HostBind(loopback)}}
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// apply prepares and commits routes.
func apply(t testing.TB, s *Server, routes ...Route) {
	t.Helper()
	p, err := s.Prepare(Config{Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	p.Commit()
}

// freePort returns a port that was free for TCP and UDP a moment ago. It lies
// below the range that the system picks from, so that nothing else takes it.
func freePort(t testing.TB) uint16 {
	t.Helper()
	for range 100 {
		port := uint16(10000 + rand.IntN(20000))
		addr := net.JoinHostPort(loopback, strconv.Itoa(int(port)))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		pc, err := net.ListenPacket("udp", addr)
		_ = ln.Close()
		if err == nil {
			_ = pc.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// route forwards one port to target.
func route(id model.RouteID, network string, port uint16, target netip.AddrPort) Route {
	return Route{ID: id, Network: network, First: port, Last: port, Target: target}
}

// tcpTarget serves each connection with handle, on a goroutine that the end of
// the test waits for.
func tcpTarget(t testing.TB, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// echoTarget answers each connection with what it sent.
func echoTarget(t testing.TB) netip.AddrPort {
	return tcpTarget(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
}

// named greets each connection with one byte and then echoes.
func named(t testing.TB, name byte) netip.AddrPort {
	return tcpTarget(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte{name})
		_, _ = io.Copy(c, c)
	})
}

func dialPort(t testing.TB, port uint16) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(loopback), port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// ping sends one byte and expects it back.
func ping(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte{'p'}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, 'p')
}

func expect(t testing.TB, c net.Conn, want byte) {
	t.Helper()
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatal(err)
	}
	if b[0] != want {
		t.Fatalf("got %q, want %q", b[0], want)
	}
}

// expectEnd expects that the other side ends c, by whatever means.
func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if isTimeout(err) {
		t.Fatal("connection still open")
	}
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func flows(s *Server, id model.RouteID) int { return s.Status().Flows[id] }
