package wireguard

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// requireSegments skips on a kernel without UDP_SEGMENT and UDP_GRO.
func requireSegments(t testing.TB, s *socket) {
	t.Helper()
	var gro int
	if err := s.raw.Control(func(fd uintptr) {
		gro, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO)
	}); err != nil {
		t.Fatal(err)
	}
	if !s.gso.Load() || gro == 0 {
		t.Skip("this kernel neither cuts nor joins datagrams")
	}
}

func TestSocketsOneCallOneRead(t *testing.T) {
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		from, to := openTestSockets(t), openTestSockets(t)
		requireSegments(t, receiver(to))
		sent := numbered(45, 1452, 100)
		if err := from.send(sent, 1452, to.at(loopback)); err != nil {
			t.Fatal(err)
		}
		got, reads, _ := receiveAll(t, receiver(to), len(sent), 1452)
		if reads != 1 {
			t.Errorf("45 datagrams came in %d reads, want 1", reads)
		}
		if !bytes.Equal(got, sent) {
			t.Error("other bytes arrived than were sent")
		}
	})
}

func TestSocketsSourceSticks(t *testing.T) {
	a, b := openTestSockets(t), openTestSockets(t)
	for _, addr := range []string{"127.0.0.2", "127.0.0.3"} {
		if err := a.send([]byte("ask"), 3, b.at(addr)); err != nil {
			t.Fatal(err)
		}
		_, _, from := receiveAll(t, b.v4, 3, 3)
		if from.local != netip.MustParseAddr(addr) {
			t.Fatalf("it came to %v, want %v", from.local, addr)
		}
		for _, count := range []int{1, 5} { // without and with segments
			if err := b.send(numbered(count, 9, 9), 9, &from); err != nil {
				t.Fatal(err)
			}
			_, _, answer := receiveAll(t, a.v4, count*9, 9)
			if want := b.at(addr).addr; answer.addr != want {
				t.Errorf("%d answered from %v, want %v", count, answer.addr, want)
			}
		}
	}
}

// The address that a peer knew this host by is gone: the system chooses.
func TestSocketsSourceGone(t *testing.T) {
	tests := []struct{ name, to, local string }{
		{"IPv4", "127.0.0.1", "203.0.113.7"},
		{"IPv6", "::1", "2001:db8::7"},
		{"of the other family", "127.0.0.1", "::1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := openTestSockets(t), openTestSockets(t)
			receiver := b.v4
			if strings.Contains(test.to, ":") {
				requireIPv6(t)
				receiver = b.v6
			}
			to := b.at(test.to)
			to.local = netip.MustParseAddr(test.local)
			for _, count := range []int{1, 5} {
				if err := a.send(numbered(count, 100, 100), 100, to); err != nil {
					t.Fatal(err)
				}
				_, _, from := receiveAll(t, receiver, count*100, 100)
				if from.addr != a.at(test.to).addr {
					t.Errorf("%d came from %v", count, from.addr)
				}
			}
			if before := receiver.gso.Load(); a.v4.gso.Load() != before {
				t.Error("an absent source turned segments off")
			}
		})
	}
}

func TestSocketReceiveSkipsWhatDoesNotFit(t *testing.T) {
	a, b := openTestSockets(t), openTestSockets(t)
	to := b.at("127.0.0.1")
	for _, size := range []int{1000, 10} {
		if err := a.send(make([]byte, size), 0, to); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, _, err := b.v4.receive(make([]byte, 100)); n != 10 || err != nil {
		t.Errorf("receive: n %d, err %v; want the second datagram", n, err)
	}
}

func TestSocketSegmentsRefusedForGood(t *testing.T) {
	from, to := openTestSockets(t), openTestSockets(t)
	var log bytes.Buffer
	from.v4.log = slog.New(slog.NewTextHandler(&log, nil))
	from.v4.gso.Store(true)
	for range 2 {
		if !from.v4.segmentsRefused(unix.EIO) {
			t.Fatal("EIO does not lead to single datagrams")
		}
	}
	if got := strings.Count(log.String(), "\n"); got != 1 {
		t.Errorf("%d log lines, want 1:\n%s", got, &log)
	}
	if from.v4.gso.Load() {
		t.Error("segments are still on")
	}
	sent := numbered(10, 1452, 7)
	if err := from.send(sent, 1452, to.at("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := receiveAll(t, to.v4, len(sent), 1452); !bytes.Equal(got, sent) {
		t.Error("other bytes arrived than were sent")
	}
}

var benchmarkSizes = []struct {
	name        string
	size, count int
	off         bool // segments
}{
	{name: "1x148", size: 148, count: 1},
	{name: "1x1452", size: 1452, count: 1},
	{name: "8x1452", size: 1452, count: 8},
	{name: "45x1452", size: 1452, count: 45},
	{name: "45x1452 one by one", size: 1452, count: 45, off: true},
}

// BenchmarkSocketsSend sends to a socket that nobody reads; the system throws
// most of it away when it has arrived.
func BenchmarkSocketsSend(b *testing.B) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		for _, size := range benchmarkSizes {
			b.Run(loopback+"/"+size.name, func(b *testing.B) {
				from, _, peer := benchmarkPair(b, loopback, size.off)
				buf := make([]byte, size.size*size.count)
				b.ReportAllocs()
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					if err := from.send(buf, size.size, peer); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSocketsSendReceive sends and reads what was sent.
func BenchmarkSocketsSendReceive(b *testing.B) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		for _, size := range benchmarkSizes {
			b.Run(loopback+"/"+size.name, func(b *testing.B) {
				from, to, peer := benchmarkPair(b, loopback, size.off)
				buf, room := make([]byte, size.size*size.count), make([]byte, 1<<16)
				b.ReportAllocs()
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					if err := from.send(buf, size.size, peer); err != nil {
						b.Fatal(err)
					}
					for got := 0; got < len(buf); {
						n, _, _, err := to.receive(room)
						if err != nil {
							b.Fatal(err)
						}
						got += n
					}
				}
			})
		}
	}
}

// BenchmarkSocketsSendParallel has senders on every core share one socket.
func BenchmarkSocketsSendParallel(b *testing.B) {
	from, _, peer := benchmarkPair(b, "127.0.0.1", false)
	b.ReportAllocs()
	b.SetBytes(45 * 1452)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 45*1452)
		for pb.Next() {
			if err := from.send(buf, 1452, peer); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func benchmarkPair(b *testing.B, loopback string, off bool) (from *sockets, to *socket, peer *endpoint) {
	from, receivers := openTestSockets(b), openTestSockets(b)
	to = receivers.v4
	if loopback == "::1" {
		requireIPv6(b)
		to = receivers.v6
	}
	if off {
		for _, s := range from.each() {
			s.gso.Store(false)
		}
	}
	peer = receivers.at(loopback)
	peer.local = peer.addr.Addr()
	return from, to, peer
}
