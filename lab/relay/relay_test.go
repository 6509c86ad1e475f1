package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// endpoint is a UDP socket on loopback.
type endpoint struct {
	*net.UDPConn
	t    testing.TB
	addr netip.AddrPort
}

func newEndpoint(t testing.TB, host string) *endpoint {
	t.Helper()
	pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("no UDP on %s: %v", host, err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	c := pc.(*net.UDPConn)
	_ = c.SetReadBuffer(socketBuffer)
	return &endpoint{c, t, c.LocalAddr().(*net.UDPAddr).AddrPort()}
}

func (e *endpoint) write(to netip.AddrPort, b []byte) {
	e.t.Helper()
	if _, err := e.WriteToUDPAddrPort(b, to); err != nil {
		e.t.Fatal(err)
	}
}

func (e *endpoint) read() ([]byte, netip.AddrPort) {
	e.t.Helper()
	buf := make([]byte, maxDatagram)
	_ = e.SetReadDeadline(time.Now().Add(patience))
	n, from, err := e.ReadFromUDPAddrPort(buf)
	if err != nil {
		e.t.Fatal(err)
	}
	return buf[:n], from
}

// nothing wants no datagram to be there. What it waits for has left the relay.
func (e *endpoint) nothing() {
	e.t.Helper()
	_ = e.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, from, err := e.ReadFromUDPAddrPort(make([]byte, maxDatagram)); !errors.Is(err, os.ErrDeadlineExceeded) {
		e.t.Fatalf("%d bytes came from %s, %v", n, from, err)
	}
}

// settled waits until nothing is on its way and returns the counts.
func settled(t testing.TB, r *Relay, received uint64) (up, down Counts) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if up, down = r.Counts(); up.Received+down.Received >= received && up.Waiting+down.Waiting == 0 {
			return up, down
		}
	}
	t.Fatalf("not settled: %+v, %+v", up, down)
	return
}

// Every client reaches the server from an address of its own, and only its own
// answers reach it.
func TestClientsApart(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			server := newEndpoint(t, host)
			r := New(t, server.addr, Options{})
			seen := make(map[netip.AddrPort]bool)
			for i := range 5 {
				c := newEndpoint(t, host)
				for size := range 3 { // the same address for all of them
					question := bytes.Repeat([]byte{byte(i)}, 1+size*30_000)
					c.write(r.Addr(), question)
					got, from := server.read()
					if !bytes.Equal(got, question) {
						t.Fatal("another datagram came")
					}
					if seen[from] != (size > 0) {
						t.Fatalf("client %d comes from %s", i, from)
					}
					seen[from] = true
					server.write(from, append(got, 'A'))
					if answer, from := c.read(); !bytes.Equal(answer, append(question, 'A')) || from != r.Addr() {
						t.Fatalf("%d bytes came from %s", len(answer), from)
					}
				}
			}
			ends := r.Endpoints()
			for from := range seen {
				if !slices.Contains(ends, from) {
					t.Errorf("%s is not among the endpoints %v", from, ends)
				}
			}
		})
	}
}

// A stream of datagrams arrives whole and in order as long as the sockets hold
// it, whatever the delay.
func TestOrder(t *testing.T) {
	for name, path := range map[string]Path{
		"perfect": {},
		"delayed": {Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			server, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
			r := New(t, server.addr, Both(path))
			const n, window = 5000, 50
			for i := range uint64(n) {
				if i >= window {
					if got, _ := server.read(); binary.BigEndian.Uint64(got) != i-window {
						t.Fatalf("datagram %d came instead of %d", binary.BigEndian.Uint64(got), i-window)
					}
				}
				c.write(r.Addr(), binary.BigEndian.AppendUint64(nil, i))
			}
		})
	}
}

// Strangers do not get through to a client.
func TestOnlyTheServerAnswers(t *testing.T) {
	server, stranger, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Options{})
	c.write(r.Addr(), []byte("hello"))
	_, from := server.read()
	stranger.write(from, []byte("stranger"))
	server.write(from, []byte("server"))
	if got, _ := c.read(); string(got) != "server" {
		t.Errorf("the client got %q", got)
	}
}

