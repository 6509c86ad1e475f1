package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// newTestHub returns a hub over filterTable whose stack is taken by inject.
func newTestHub(t testing.TB, inject func([]byte)) (*hub, *table) {
	t.Helper()
	table := filterTable(t)
	h := newHub(slog.New(slog.DiscardHandler), pointerTo(table), 1420)
	if inject != nil {
		h.inject = inject
	}
	t.Cleanup(func() { _ = h.Close() })
	return h, table
}

func pointerTo(t *table) *atomic.Pointer[table] {
	p := new(atomic.Pointer[table])
	p.Store(t)
	return p
}

var (
	plainIP   = netip.MustParseAddr("10.8.0.2")
	gatewayIP = netip.MustParseAddr("10.8.0.4")
)

// readAll reads everything that waits in the hub.
func readAll(t *testing.T, h *hub) (packets [][]byte) {
	t.Helper()
	const offset = 16
	bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 65535)
	}
	for h.queued() > 0 {
		n, err := h.Read(bufs, sizes, offset)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for i := range n {
			packets = append(packets, slices.Clone(bufs[i][offset:offset+sizes[i]]))
		}
	}
	return packets
}

func (h *hub) queued() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sending.len() + h.relaying.len()
}

func TestHubRelaysAsARouter(t *testing.T) {
	h, _ := newTestHub(t, func([]byte) { t.Error("a relayed packet reached the stack") })
	in := udpDatagram(plainIP, gatewayIP, 5000, 1000)
	original := slices.Clone(in)
	framed := append(make([]byte, 16), in...)
	if n, err := h.Write([][]byte{framed}, 16); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(framed[16:], original) {
		t.Fatal("WireGuard's buffer was changed")
	}
	out := readAll(t, h)
	if len(out) != 1 || out[0][8] != 63 || checksum(out[0][:ipv4Header]) != 0 {
		t.Fatalf("%x", out)
	}
	if !bytes.Equal(out[0][ipv4Header:], original[ipv4Header:]) {
		t.Fatal("the payload was changed")
	}
}

func TestHubComplains(t *testing.T) {
	h, _ := newTestHub(t, nil)
	dying := udpDatagram(plainIP, gatewayIP, 5000, 100)
	dying[8] = 1
	large := udpDatagram(plainIP, gatewayIP, 5000, 1393)
	for name, c := range map[string]struct {
		packet    []byte
		typ, code byte
		mtu       uint16
	}{
		"no hop left": {dying, icmpTimeExceeded, codeTTL, 0},
		"too big":     {large, icmpUnreachable, codeFragmentationNeeded, 1420},
	} {
		_, _ = h.Write([][]byte{c.packet}, 0)
		out := readAll(t, h)
		if len(out) != 1 {
			t.Fatalf("%s: %d packets", name, len(out))
		}
		p := out[0]
		head, ok := parseIPv4(p)
		body := p[ipv4Header:]
		if !ok || checksum(p[:ipv4Header]) != 0 || checksum(body) != 0 || len(p) > 576 ||
			address(head.src) != testAddr || address(head.dst) != plainIP || head.proto != protoICMP ||
			body[0] != c.typ || body[1] != c.code || binary.BigEndian.Uint16(body[6:]) != c.mtu ||
			!bytes.HasPrefix(c.packet, body[icmpHeader:]) {
			t.Errorf("%s: %x", name, p)
		}
	}
	t.Run("not about errors", func(t *testing.T) {
		p := packet(plainIP, gatewayIP, protoICMP, []byte{3, 1, 0, 0, 0, 0, 0, 0})
		p[8] = 1
		_, _ = h.Write([][]byte{p}, 0)
		if out := readAll(t, h); len(out) != 0 {
			t.Fatalf("%x", out)
		}
	})
	t.Run("not without bound", func(t *testing.T) {
		for range 10 * icmpBurst {
			_, _ = h.Write([][]byte{dying}, 0)
		}
		if n := len(readAll(t, h)); n > 5*icmpBurst {
			t.Fatalf("%d answers", n)
		}
	})
}

