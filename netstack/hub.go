package netstack

import (
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// batchSize is how many packets pass between WireGuard and the hub in one
	// call: what the bind moves with one system call.
	batchSize = conn.IdealBatchSize

	// stackQueue bounds the packets of the stack that wait for encryption:
	// 1.4 MB at the usual MTU. A sender waits when it is full, so that TCP is
	// slowed down instead of losing packets to itself.
	stackQueue = 1024

	// relayQueue bounds the packets from peer to peer that wait for encryption,
	// 5.8 MB at the usual MTU, and relayShare those of one sender, so that a
	// flood leaves room for others. Beyond it packets are lost, as on any router.
	relayQueue = 4096
	relayShare = relayQueue / 4

	// icmpRate and icmpBurst bound the errors that the hub sends as a router:
	// packets per second and at once. What the stack sends has the same limits.
	icmpRate, icmpBurst = 1000, 50
)

// hub is the tun.Device of the WireGuard device. Write takes what peers sent
// and hands it to the stack or to another peer; Read gives what the stack and
// peers have for other peers. Packets of a flow keep their order.
type hub struct {
	log    *slog.Logger
	table  *atomic.Pointer[table]
	mtu    int // bytes
	inject func(packet []byte)
	events chan tun.Event
	icmp   *rate.Limiter
	frags  fragments
	pool   sync.Pool // of *parcel

	filtered, overflowed, panics atomic.Uint64 // packets lost: refused, queue full, handler failed

	mu       sync.Mutex
	readable sync.Cond                 // a queue is no longer empty, or closed
	writable sync.Cond                 // sending is no longer full, or closed
	sending  ring[*stack.PacketBuffer] // from the stack; the hub holds one reference each
	relaying ring[*parcel]             // from peer to peer
	waiting  int                       // senders that wait for room in sending
	closed   bool

	// Of the only reader.
	fromStack [batchSize]*stack.PacketBuffer
	fromPeers [batchSize]*parcel
}

var _ tun.Device = (*hub)(nil)

// parcel is one packet on its way from peer to peer.
type parcel struct {
	buf  []byte // of MTU size
	size int
	from *identity
}

func newHub(log *slog.Logger, table *atomic.Pointer[table], mtu int) *hub {
	h := &hub{
		log: log, table: table, mtu: mtu,
		inject:   func([]byte) {},
		events:   make(chan tun.Event),
		icmp:     rate.NewLimiter(icmpRate, icmpBurst),
		sending:  newRing[*stack.PacketBuffer](stackQueue),
		relaying: newRing[*parcel](relayQueue),
	}
	h.pool.New = func() any { return &parcel{buf: make([]byte, max(mtu, 576))} }
	h.readable.L, h.writable.L = &h.mu, &h.mu
	return h
}

// Write takes packets from one peer. WireGuard calls it from one goroutine
// per peer. It does not keep bufs.
func (h *hub) Write(bufs [][]byte, offset int) (int, error) {
	t := h.table.Load()
	var batch [batchSize]*parcel
	n := 0
	for _, buf := range bufs {
		packet := buf[offset:]
		v := t.classify(packet)
		switch v.way {
		case toServer, toExit:
			h.deliver(packet)
		case toPeer:
			if c := h.pack(t, packet, v); c != nil {
				batch[n] = c
				n++
			}
		default:
			h.filtered.Add(1)
		}
		if n == len(batch) {
			h.relay(batch[:n])
			n = 0
		}
	}
	h.relay(batch[:n])
	return len(bufs), nil
}

// deliver gives a packet to the stack. A packet that makes the stack fail is
// the only one that is lost by it.
func (h *hub) deliver(packet []byte) {
	defer func() {
		if r := recover(); r != nil {
			if h.panics.Add(1) == 1 {
				h.log.Error("a packet made the network stack fail", "panic", r, "stack", string(debug.Stack()))
			}
		}
	}()
	h.inject(packet)
}

// pack copies a packet for another peer, as a router does: one hop less to
// live, and an error to the sender where it cannot go on. It returns nil if
// nothing is to be sent.
func (h *hub) pack(t *table, packet []byte, v verdict) *parcel {
	c := h.pool.Get().(*parcel)
	c.from = v.from.identity
	v6 := packet[0]>>4 == 6
	switch {
	case v.fragment && !h.frags.accept(packet):
		h.filtered.Add(1)
	case v6 && (packet[7] <= 1 || len(packet) > len(c.buf)):
		h.filtered.Add(1)
	case v6:
		c.size = copy(c.buf, packet)
		c.buf[7]--
		return c
	case packet[8] <= 1:
		return h.complain(c, t, icmpTimeExceeded, codeTTL, 0, packet)
	case len(packet) > h.mtu:
		return h.complain(c, t, icmpUnreachable, codeFragmentationNeeded, h.mtu, packet)
	default:
		c.size = copy(c.buf, packet)
		decrementTTL(c.buf)
		return c
	}
	h.pool.Put(c)
	return nil
}

