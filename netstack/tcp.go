package netstack

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/wireguard"
)

// streams are the TCP connections between the stack and one peer, as far as more is
// done for them than the stack does: acknowledgements are delayed (ack.go), both
// sides tell each other of congestion (ecn.go), and gaps are reported after this
// side has ended (gap.go). All of it happens to packets on their way.
//
// A packet that leaves, of up to 64 KiB, is looked up; one that comes is only if
// it may matter.
type streams struct {
	mu         sync.Mutex
	young, old map[flowKey]*stream // seen in this streamAge, and in the one before
	born       time.Time           // of young

	waiting []*delayed  // that hold an acknowledgement, or did when the timer last looked; each once
	timer   *time.Timer // of those; nil until the first waits, runs while any is listed

	watched atomic.Int32 // flows of which every packet that comes matters
	deaf    deafness     // hosts that do not answer if asked for marks
}

const (
	// maxStreams bounds the flows of one peer that are known, twice, and what waits
	// or is remembered of them. Nothing is done for others.
	maxStreams = 4096

	// streamAge is how long a flow is known that falls silent, up to twice that. No
	// living connection is: it is probed more often.
	streamAge = keepaliveIdle + 2*keepaliveInterval
)

// stream is one of them. Numbers are of sequence, and wrap around.
type stream struct {
	acked   uint32 // what the stack has acknowledged
	last    uint32 // what acknowledges the FIN of the peer, if it has come
	ended   bool   // this side has sent its FIN
	over    bool   // the peer has
	watched bool   // it is one of streams.watched

	ack    delayed
	mark   marks
	gap    gaps
	ours   edge // of the stack's window
	theirs edge // of the peer's
}

// tcpHeaders are the headers of a packet, in place, and the size of its payload.
type tcpHeaders struct {
	ip, tcp []byte
	size    int // bytes
}

func (h *tcpHeaders) flags() uint8   { return h.tcp[13] }
func (h *tcpHeaders) seq() uint32    { return binary.BigEndian.Uint32(h.tcp[4:]) }
func (h *tcpHeaders) number() uint32 { return binary.BigEndian.Uint32(h.tcp[8:]) }

// end is the sequence number behind the packet.
func (h *tcpHeaders) end() uint32 {
	n := h.seq() + uint32(h.size)
	if h.flags()&(flagSYN|flagFIN) != 0 {
		n++
	}
	return n
}

// after reports whether sequence number a is behind b (RFC 9293 section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// outgoing looks at a packet on its way to the peer, whose headers it may change.
// It reports false if the packet is not to be sent: then it is kept, or has been
// sent with more in it. full is the size of a full packet in bytes.
func (x *streams) outgoing(to *wireguard.Peer, pkt *stack.PacketBuffer, full uint32) bool {
	h := tcpHeaders{ip: pkt.NetworkHeader().Slice(), tcp: pkt.TransportHeader().Slice()}
	if len(h.tcp) < tcpHeader || !(len(h.ip) == ipv4Header && h.ip[9] == protoTCP || len(h.ip) == ipv6Header && h.ip[6] == protoTCP) {
		return true
	}
	h.size = pkt.Size() - len(h.ip) - len(h.tcp)

	x.mu.Lock()
	b, ok := x.send(to, pkt, &h, full)
	x.mu.Unlock()
	if b != nil {
		b.Send()
	}
	return ok
}

// send does the work of outgoing. What it returns is sent before the packet. mu
// is held.
func (x *streams) send(to *wireguard.Peer, pkt *stack.PacketBuffer, h *tcpHeaders, full uint32) (before *wireguard.Burst, ok bool) {
	key, now := keyOf(packetAddresses(h.ip), h.tcp), time.Now()
	f := x.find(key, now)
	switch {
	case h.flags()&flagRST != 0:
		x.drop(key, f)
		return nil, true
	case h.flags()&(flagSYN|flagACK) == flagSYN:
		if f = x.dial(key, f, h, now); f == nil {
			return nil, true
		}
	case f == nil && h.size > 0:
		f = x.add(key)
	}
	if f == nil {
		return nil, true
	}
	if h.flags()&flagSYN != 0 {
		f.offered(h)
	}
	f.theirs.fit(h)
	f.ours.tell(h)
	f.mark.send(h)
	f.acked = h.number()
	f.ended = f.ended || h.flags()&flagFIN != 0
	x.watch(f)
	before, ok = x.delay(to, f, pkt, h, full, now)
	if ok && f.ended {
		var room [ipv6Header + tcpHeader + maxOptions]byte
		if p := f.gap.report(room[:0], h); p != nil {
			before, ok = to.NewBurst(len(p)), false
			copy(before.Next(len(p)), p)
		}
		if f.over && !after(f.last, f.acked) {
			x.drop(key, f)
		}
	}
	return before, ok
}