// One peer fills its share; another still gets through, and what was read is
// counted off.
func TestHubQueueIsShared(t *testing.T) {
	h, table := newTestHub(t, nil)
	flood := make([][]byte, batchSize)
	for i := range flood {
		flood[i] = udpDatagram(plainIP, gatewayIP, 5000, 10)
	}
	for range 2 * relayShare / batchSize {
		_, _ = h.Write(flood, 0)
	}
	if n := h.queued(); n != relayShare {
		t.Fatalf("%d queued", n)
	}
	if n := h.overflowed.Load(); n != relayShare {
		t.Fatalf("%d lost", n)
	}
	_, _ = h.Write([][]byte{udpDatagram(gatewayIP, plainIP, 5000, 10)}, 0)
	if n := len(readAll(t, h)); n != relayShare+1 {
		t.Fatalf("%d read", n)
	}
	for _, p := range table.peers {
		if n := p.queued.Load(); n != 0 {
			t.Fatalf("%s has %d queued", p.Name, n)
		}
	}
}

func stackPacket(b []byte) *stack.PacketBuffer {
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
}

// The stack waits for room, in order, and Close sets it free.
func TestHubSlowsTheStackDown(t *testing.T) {
	h, _ := newTestHub(t, nil)
	const n = 3 * stackQueue
	var sent sync.WaitGroup
	sent.Go(func() {
		for i := range n {
			pkt := stackPacket(binary.BigEndian.AppendUint32(nil, uint32(i)))
			if !h.send(pkt) {
				t.Error("closed")
			}
			pkt.DecRef()
		}
	})
	var got [][]byte
	for len(got) < n {
		eventually(t, "packet", func() bool { return h.queued() > 0 })
		got = append(got, readAll(t, h)...)
	}
	sent.Wait()
	for i, p := range got {
		if binary.BigEndian.Uint32(p) != uint32(i) {
			t.Fatalf("packet %d comes as number %d", binary.BigEndian.Uint32(p), i)
		}
	}

	pkt := stackPacket([]byte("x"))
	defer pkt.DecRef()
	for range stackQueue {
		h.send(pkt)
	}
	waits := make(chan bool, 1)
	go func() { waits <- h.send(pkt) }()
	eventually(t, "sender that waits", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.waiting == 1
	})
	_ = h.Close()
	if <-waits {
		t.Fatal("sent into a closed hub")
	}
	if _, err := h.Read(make([][]byte, 1), make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if n := pkt.ReadRefs(); n != 1 {
		t.Fatalf("%d references to the packet are left", n)
	}
}

// Neither the stack nor relayed packets starve the other.
func TestHubReadsBothQueues(t *testing.T) {
	h, _ := newTestHub(t, nil)
	flood := make([][]byte, batchSize)
	for i := range flood {
		flood[i] = udpDatagram(plainIP, gatewayIP, 5000, 10)
	}
	for range 4 {
		_, _ = h.Write(flood, 0)
	}
	for range 4 * batchSize {
		pkt := stackPacket([]byte("from the stack"))
		h.send(pkt)
		pkt.DecRef()
	}
	for range 4 {
		stacked, relayed, err := h.take(batchSize)
		if err != nil || stacked != batchSize/2 || relayed != batchSize/2 {
			t.Fatal(stacked, relayed, err)
		}
		for i := range stacked {
			h.fromStack[i].DecRef()
		}
	}
}

func TestHubSurvivesAFailingPacket(t *testing.T) {
	var seen int
	h, _ := newTestHub(t, func([]byte) {
		if seen++; seen == 1 {
			panic("bad packet")
		}
	})
	p := udpDatagram(plainIP, testAddr, 53, 10)
	_, _ = h.Write([][]byte{p, p, p}, 0)
	if seen != 3 || h.panics.Load() != 1 {
		t.Fatalf("%d packets seen, %d failures", seen, h.panics.Load())
	}
}

// Any bytes may come out of WireGuard; nothing comes back that is not a
// packet of a peer's, one hop older, or an ICMP error.
func FuzzHub(f *testing.F) {
	f.Add(udpDatagram(plainIP, gatewayIP, 80, 10))
	f.Add(udpDatagram(plainIP, gatewayIP, 5000, 1500))
	f.Add(fragmentOf(udpDatagram(plainIP, gatewayIP, 5000, 100), 1, 8, 64))
	f.Add(packet6("fd00::2", "fd00::4", protoUDP, 80))
	h, _ := newTestHub(f, nil)
	bufs, sizes := [][]byte{make([]byte, 65535)}, make([]int, 1)
	f.Fuzz(func(t *testing.T, p []byte) {
		_, _ = h.Write([][]byte{p}, 0)
		for h.queued() > 0 {
			n, err := h.Read(bufs, sizes, 0)
			if n != 1 || err != nil || sizes[0] < ipv4Header || sizes[0] > 1420 {
				t.Fatal(n, err, sizes)
			}
		}
	})
}