func TestSet(t *testing.T) {
	server, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Options{Up: Path{Loss: 1}})
	c.write(r.Addr(), []byte{transport})
	if up, _ := settled(t, r, 1); up.Lost != 1 {
		t.Fatalf("%+v", up)
	}
	if err := r.Set(Path{Loss: 2}, Path{}); err == nil {
		t.Error("a loss of 200 % passes")
	}
	if err := r.Set(Path{}, Path{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	c.write(r.Addr(), []byte{transport})
	_, from := server.read()
	server.write(from, []byte{transport})
	if _, down := settled(t, r, 3); down.Lost != 1 {
		t.Errorf("%+v", down)
	}
}

func TestBlackhole(t *testing.T) {
	server, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Options{})
	c.write(r.Addr(), []byte("before"))
	_, from := server.read()
	r.Blackhole(true)
	c.write(r.Addr(), []byte("up"))
	server.write(from, []byte("down"))
	if up, down := settled(t, r, 3); up.Blackholed != 1 || down.Blackholed != 1 {
		t.Fatalf("%+v, %+v", up, down)
	}
	r.Blackhole(false)
	c.write(r.Addr(), []byte("after"))
	if got, again := server.read(); string(got) != "after" || again != from {
		t.Errorf("%q came from %s", got, again)
	}
	c.nothing()
}

func TestRebind(t *testing.T) {
	server, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Options{})
	c.write(r.Addr(), []byte("before"))
	_, old := server.read()
	for _, addr := range []netip.Addr{{}, netip.MustParseAddr("127.0.0.2"), {}} {
		if err := r.Rebind(addr); err != nil {
			t.Skipf("no address %s: %v", addr, err)
		}
		server.write(old, []byte("lost"))
		c.write(r.Addr(), []byte("after"))
		_, from := server.read()
		if from == old || addr.IsValid() && from.Addr() != addr || !slices.Equal(r.Endpoints(), []netip.AddrPort{from}) {
			t.Fatalf("the client comes from %s, was %s; endpoints %v", from, old, r.Endpoints())
		}
		server.write(from, []byte("answer"))
		if got, _ := c.read(); string(got) != "answer" {
			t.Fatalf("the client got %q", got)
		}
		old = from
	}
	if old.Addr() != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("the address did not stay: %s", old)
	}
}

func TestClientsAreBounded(t *testing.T) {
	server := newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Options{})
	for range maxClients + 1 {
		c := newEndpoint(t, "127.0.0.1")
		c.write(r.Addr(), []byte("hello"))
	}
	if up, _ := settled(t, r, maxClients+1); up.Failed != 1 || up.Sent != maxClients || len(r.Endpoints()) != maxClients {
		t.Errorf("%+v, %d endpoints", up, len(r.Endpoints()))
	}
}

// Close ends a relay that is at work; what is on its way is lost.
func TestClose(t *testing.T) {
	server, c := newEndpoint(t, "127.0.0.1"), newEndpoint(t, "127.0.0.1")
	r := New(t, server.addr, Both(Path{Delay: time.Hour}))
	for range 100 {
		c.write(r.Addr(), []byte("hello"))
	}
	r.Close()
	r.Close()
	if err := r.Rebind(netip.Addr{}); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	server.nothing()
}

// BenchmarkRelay is one datagram of an Ethernet, one way, with a socket's worth
// of them on the way.
func BenchmarkRelay(b *testing.B) {
	for name, path := range map[string]Path{
		"perfect": {},
		"delayed": {Delay: time.Millisecond},
		"all":     {Delay: time.Millisecond, Reorder: 0.05, Duplicate: 0.05, Corrupt: 0.02},
	} {
		b.Run(name, func(b *testing.B) {
			server, c := newEndpoint(b, "127.0.0.1"), newEndpoint(b, "127.0.0.1")
			r := New(b, server.addr, Both(path))
			datagram := make([]byte, 1420)
			datagram[0] = transport
			buf := make([]byte, 2048)
			const window = 400
			b.SetBytes(int64(len(datagram)))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i++; i > window {
					_ = server.SetReadDeadline(time.Now().Add(patience))
					if _, _, err := server.ReadFromUDPAddrPort(buf); err != nil {
						b.Fatal(err)
					}
				}
				c.write(r.Addr(), datagram)
			}
		})
	}
}
