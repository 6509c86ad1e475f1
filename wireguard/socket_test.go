package wireguard

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// openTestSockets listens on a free port until the test ends.
func openTestSockets(t testing.TB) *sockets {
	t.Helper()
	s, err := openSockets(slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error("close:", err)
		}
	})
	deadline := time.Now().Add(30 * time.Second) // so that a lost datagram fails the test
	for _, socket := range s.each() {
		if err := socket.conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// at is where s is reached under addr, an address of this host.
func (s *sockets) at(addr string) *endpoint {
	return &endpoint{addr: netip.AddrPortFrom(netip.MustParseAddr(addr), s.port())}
}

// numbered is count datagrams of size bytes, the last of last, each filled with
// its number.
func numbered(count, size, last int) []byte {
	var buf []byte
	for i := range count {
		n := size
		if i == count-1 {
			n = last
		}
		buf = append(buf, bytes.Repeat([]byte{byte(i + 1)}, n)...)
	}
	return buf
}

// receiveAll reads until it has size bytes, checks that segments are as asked
// for, and tells in how many reads they came.
func receiveAll(t testing.TB, s *socket, size, segment int) (got []byte, reads int, from endpoint) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for len(got) < size {
		n, cut, sender, err := s.receive(buf)
		if err != nil {
			t.Fatalf("receive after %d of %d bytes: %v", len(got), size, err)
		}
		if cut > segment || n > cut && cut != segment {
			t.Fatalf("read of %d bytes has segments of %d, want %d", n, cut, segment)
		}
		if reads > 0 && sender != from {
			t.Fatalf("read is from %v, the one before from %v", sender, from)
		}
		got, from, reads = append(got, buf[:n]...), sender, reads+1
	}
	return got, reads, from
}

// requireIPv6 skips where this host has no IPv6, or has it switched off.
func requireIPv6(t testing.TB) {
	t.Helper()
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	conn.Close()
}

// families runs test once for each family of addresses.
func families(t *testing.T, test func(t *testing.T, loopback string, receiver func(*sockets) *socket)) {
	t.Run("IPv4", func(t *testing.T) {
		test(t, "127.0.0.1", func(s *sockets) *socket { return s.v4 })
	})
	t.Run("IPv6", func(t *testing.T) {
		requireIPv6(t)
		test(t, "::1", func(s *sockets) *socket { return s.v6 })
	})
}

func TestSocketsSend(t *testing.T) {
	tests := []struct {
		name                 string
		count, segment, last int
	}{
		{"one byte", 1, 1, 1},
		{"one datagram", 1, 148, 148},
		{"one that is shorter than a segment", 1, 1452, 32},
		{"two", 2, 1452, 1452},
		{"last shorter", 7, 1452, 100},
		{"as many as one call takes", 45, 1452, 1452},
		{"more than one call takes", 100, 1452, 80},
		{"many small", 200, 32, 32},
		{"too long to be joined", 3, 40000, 20},
	}
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				from, to := openTestSockets(t), openTestSockets(t)
				sent := numbered(test.count, test.segment, test.last)
				if err := from.send(sent, test.segment, to.at(loopback)); err != nil {
					t.Fatal(err)
				}
				got, _, sender := receiveAll(t, receiver(to), len(sent), test.segment)
				if !bytes.Equal(got, sent) {
					t.Error("other bytes arrived than were sent")
				}
				want := endpoint{addr: from.at(loopback).addr, local: sender.local}
				if sender != want {
					t.Errorf("from %+v, want %+v", sender, want)
				}
			})
		}
	})
}

func TestSocketsAnswer(t *testing.T) {
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		a, b := openTestSockets(t), openTestSockets(t)
		if err := a.send([]byte("ask"), 0, b.at(loopback)); err != nil {
			t.Fatal(err)
		}
		_, _, from := receiveAll(t, receiver(b), 3, 3)
		if err := b.send([]byte("answer"), 6, &from); err != nil {
			t.Fatal(err)
		}
		if got, _, _ := receiveAll(t, receiver(a), 6, 6); string(got) != "answer" {
			t.Errorf("got %q", got)
		}
	})
}

func TestSocketsSendNothing(t *testing.T) {
	a, b := openTestSockets(t), openTestSockets(t)
	to := b.at("127.0.0.1")
	if err := a.send(nil, 0, to); err != nil {
		t.Error(err)
	}
	// An empty datagram of a stranger is skipped.
	if _, err := a.v4.conn.WriteToUDPAddrPort(nil, to.addr); err != nil {
		t.Fatal(err)
	}
	if err := a.send([]byte{1}, 1, to); err != nil {
		t.Fatal(err)
	}
	if n, segment, _, err := b.v4.receive(make([]byte, 100)); n != 1 || segment != 1 || err != nil {
		t.Errorf("receive: n %d, segment %d, err %v", n, segment, err)
	}
}