func TestFragmentsThatOverlap(t *testing.T) {
	whole := udpDatagram(plainIP, gatewayIP, 5000, 4000)
	type cut struct{ from, to int }
	for _, c := range []struct {
		name string
		cuts []cut
		last bool // whether the last one passes; all before it do
	}{
		{"in order", []cut{{0, 1400}, {1400, 2800}, {2800, 4008}}, true},
		{"backwards", []cut{{2800, 4008}, {1400, 2800}, {0, 1400}}, true},
		{"middle last", []cut{{0, 1400}, {2800, 4008}, {1400, 2800}}, true},
		{"twice", []cut{{0, 1400}, {0, 1400}}, false},
		{"over the front", []cut{{0, 1400}, {8, 16}}, false},
		{"over the seam", []cut{{0, 1400}, {1400, 2800}, {1392, 1408}}, false},
		{"around", []cut{{1400, 1408}, {0, 2800}}, false},
		{"after an overlap", []cut{{0, 1400}, {2800, 4008}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f fragments
			for i, cut := range c.cuts {
				want := c.last || i < len(c.cuts)-1
				if got := f.accept(fragmentOf(whole, 9, cut.from, cut.to)); got != want {
					t.Fatalf("fragment %d: %v", i, got)
				}
			}
		})
	}
	t.Run("nothing passes after an overlap", func(t *testing.T) {
		var f fragments
		f.accept(fragmentOf(whole, 9, 0, 1400))
		f.accept(fragmentOf(whole, 9, 0, 1400))
		if f.accept(fragmentOf(whole, 9, 1400, 2800)) {
			t.Fatal("passed")
		}
		if !f.accept(fragmentOf(whole, 10, 1400, 2800)) {
			t.Fatal("another datagram is refused")
		}
	})
	t.Run("a complete datagram is forgotten", func(t *testing.T) {
		var f fragments
		for range 3 { // the sender's numbers came round
			for _, c := range []cut{{0, 2000}, {2000, 4008}} {
				if !f.accept(fragmentOf(whole, 9, c.from, c.to)) {
					t.Fatal("refused")
				}
			}
		}
		if len(f.sets) != 0 {
			t.Fatalf("%d left", len(f.sets))
		}
	})
	t.Run("memory is bounded", func(t *testing.T) {
		var f fragments
		for id := range 10 * fragmentSets {
			f.accept(fragmentOf(whole, uint16(id), 0, 1400))
		}
		if len(f.sets) > fragmentSets {
			t.Fatalf("%d datagrams", len(f.sets))
		}
		for i := 0; i < 2*fragmentSpans; i++ {
			f.accept(fragmentOf(whole, 1, 16*i+8, 16*i+16))
		}
		for _, set := range f.sets {
			if len(set.spans) > fragmentSpans {
				t.Fatalf("%d spans", len(set.spans))
			}
		}
	})
}

func TestDecrementTTL(t *testing.T) {
	for ttl := 1; ttl < 256; ttl++ {
		for tos := range 256 { // so that the checksum takes many values
			p := udpDatagram(plainIP, gatewayIP, 1, 0)
			p[1], p[8] = byte(tos), byte(ttl)
			p[10], p[11] = 0, 0
			binary.BigEndian.PutUint16(p[10:], checksum(p[:ipv4Header]))
			decrementTTL(p)
			if int(p[8]) != ttl-1 || checksum(p[:ipv4Header]) != 0 {
				t.Fatalf("TTL %d, TOS %d: %x", ttl, tos, p[:ipv4Header])
			}
		}
	}
}

func TestReadDoesNotWaitForMore(t *testing.T) {
	h, _ := newTestHub(t, nil)
	got := make(chan int, 1)
	go func() {
		bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
		for i := range bufs {
			bufs[i] = make([]byte, 2000)
		}
		n, _ := h.Read(bufs, sizes, 0)
		got <- n
	}()
	_, _ = h.Write([][]byte{udpDatagram(plainIP, gatewayIP, 5000, 10)}, 0)
	select {
	case n := <-got:
		if n != 1 {
			t.Fatal(n)
		}
	case <-time.After(patience):
		t.Fatal("Read waits")
	}
}