// complain turns c into an ICMP error about packet, to its sender.
func (h *hub) complain(c *parcel, t *table, typ, code uint8, mtu int, packet []byte) *parcel {
	h.filtered.Add(1)
	if !mayAnswer(packet) || !h.icmp.Allow() {
		h.pool.Put(c)
		return nil
	}
	c.size = len(appendICMPError(c.buf[:0], t.server4, typ, code, mtu, packet))
	return c
}

// relay queues packets from one peer. What does not fit is lost.
func (h *hub) relay(batch []*parcel) {
	if len(batch) == 0 {
		return
	}
	h.mu.Lock()
	taken := 0
	for taken < len(batch) && !h.closed && !h.relaying.full() {
		c := batch[taken]
		if c.from.queued.Load() >= relayShare {
			break
		}
		c.from.queued.Add(1)
		h.relaying.push(c)
		taken++
	}
	if taken > 0 {
		h.readable.Signal()
	}
	h.mu.Unlock()
	for _, c := range batch[taken:] {
		h.overflowed.Add(1)
		h.pool.Put(c)
	}
}

// send queues a packet of the stack and takes a reference to it. It waits for
// room, and reports false if the hub is closed. The stack calls it with locks
// of its own held; that is safe because the reader never needs the stack.
func (h *hub) send(pkt *stack.PacketBuffer) bool {
	h.mu.Lock()
	for h.sending.full() && !h.closed {
		h.waiting++
		h.writable.Wait()
		h.waiting--
	}
	ok := !h.closed
	if ok {
		h.sending.push(pkt.IncRef())
		h.readable.Signal()
	}
	h.mu.Unlock()
	return ok
}

// Read fills bufs with the packets that wait, at least one, and never waits
// for more. WireGuard calls it from one goroutine.
func (h *hub) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	stacked, relayed, err := h.take(min(len(bufs), batchSize))
	if err != nil {
		return 0, err
	}
	n := 0
	for i, pkt := range h.fromStack[:stacked] {
		sizes[n] = copyPacket(bufs[n][offset:], pkt)
		n++
		pkt.DecRef()
		h.fromStack[i] = nil
	}
	for i, c := range h.fromPeers[:relayed] {
		sizes[n] = copy(bufs[n][offset:], c.buf[:c.size])
		n++
		c.from.queued.Add(-1)
		c.from = nil
		h.pool.Put(c)
		h.fromPeers[i] = nil
	}
	return n, nil
}

// take moves up to room packets out of the queues, half of each if both have
// enough.
func (h *hub) take(room int) (stacked, relayed int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.sending.len() == 0 && h.relaying.len() == 0 && !h.closed {
		h.readable.Wait()
	}
	if h.closed {
		return 0, 0, os.ErrClosed
	}
	stacked = min(h.sending.len(), max(room/2, room-h.relaying.len()))
	relayed = min(h.relaying.len(), room-stacked)
	for i := range stacked {
		h.fromStack[i] = h.sending.pop()
	}
	for i := range relayed {
		h.fromPeers[i] = h.relaying.pop()
	}
	if h.waiting > 0 && stacked > 0 {
		h.writable.Broadcast()
	}
	return stacked, relayed, nil
}

// copyPacket copies a packet out of the stack's buffers. It returns the size,
// or 0 if the packet does not fit, which WireGuard skips.
func copyPacket(to []byte, pkt *stack.PacketBuffer) int {
	if pkt.Size() > len(to) {
		return 0
	}
	views, skip := pkt.AsViewList()
	n := 0
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n += copy(to[n:], b[skip:])
		skip = 0
	}
	return n
}

// Close ends Read and every wait in send, and drops what is queued.
func (h *hub) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	for h.sending.len() > 0 {
		h.sending.pop().DecRef()
	}
	for h.relaying.len() > 0 {
		h.relaying.pop().from.queued.Add(-1)
	}
	h.readable.Broadcast()
	h.writable.Broadcast()
	close(h.events)
	return nil
}

// File returns nil: there is no file descriptor behind the hub.
func (h *hub) File() *os.File { return nil }

// MTU returns the size of the largest packet, in bytes.
func (h *hub) MTU() (int, error) { return h.mtu, nil }

// Name returns the name of the interface, for messages.
func (h *hub) Name() (string, error) { return "hub", nil }

// Events returns a channel that carries nothing and is closed by Close: the
// device is brought up by Start, not by an event.
func (h *hub) Events() <-chan tun.Event { return h.events }

// BatchSize returns how many packets Read and Write move at most.
func (h *hub) BatchSize() int { return batchSize }