// incoming looks at a packet of the peer, whose headers it may change. Checksums
// have been verified and are not kept right.
func (x *streams) incoming(h *tcpHeaders, segment uint32) {
	const turn = flagSYN | flagFIN | flagRST | flagECE | flagCWR
	if h.flags()&turn == 0 && h.mark() != markCongested && h.window() != 0 && x.watched.Load() == 0 {
		return
	}
	key := reverseKey(packetAddresses(h.ip), h.tcp)
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	f := x.find(key, now)
	switch flags := h.flags(); {
	case flags&flagRST != 0:
		x.drop(key, f)
		return
	case flags&(flagSYN|flagACK) == flagSYN:
		x.drop(key, f)
		if f = x.add(key); f != nil {
			f.greeted(h)
			f.mark.greeted(h)
		}
		return
	case f == nil:
		return
	case flags&flagSYN != 0:
		f.greeted(h)
		x.answered(f, h, now)
		return
	case flags&flagFIN != 0:
		f.over, f.last = true, h.end()
	}
	f.ours.fit(h)
	f.theirs.tell(h)
	f.mark.receive(h, segment)
	if f.ended {
		f.gap.note(h, f.acked)
	}
	x.watch(f)
}

// greeted is for a SYN of the peer.
func (f *stream) greeted(h *tcpHeaders) {
	f.mark.scale, _, f.gap.wanted = h.greeting()
}

// offered is for a SYN of the stack. If it answers one of the peer, what it does not
// have as well counts for neither: the stack leaves out much while many connections
// are half open.
func (f *stream) offered(h *tcpHeaders) {
	_, scaled, selective := h.greeting()
	if !scaled {
		f.mark.scale = 0
	}
	f.gap.wanted = f.gap.wanted && selective
}

// greeting reads the options of a SYN: the scale of windows, and whether there is
// one; and whether selective acknowledgements are wanted.
func (h *tcpHeaders) greeting() (scale uint8, scaled, selective bool) {
	const endOfList, noOperation, windowScale, sackPermitted = 0, 1, 3, 4
	for o := h.tcp[tcpHeader:]; len(o) > 0 && o[0] != endOfList; {
		if o[0] == noOperation {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			break
		}
		switch {
		case o[0] == windowScale && o[1] == 3:
			scale, scaled = min(o[2], 14), true // RFC 7323 section 2.3
		case o[0] == sackPermitted:
			selective = true
		}
		o = o[o[1]:]
	}
	return scale, scaled, selective
}

// find returns what is known of a flow, nil if nothing is. mu is held.
func (x *streams) find(key flowKey, now time.Time) *stream {
	if now.Sub(x.born) > streamAge {
		for _, f := range x.old {
			x.unwatch(f)
		}
		x.young, x.old, x.born = make(map[flowKey]*stream), x.young, now
	}
	f := x.young[key]
	if f == nil && len(x.old) > 0 {
		if f = x.old[key]; f != nil && len(x.young) < maxStreams {
			delete(x.old, key)
			x.young[key] = f
		}
	}
	return f
}

// add makes a flow known, and returns nil if there are too many. mu is held, and
// find has found none.
func (x *streams) add(key flowKey) *stream {
	if len(x.young) >= maxStreams {
		return nil
	}
	f := new(stream)
	x.young[key] = f
	return f
}

// drop forgets a flow, if f is one. mu is held, and find has found it.
func (x *streams) drop(key flowKey, f *stream) {
	if f != nil {
		f.ack.size = 0
		x.unwatch(f)
		delete(x.young, key)
		delete(x.old, key)
	}
}

// watch sees to it that every packet of a flow is looked at, while that matters.
// mu is held.
func (x *streams) watch(f *stream) {
	if matters := f.ended || f.mark.told || f.ours.shut || f.theirs.shut; matters != f.watched {
		x.unwatch(f)
		if f.watched = matters; matters {
			x.watched.Add(1)
		}
	}
}

// unwatch ends that. mu is held.
func (x *streams) unwatch(f *stream) {
	if f.watched {
		f.watched = false
		x.watched.Add(-1)
	}
}