func TestOpenSocketsSamePort(t *testing.T) {
	s := openTestSockets(t)
	if s.port() == 0 {
		t.Fatal("port is 0")
	}
	for _, socket := range s.each() {
		if socket.port() != s.port() {
			t.Errorf("sockets are on ports %d and %d", socket.port(), s.port())
		}
	}
}

func TestOpenSocketsTakenPort(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			taken, err := net.ListenPacket(network, ":0")
			if err != nil {
				t.Skip(err)
			}
			defer taken.Close()
			port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			s, err := openSockets(slog.New(slog.DiscardHandler), port)
			if err == nil {
				s.close()
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("err = %v, want EADDRINUSE", err)
			}
			// What it had opened before is closed again.
			taken.Close()
			if s, err = openSockets(slog.New(slog.DiscardHandler), port); err != nil {
				t.Fatal(err)
			}
			s.close()
		})
	}
}

func TestSocketsFamilyMissing(t *testing.T) {
	s := openTestSockets(t)
	only4 := &sockets{v4: s.v4}
	if got := len(only4.each()); got != 1 {
		t.Errorf("%d sockets, want 1", got)
	}
	if only4.port() != s.port() {
		t.Errorf("port %d, want %d", only4.port(), s.port())
	}
	if err := only4.send([]byte{1}, 1, s.at("::1")); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("sending to IPv6: %v, want EAFNOSUPPORT", err)
	}
}

func TestSocketsClose(t *testing.T) {
	s := openTestSockets(t)
	done := make(chan error)
	for _, socket := range s.each() {
		go func() {
			_, _, _, err := socket.receive(make([]byte, 100))
			done <- err
		}()
	}
	to := s.at("127.0.0.1")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for range s.each() {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive gave %v, want net.ErrClosed", err)
		}
	}
	if err := s.send([]byte{1}, 1, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send gave %v, want net.ErrClosed", err)
	}
	if err := s.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestSocketReceiveBroken(t *testing.T) {
	s := openTestSockets(t)
	if err := s.v4.conn.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := s.v4.receive(make([]byte, 100))
	if err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("receive of a socket that always fails: %v", err)
	}
}

// Senders share a socket; what one sends stays whole and in order.
func TestSocketsConcurrentSenders(t *testing.T) {
	const (
		senders  = 4
		rounds   = 20
		segments = 20
		size     = 1000
	)
	from, to := openTestSockets(t), openTestSockets(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	turn := make(chan struct{}, senders) // a round each: the receive buffer holds them
	for i := range senders {
		wg.Go(func() {
			for range rounds {
				turn <- struct{}{}
				buf := bytes.Repeat([]byte{byte(i + 1)}, segments*size)
				if err := from.send(buf, size, to.at("127.0.0.1")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	counts := map[byte]int{}
	buf := make([]byte, 1<<16)
	for total := 0; total < senders*rounds*segments*size; {
		n, segment, _, err := to.v4.receive(buf)
		if err != nil {
			t.Fatal(err)
		}
		for part := buf[:n]; len(part) > 0; part = part[segment:] {
			if segment != size || !bytes.Equal(part[:size], bytes.Repeat(part[:1], size)) {
				t.Fatalf("a datagram of %d bytes is mixed or cut", segment)
			}
			counts[part[0]]++
			if total += size; total%(segments*size) == 0 {
				<-turn
			}
		}
	}
	for i := range senders {
		if got := counts[byte(i+1)]; got != rounds*segments {
			t.Errorf("sender %d: %d datagrams arrived, want %d", i, got, rounds*segments)
		}
	}
}

func TestSocketsAllocateNothing(t *testing.T) {
	if socketRace {
		t.Skip("pools forget under the race detector")
	}
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		from, to := openTestSockets(t), openTestSockets(t)
		peer := to.at(loopback)
		peer.local = peer.addr.Addr()
		sent, buf := make([]byte, 10*1452), make([]byte, 1<<16)
		allocs := testing.AllocsPerRun(200, func() {
			if err := from.send(sent, 1452, peer); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < len(sent); {
				n, _, _, err := receiver(to).receive(buf)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations", allocs)
		}
	})
}
