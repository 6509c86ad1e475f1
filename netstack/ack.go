package netstack

import (
	"encoding/binary"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/wireguard"
)

// Delayed acknowledgements (RFC 9293 section 3.8.6.3). The stack acknowledges
// whatever comes at once. So the answer to a request costs a packet that says
// nothing but that, just before the next request, which says it as well. On
// flows that send data themselves, an acknowledgement waits for the next data.
const (
	// ackDelay is how long it waits at least, ackTick how much longer it may take
	// until it is noticed that no data came. That is far below the 200 ms after
	// which common senders repeat themselves, and longer than a busy client takes
	// for its next request.
	ackDelay = 10 * time.Millisecond
	ackTick  = 5 * time.Millisecond

	// maxAckFlows bounds the flows of one peer that are watched, twice, and the
	// acknowledgements that wait; ackAge is how long a flow is watched that falls
	// silent. Others have their acknowledgements sent at once.
	maxAckFlows = 4096
	ackAge      = 30 * time.Second
)

// acks holds acknowledgements for one peer back. Its timer runs only while some
// wait, and so ends by itself.
type acks struct {
	mu         sync.Mutex
	young, old map[flowKey]*ackFlow // seen in this ackAge, and in the one before
	born       time.Time            // of young
	waiting    []*ackFlow           // that hold one, or did when the timer last looked; each once
	timer      *time.Timer          // nil until the first waits; runs while any is listed
}

type ackFlow struct {
	sent   uint32    // the acknowledgement number that the peer has
	held   uint32    // that of packet
	size   int       // of packet in bytes, 0 if none is held
	due    time.Time // when packet is sent
	listed bool      // in waiting
	packet [ipv6Header + tcpHeader + ackOptions]byte
}

// ackOptions is the size of the options of an acknowledgement that may wait:
// time stamps. What has more reports a gap, which the sender has to know.
const ackOptions = 12

// pass looks at a packet on its way to the peer. It reports false if it keeps
// the packet, which then is sent a little later or not at all. full is the size
// of a full packet: what acknowledges more data than that may not wait, so that
// every second full segment is told at once, as the RFC asks for.
func (x *acks) pass(to *wireguard.Peer, pkt *stack.PacketBuffer, full uint32) bool {
	ip, t := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	if len(t) < tcpHeader || !(len(ip) == ipv4Header && ip[9] == protoTCP || len(ip) == ipv6Header && ip[6] == protoTCP) {
		return true
	}
	key := keyOf(packetAddresses(ip), t)
	number, flags := binary.BigEndian.Uint32(t[8:]), t[13]
	data := pkt.Size() > len(ip)+len(t)

	x.mu.Lock()
	now := time.Now()
	f := x.find(key, now)
	var before *wireguard.Burst
	ok := true
	switch {
	case flags&^flagPSH != flagACK:
		if f != nil {
			f.size = 0
			delete(x.young, key)
		}
	case f == nil:
		if data && len(x.young) < maxAckFlows {
			x.young[key] = &ackFlow{sent: number}
		}
	case !data && f.size > 0 && number == f.held:
		// It reports a gap, a window, or that this side is alive. A sender counts
		// what it gets of these, so the first one goes before.
		before = to.NewBurst(f.size)
		f.release(before)
	case !data && number != f.sent && number-f.sent <= full && len(t) <= tcpHeader+ackOptions:
		ok = !x.hold(to, f, pkt, number, now)
	default:
		f.sent, f.size = number, 0
	}
	x.mu.Unlock()
	if before != nil {
		before.Send()
	}
	return ok
}

// find returns what is known of a flow, nil if nothing is. mu is held.
func (x *acks) find(key flowKey, now time.Time) *ackFlow {
	if now.Sub(x.born) > ackAge {
		x.young, x.old, x.born = make(map[flowKey]*ackFlow), x.young, now
	}
	f := x.young[key]
	if f == nil && len(x.old) > 0 && len(x.young) < maxAckFlows {
		if f = x.old[key]; f != nil {
			delete(x.old, key)
			x.young[key] = f
		}
	}
	return f
}

// hold keeps pkt, an acknowledgement of f, in place of the one that f holds. It
// reports false if it cannot. mu is held.
func (x *acks) hold(to *wireguard.Peer, f *ackFlow, pkt *stack.PacketBuffer, number uint32, now time.Time) bool {
	if !f.listed && len(x.waiting) == maxAckFlows {
		f.sent = number
		return false
	}
	if f.size == 0 {
		f.due = now.Add(ackDelay)
	}
	if f.size = copyPacket(f.packet[:], pkt); f.size == 0 {
		f.sent = number
		return false
	}
	f.held = number
	if !f.listed {
		f.listed = true
		x.waiting = append(x.waiting, f)
		switch {
		case x.timer == nil:
			x.timer = time.AfterFunc(ackDelay, func() { x.tick(to) })
		case len(x.waiting) == 1:
			x.timer.Reset(ackDelay)
		}
	}
	return true
}

// release writes what f holds into a burst. It reports false if there is no
// room. mu of its acks is held.
func (f *ackFlow) release(b *wireguard.Burst) bool {
	room := b.Next(f.size)
	if room == nil {
		return false
	}
	copy(room, f.packet[:f.size])
	f.sent, f.size = f.held, 0
	return true
}

// tick sends what has waited long enough. The timer looks at all flows at once
// and not when each is due: on a busy flow an acknowledgement is held and
// dropped again in every round trip.
func (x *acks) tick(to *wireguard.Peer) {
	var b *wireguard.Burst
	x.mu.Lock()
	now, next, left := time.Now(), ackTick, 0
	for _, f := range x.waiting {
		if f.size > 0 && !f.due.After(now) {
			if b == nil {
				b = to.NewBurst(wireguard.MaxBurst)
			}
			if !f.release(b) {
				next = 0 // the rest goes with the next burst
			}
		}
		if f.listed = f.size > 0; f.listed {
			x.waiting[left] = f
			left++
		}
	}
	clear(x.waiting[left:])
	x.waiting = x.waiting[:left]
	if left > 0 {
		x.timer.Reset(next)
	}
	x.mu.Unlock()
	if b != nil {
		b.Send()
	}
}

// copyPacket copies a packet out of the stack's buffers and returns its size,
// or 0 if it does not fit.
func copyPacket(to []byte, pkt *stack.PacketBuffer) int {
	var s segmenter
	if size := pkt.Size(); size > len(to) || !s.reset(pkt) {
		return 0
	}
	return s.write(to)
}
