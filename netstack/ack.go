package netstack

import (
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
)

// delayed is the acknowledgement of one flow that waits, if one does.
type delayed struct {
	speaks bool      // the flow has sent data
	sent   uint32    // the acknowledgement number that the peer has
	held   uint32    // that of packet
	size   int       // of packet in bytes, 0 if none is held
	due    time.Time // when packet is sent
	listed bool      // in streams.waiting
	packet [ipv6Header + tcpHeader + ackOptions]byte
}

// ackOptions is the size of the options of an acknowledgement that may wait:
// time stamps. What has more reports a gap, which the sender has to know.
const ackOptions = 12

// delay is for a packet of f. It reports false if it keeps the packet, which then
// is sent a little later or not at all, and returns what is to be sent before it.
// What acknowledges more than a full packet may not wait, so that every second
// full segment is told at once, as the RFC asks for. mu is held.
func (x *streams) delay(to *wireguard.Peer, f *stream, pkt *stack.PacketBuffer, h *tcpHeaders, full uint32, now time.Time) (before *wireguard.Burst, ok bool) {
	number, a := h.number(), &f.ack
	a.speaks = (a.speaks || h.size > 0) && h.flags()&flagSYN == 0
	pure := h.size == 0 && h.flags()&^(flagPSH|flagECE) == flagACK
	switch {
	case pure && a.size > 0 && number == a.held:
		// It reports a gap, a window, or that this side is alive. A sender counts
		// what it gets of these, so the first one goes before.
		before = to.NewBurst(a.size)
		a.release(before)
		return before, true
	case pure && h.flags()&flagECE == 0 && a.speaks && !f.ended && number != a.sent && number-a.sent <= full && len(h.tcp) <= tcpHeader+ackOptions:
		return nil, !x.hold(to, a, pkt, number, now)
	}
	a.sent, a.size = number, 0
	return nil, true
}

// hold keeps pkt, an acknowledgement, in place of the one that a holds. It
// reports false if it cannot. mu is held.
func (x *streams) hold(to *wireguard.Peer, a *delayed, pkt *stack.PacketBuffer, number uint32, now time.Time) bool {
	if !a.listed && len(x.waiting) == maxStreams {
		a.sent = number
		return false
	}
	if a.size == 0 {
		a.due = now.Add(ackDelay)
	}
	if a.size = copyPacket(a.packet[:], pkt); a.size == 0 {
		a.sent = number
		return false
	}
	a.held = number
	if !a.listed {
		a.listed = true
		x.waiting = append(x.waiting, a)
		switch {
		case x.timer == nil:
			x.timer = time.AfterFunc(ackDelay, func() { x.tick(to) })
		case len(x.waiting) == 1:
			x.timer.Reset(ackDelay)
		}
	}
	return true
}

// release writes what a holds into a burst. It reports false if there is no
// room. mu of its streams is held.
func (a *delayed) release(b *wireguard.Burst) bool {
	room := b.Next(a.size)
	if room == nil {
		return false
	}
	copy(room, a.packet[:a.size])
	a.sent, a.size = a.held, 0
	return true
}

// tick sends what has waited long enough. The timer looks at all flows at once
// and not when each is due: on a busy flow an acknowledgement is held and
// dropped again in every round trip.
func (x *streams) tick(to *wireguard.Peer) {
	var b *wireguard.Burst
	x.mu.Lock()
	now, next, left := time.Now(), ackTick, 0
	for _, a := range x.waiting {
		if a.size > 0 && !a.due.After(now) {
			if b == nil {
				b = to.NewBurst(wireguard.MaxBurst)
			}
			if !a.release(b) {
				next = 0 // the rest goes with the next burst
			}
		}
		if a.listed = a.size > 0; a.listed {
			x.waiting[left] = a
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
