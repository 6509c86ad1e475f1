package l4

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"gatecontrol/model"
)

// udpEcho sends every datagram back.
func udpEcho(t testing.TB) netip.AddrPort {
	return udpTarget(t, func(pc *net.UDPConn, b []byte, from netip.AddrPort) { _, _ = pc.WriteToUDPAddrPort(b, from) })
}

func udpTarget(t testing.TB, handle func(pc *net.UDPConn, b []byte, from netip.AddrPort)) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(loopback+":0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, largeBuffer)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			handle(pc, buf[:n], from)
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dialUDP(t testing.TB, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// udpPing sends b until it comes back: loopback may drop under load.
func udpPing(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	buf := make([]byte, largeBuffer)
	for range 20 {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			if bytes.Equal(buf[:n], b) {
				return
			}
		}
	}
	t.Fatalf("no answer to %d bytes", len(b))
}

// silent expects that nothing more comes within d.
func silent(t testing.TB, c net.Conn, d time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	if n, err := c.Read(make([]byte, largeBuffer)); err == nil {
		t.Fatalf("%d bytes came", n)
	}
}

// tunnelBind hides that the sockets are the host's.
func tunnelBind() Bind {
	b := HostBind(loopback)
	listen := b.ListenPacket
	b.ListenPacket = func(port uint16) (net.PacketConn, error) {
		pc, err := listen(port)
		return struct{ net.PacketConn }{pc}, err
	}
	return b
}

func TestUDPEcho(t *testing.T) {
	for _, tt := range []struct {
		name string
		bind Bind
		dial func(context.Context, string, netip.AddrPort) (net.Conn, error)
		max  int
	}{
		{"host", HostBind(loopback), dialHost, 65507},
		{"tunnel", tunnelBind(), dialPlain, 65507},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, port := newServer(t, func(o *Options) { o.Binds, o.Dial = []Bind{tt.bind}, tt.dial }), freePort(t)
			apply(t, s, route(1, "udp", port, udpEcho(t)))
			a, b := dialUDP(t, port), dialUDP(t, port)
			for _, size := range []int{0, 1, 1472, 9000, tt.max} {
				udpPing(t, a, bytes.Repeat([]byte{'a'}, size))
				udpPing(t, b, bytes.Repeat([]byte{'b'}, size))
			}
			if n := flows(s, 1); n != 2 {
				t.Fatalf("%d associations, want 2", n)
			}
			silent(t, a, 20*time.Millisecond) // nothing of b's
		})
	}
}

func TestUDPOnAllInterfaces(t *testing.T) {
	s, port := newServer(t, func(o *Options) { o.Binds = []Bind{HostBind("")} }), freePort(t)
	apply(t, s, route(1, "udp", port, udpEcho(t)))
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		c, err := net.Dial("udp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err != nil {
			t.Log("left out: ", err)
			continue
		}
		udpPing(t, c, []byte(host))
		_ = c.Close()
	}
}

func TestUDPRangeToOneTarget(t *testing.T) {
	s, target := newServer(t), udpEcho(t)
	var first uint16
	for first = freePort(t); first > 65500; first = freePort(t) {
	}
	p, err := s.Prepare(Config{[]Route{{1, "udp", first, first + 4, target}}})
	if err != nil {
		t.Skip("a neighbour port is taken: ", err)
	}
	p.Commit()
	for port := first; port <= first+4; port++ {
		udpPing(t, dialUDP(t, port), []byte("x"))
	}
	if n := flows(s, 1); n != 5 {
		t.Fatalf("%d associations, want 5", n)
	}
}

func TestUDPAssociationExpires(t *testing.T) {
	s, port := newServer(t), freePort(t)
	s.udpIdle = 100 * time.Millisecond
	apply(t, s, route(1, "udp", port, udpEcho(t)))
	c := dialUDP(t, port)
	udpPing(t, c, []byte("x"))
	eventually(t, "the association expires", func() bool { return flows(s, 1) == 0 })
	udpPing(t, c, []byte("again"))
}

