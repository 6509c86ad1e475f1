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
	// ackDelay is how long it waits. That is far below the 200 ms after which
	// common senders repeat themselves, and longer than a busy client takes for
	// its next request.
	ackDelay = 10 * time.Millisecond

	// ackSegments is how many segments may be unacknowledged: every second one
	// is told at once, as the RFC asks for.
	ackSegments = 2

	// maxAckFlows bounds the flows of one peer that are watched, ackAge how long
	// one is that falls silent. Others have their acknowledgements sent at once.
	maxAckFlows = 4096
	ackAge      = 30 * time.Second
)

// acks holds acknowledgements for one peer back.
type acks struct {
	mu         sync.Mutex
	young, old map[ackKey]*ackFlow // seen in this ackAge, and in the one before
	born       time.Time           // of young
	held       []heldAck           // oldest first; some may have been sent
	timer      *time.Timer         // nil until the first is held; runs while held is not empty
}

// ackKey is a flow of TCP over IPv4: both addresses and both ports.
type ackKey [12]byte

type ackFlow struct {
	sent   uint32 // the acknowledgement number that the peer has
	size   int    // of packet, 0 if none is held
	packet [ipv4Header + tcpHeader + ackOptions]byte
}

type heldAck struct {
	flow *ackFlow
	due  time.Time
}

// ackOptions is the size of the options of an acknowledgement that may wait:
// time stamps. What has more reports a gap, which the sender has to know.
const ackOptions = 12

// pass looks at a packet on its way to the peer. It reports false if it keeps
// the packet, which then is sent a little later or not at all. mss is the
// payload of a full segment, in bytes.
func (x *acks) pass(to *wireguard.Peer, pkt *stack.PacketBuffer, mss uint32) bool {
	ip, t := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	if len(ip) != ipv4Header || len(t) < tcpHeader || ip[9] != protoTCP {
		return true
	}
	var key ackKey
	copy(key[:8], ip[12:20])
	copy(key[8:], t[:4])
	number, flags := binary.BigEndian.Uint32(t[8:]), t[13]
	data := pkt.Size() > len(ip)+len(t)

	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.find(key)
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
	case data || number == f.sent || number-f.sent >= ackSegments*mss || len(t) > tcpHeader+ackOptions:
		f.sent, f.size = number, 0
	default:
		if f.size == 0 {
			x.hold(to, f)
		}
		f.size = copyPacket(f.packet[:], pkt)
		return false
	}
	return true
}

// find returns what is known of a flow, nil if nothing is. mu is held.
func (x *acks) find(key ackKey) *ackFlow {
	if now := time.Now(); now.Sub(x.born) > ackAge {
		x.young, x.old, x.born = make(map[ackKey]*ackFlow), x.young, now
	}
	f := x.young[key]
	if f == nil {
		if f = x.old[key]; f != nil {
			delete(x.old, key)
			x.young[key] = f
		}
	}
	return f
}

// hold has f looked at in a while. mu is held.
func (x *acks) hold(to *wireguard.Peer, f *ackFlow) {
	x.held = append(x.held, heldAck{f, time.Now().Add(ackDelay)})
	switch {
	case x.timer == nil:
		x.timer = time.AfterFunc(ackDelay, func() { x.release(to) })
	case len(x.held) == 1:
		x.timer.Reset(ackDelay)
	}
}

// release sends what has waited long enough.
func (x *acks) release(to *wireguard.Peer) {
	b := to.NewBurst(wireguard.MaxBurst)
	defer func() { b.Send() }()
	x.mu.Lock()
	defer x.mu.Unlock()
	now, n := time.Now(), 0
	for n < len(x.held) && !x.held[n].due.After(now) {
		if f := x.held[n].flow; f.size > 0 {
			room := b.Next(f.size)
			if room == nil {
				break // the rest goes with the next burst
			}
			copy(room, f.packet[:f.size])
			f.sent, f.size = binary.BigEndian.Uint32(f.packet[ipv4Header+8:]), 0
		}
		n++
	}
	left := copy(x.held, x.held[n:])
	clear(x.held[left:])
	x.held = x.held[:left]
	if left > 0 {
		x.timer.Reset(max(x.held[0].due.Sub(now), 0))
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
