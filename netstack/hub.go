package netstack

import (
	"encoding/binary"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/wireguard"
)

// icmpRate and icmpBurst bound the errors that the hub sends as a router:
// packets per second and at once. What the stack sends has the same limits.
const icmpRate, icmpBurst = 1000, 50

// hub stands between WireGuard and the stack. What peers sent comes in by
// receive and goes to the stack, the exit or another peer; what the stack has for
// peers goes out by transmit. It has no queue and no goroutine: a packet is
// carried through by whoever brings it. Packets of a flow keep their order.
type hub struct {
	log    *slog.Logger
	table  *atomic.Pointer[table]
	mtu    int // bytes
	inject func(*stack.PacketBuffer)
	icmp   *rate.Limiter
	frags  fragments
	spare  sync.Pool // of *batch

	// What the exit takes without the stack.
	echo6    func(packet []byte)
	datagram func(r *udpRun, t *table, packet []byte, v verdict) (taken bool)

	filtered  atomic.Uint64 // packets lost: refused
	corrupted atomic.Uint64 // wrong checksum
	limited   atomic.Uint64 // above the rate of their peer
	panics    atomic.Uint64 // handler failed
}

// batch is what one call of receive needs.
type batch struct {
	local     [][]byte // packets for the stack
	relayed   *wireguard.Burst
	outgoing  udpRun
	coalescer coalescer
}

func newHub(log *slog.Logger, current *atomic.Pointer[table], mtu int) *hub {
	return &hub{
		log: log, table: current, mtu: mtu,
		inject: func(pkt *stack.PacketBuffer) { pkt.DecRef() },
		echo6:  func([]byte) {}, datagram: func(*udpRun, *table, []byte, verdict) bool { return true },
		icmp:  rate.NewLimiter(icmpRate, icmpBurst),
		spare: sync.Pool{New: func() any { return new(batch) }},
	}
}

// receive takes packets from one peer. WireGuard calls it from one goroutine
// per socket, and has checked nothing but who sent them.
func (h *hub) receive(from *wireguard.Peer, packets [][]byte) {
	b := h.spare.Get().(*batch)
	t := h.table.Load()
	for _, packet := range packets {
		size, ok := packetSize(packet)
		if !ok {
			h.filtered.Add(1)
			continue
		}
		packet = packet[:size] // what is behind it is padding
		v := t.classify(packet)
		switch {
		case v.way == drop || v.from.wg != from: // not its own address
			h.filtered.Add(1)
		case !allow(v.from.receiving, size):
			h.limited.Add(1)
		case v.way == toPeer:
			h.relay(b, t, packet, v)
		case v.way == toEcho:
			h.echo(packet)
		case v.way == toFlow && h.flow(b, t, packet, v):
		default:
			b.local = append(b.local, packet)
			b.coalescer.streams = &v.from.streams
		}
	}
	b.send()
	h.flush(b)
	if len(b.local) > 0 {
		h.deliver(b)
	}
	clear(b.local)
	b.local = b.local[:0]
	h.spare.Put(b)
}

// deliver gives packets to the stack. One that makes the stack fail costs only
// those that came with it.
func (h *hub) deliver(b *batch) {
	whole := false
	defer func() {
		if !whole {
			b.coalescer = coalescer{}
		}
	}()
	defer h.survive()
	b.coalescer.segment = uint32(segmentPayload(h.mtu))
	if bad := b.coalescer.run(b.local, h.inject); bad > 0 {
		h.corrupted.Add(uint64(bad))
	}
	whole = true
}

// echo gives an echo request to the exit.
func (h *hub) echo(packet []byte) {
	defer h.survive()
	h.echo6(packet)
}

// flow gives a datagram to the exit. It reports false if it is for the stack.
func (h *hub) flow(b *batch, t *table, packet []byte, v verdict) bool {
	defer h.survive()
	return h.datagram(&b.outgoing, t, packet, v)
}

// flush has the exit write what flow has left.
func (h *hub) flush(b *batch) {
	defer h.survive()
	b.outgoing.flush()
}

// survive is deferred where packets are handled: a failure is counted, and the
// first one reported.
func (h *hub) survive() {
	if r := recover(); r != nil && h.panics.Add(1) == 1 {
		h.log.Error("a packet made the network stack fail", "panic", r, "stack", string(debug.Stack()))
	}
}

// relay passes a packet on to another peer, as a router does: one hop less to
// live, and an error to the sender where it cannot go on.
func (h *hub) relay(b *batch, t *table, packet []byte, v verdict) {
	hops := &packet[8]
	if isIPv6(packet) {
		hops = &packet[7]
	}
	switch {
	case v.fragment && !h.frags.accept(packet):
		h.filtered.Add(1)
	case *hops <= 1:
		h.complain(t, v.from, errorHops, 0, packet)
	case len(packet) > h.mtu:
		h.complain(t, v.from, errorTooBig, h.mtu, packet)
	case !allow(v.to.sending, len(packet)):
		h.limited.Add(1)
	default:
		room := b.room(v.to.wg, len(packet))
		copy(room, packet)
		if isIPv6(room) {
			room[7]--
		} else {
			decrementTTL(room)
		}
	}
}