func TestUDPLimits(t *testing.T) {
	for name, limit := range map[string]func(*Options){
		"all":        func(o *Options) { o.UDP.All = 2 },
		"per route":  func(o *Options) { o.UDP.PerRoute = 2 },
		"per client": func(o *Options) { o.UDP.PerClient = 2 },
		"room":       func(o *Options) { o.Room = model.NewRoom(2) },
	} {
		t.Run(name, func(t *testing.T) {
			s, port := newServer(t, limit), freePort(t)
			apply(t, s, route(1, "udp", port, udpEcho(t)))
			a, b, c := dialUDP(t, port), dialUDP(t, port), dialUDP(t, port)
			udpPing(t, a, []byte("a"))
			udpPing(t, b, []byte("b"))
			_, _ = c.Write([]byte("c"))
			eventually(t, "the third is refused", func() bool { return s.Status().Refused == 1 })
			silent(t, c, 20*time.Millisecond)
			udpPing(t, a, []byte("a"))
		})
	}
}

// A client that fell silent is sent no more than the bound; one that asks
// again is.
func TestUDPUnaskedIsBounded(t *testing.T) {
	s, port := newServer(t), freePort(t)
	const answer = 1000
	apply(t, s, route(1, "udp", port, udpTarget(t, func(pc *net.UDPConn, b []byte, from netip.AddrPort) {
		before := s.Status().Dropped
		for range 1_000_000 { // the kernel may drop many on the way
			_, _ = pc.WriteToUDPAddrPort(make([]byte, answer), from)
			if s.Status().Dropped > before {
				return
			}
		}
	})))
	c := dialUDP(t, port)
	for range 2 {
		_, _ = c.Write([]byte("go"))
		total, buf := 0, make([]byte, 2*answer)
		for {
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			total += n
		}
		if total == 0 || total > maxUnasked {
			t.Fatalf("%d bytes, want at most %d", total, maxUnasked)
		}
	}
	if s.Status().Dropped < 2 {
		t.Fatal("nothing was dropped")
	}
}

// Answers come from the target alone: a stranger cannot reach the client.
func TestUDPStrangerIsNotHeard(t *testing.T) {
	s, port, asked := newServer(t), freePort(t), make(chan netip.AddrPort, 1)
	apply(t, s, route(1, "udp", port, udpTarget(t, func(_ *net.UDPConn, _ []byte, from netip.AddrPort) { asked <- from })))
	c := dialUDP(t, port)
	_, _ = c.Write([]byte("x"))
	from := <-asked
	stranger, err := net.Dial("udp", from.String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, _ = stranger.Write([]byte("forged"))
	silent(t, c, 50*time.Millisecond)
}

// Nobody listens at the target at first. The client need not change its port.
func TestUDPTargetComesLater(t *testing.T) {
	s, port, target := newServer(t), freePort(t), freePort(t)
	address := netip.AddrPortFrom(netip.MustParseAddr(loopback), target)
	apply(t, s, route(1, "udp", port, address))
	c := dialUDP(t, port)
	for i := range 2 * maxReadErrors {
		_, _ = fmt.Fprint(c, i)
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		t.Skip("port taken: ", err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	udpPing(t, c, []byte("there"))
}

func TestUDPFollowsTarget(t *testing.T) {
	name := func(b byte) netip.AddrPort {
		return udpTarget(t, func(pc *net.UDPConn, _ []byte, from netip.AddrPort) { _, _ = pc.WriteToUDPAddrPort([]byte{b}, from) })
	}
	s, port, a, b := newServer(t), freePort(t), name('a'), name('b')
	apply(t, s, route(1, "udp", port, a))
	c := dialUDP(t, port)
	udpPing(t, c, []byte{'a'})
	apply(t, s, route(1, "udp", port, b))
	eventually(t, "the old association ends", func() bool { return flows(s, 1) == 0 })
	udpPing(t, c, []byte{'b'})
}

// A client that lost its address is forgotten, and what its target still sends
// goes nowhere. Others are not touched.
func TestForget(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	apply(t, s, route(1, "udp", port, udpEcho(t)))
	c := dialUDP(t, port)
	udpPing(t, c, []byte("hello"))
	s.Forget(func(a netip.Addr) bool { return a == netip.MustParseAddr("10.8.0.2") })
	if n := flows(s, 1); n != 1 {
		t.Fatalf("%d associations after another client was forgotten", n)
	}
	s.Forget(func(a netip.Addr) bool { return a == netip.MustParseAddr(loopback) })
	eventually(t, "the association to end", func() bool { return flows(s, 1) == 0 })
	udpPing(t, c, []byte("again")) // and may begin anew
}