// room returns where a packet for a peer is to be written, in the burst that is
// being filled if it is for the same peer.
func (b *batch) room(to *wireguard.Peer, size int) []byte {
	if b.relayed != nil && b.relayed.Peer() == to {
		if room := b.relayed.Next(size); room != nil {
			return room
		}
	}
	b.send()
	b.relayed = to.NewBurst(wireguard.MaxBurst)
	return b.relayed.Next(size)
}

// send sends what was passed on so far.
func (b *batch) send() {
	if b.relayed != nil {
		b.relayed.Send()
		b.relayed = nil
	}
}

// complain tells the sender of packet why it did not go on, if this server has an
// address to do so from.
func (h *hub) complain(t *table, to *peer, e icmpError, mtu int, packet []byte) {
	h.filtered.Add(1)
	if isIPv6(packet) && !t.self.addr6.IsValid() || !mayAnswer(packet) || !h.icmp.Allow() {
		return
	}
	var room [minMTU6]byte
	h.send(to, appendICMPError(room[:0], t, e, mtu, packet))
}

// send sends one packet to a peer.
func (h *hub) send(to *peer, packet []byte) {
	if !allow(to.sending, len(packet)) {
		h.limited.Add(1)
		return
	}
	b := to.wg.NewBurst(len(packet))
	copy(b.Next(len(packet)), packet)
	b.Send()
}

// transmit sends a packet of the stack to the peer that owns its destination,
// cut into segments. The stack calls it with locks of its own held; that is
// safe because nothing here needs the stack.
func (h *hub) transmit(pkt *stack.PacketBuffer) {
	defer h.survive()
	to := h.owner(pkt)
	if to == nil || to.wg == nil {
		h.filtered.Add(1)
		return
	}
	if !to.streams.outgoing(to.wg, pkt, uint32(h.mtu)) {
		return
	}
	var s segmenter
	if !s.reset(pkt) {
		h.filtered.Add(1)
		return
	}
	var b *wireguard.Burst
	for size, ok := s.more(); ok; size, ok = s.more() {
		var room []byte
		if b != nil {
			room = b.Next(size)
		}
		if room == nil {
			if b != nil {
				b.Send()
			}
			b = to.wg.NewBurst(burstFor(pkt, size))
			room = b.Next(size)
		}
		if s.write(room) == 0 { // larger than any burst
			h.filtered.Add(1)
			break
		}
		if !allow(to.sending, size) {
			b.Undo()
			h.limited.Add(1)
		}
	}
	if b != nil {
		b.SendSoon(pkt.Data().Size() > 0)
	}
}

// burstFor returns how much room the segments of pkt need, the first of which
// has this size.
func burstFor(pkt *stack.PacketBuffer, size int) int {
	if pkt.Size() > size {
		return wireguard.MaxBurst
	}
	return size
}

// owner returns the peer that a packet of the stack is for, nil if there is
// none.
func (h *hub) owner(pkt *stack.PacketBuffer) *peer {
	ip := pkt.NetworkHeader().Slice()
	switch {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(ip) >= ipv4Header:
		return h.table.Load().lookup4(binary.BigEndian.Uint32(ip[16:]))
	case pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber && len(ip) >= ipv6Header:
		return h.table.Load().lookup6([16]byte(ip[24:]))
	}
	return nil
}

// packetSize returns the size of the IP packet at the beginning of p, which may
// have padding behind it.
func packetSize(p []byte) (int, bool) {
	size := 0
	switch {
	case len(p) >= ipv4Header && p[0]>>4 == 4:
		size = int(binary.BigEndian.Uint16(p[2:]))
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		size = ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
	}
	return size, size >= ipv4Header && size <= len(p)
}

// rateBurst is how long a peer may exceed its rate, and minBurst how much it
// may send at once however low that is, in bytes: what a sender of TCP sends
// before the first answer, several times.
const (
	rateBurst = time.Second / 8
	minBurst  = 64 << 10
)

// newLimiter returns a token bucket for bytes per second, nil for 0.
func newLimiter(bytes uint64) *rate.Limiter {
	if bytes == 0 {
		return nil
	}
	burst := float64(bytes) * rateBurst.Seconds()
	return rate.NewLimiter(rate.Limit(bytes), int(max(burst, minBurst)))
}

// allow reports whether size more bytes are within a rate, and counts them.
func allow(l *rate.Limiter, size int) bool { return l == nil || l.AllowN(time.Now(), size) }
