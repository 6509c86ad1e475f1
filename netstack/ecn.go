package netstack

import (
	"encoding/binary"
	"time"
)

// Explicit congestion notification for connections of the stack (RFC 3168): a
// router whose queue grows marks packets rather than drop them, the receiver says
// so, and the sender slows down as if one had been lost. The stack has nothing of
// it. So what it sends to open a connection asks for it here, marks are reported
// here, and to slow down the stack is told of a smaller window.

// marks is what one flow has to do with it.
type marks struct {
	state   agreement
	scale   uint8 // of the windows that the peer tells (RFC 7323 section 2.2)
	plain   bool  // a SYN that does not ask was sent: what this side sends may not be marked
	echo    bool  // a packet came with a mark, and the peer has not said that it knows
	told    bool  // the peer reports marks: una is kept
	reduced bool  // the next new data says that this side does

	next   uint32 // the sequence number behind all that was sent
	una    uint32 // the first that is not acknowledged, while told
	cut    uint32 // what next was when the window was cut, which is done once a flight
	window uint32 // what may be on its way in bytes, while told; 0: what the peer says
}

// agreement says how far both sides have come with it.
type agreement uint8

const (
	unmarked agreement = iota // a side does not want it
	asking                    // the stack has sent a SYN that asks
	retrying                  // it was not answered, and repeated without asking
	asked                     // the peer has sent a SYN that asks
	agreed
)

// What the two bits in the IP header say.
const (
	markBits      = 3
	markable      = 2 // ECT(0)
	markCongested = 3 // CE
)

// minWindow is the least window that marks leave, in segments.
const minWindow = 2

// dial is for a SYN of the stack, which may belong to a flow that is known. mu is
// held.
func (x *streams) dial(key flowKey, f *stream, h *tcpHeaders, now time.Time) *stream {
	if f != nil && (f.mark.state == asking || f.mark.state == retrying) && f.mark.next == h.end() {
		f.mark.state, f.mark.plain = retrying, true // section 6.1.1.1
		return f
	}
	x.drop(key, f)
	if f = x.add(key); f != nil && !x.deaf.has(h.destination(), now) {
		f.mark.state = asking
		f.mark.next = h.end()
		h.setFlags(flagECE | flagCWR)
	}
	return f
}

// answered is for a SYN that answers one of the stack. Some answer with the flags
// that they got, which means nothing. mu is held.
func (x *streams) answered(f *stream, h *tcpHeaders, now time.Time) {
	switch agrees := h.flags()&(flagECE|flagCWR) == flagECE; {
	case f.mark.state == retrying && !agrees:
		f.mark.state = unmarked
		x.deaf.add(h.source(), now)
	case f.mark.state == asking || f.mark.state == retrying:
		f.mark.state = unmarked
		if agrees {
			f.mark.state = agreed
		}
		x.deaf.remove(h.source())
	}
}

// greeted is for a SYN of the peer that opens a flow.
func (m *marks) greeted(h *tcpHeaders) {
	if h.flags()&(flagECE|flagCWR) == flagECE|flagCWR {
		m.state = asked
	}
}

// send is for a packet of the stack behind its SYN. New data may be marked on its
// way, what is repeated may not (section 6.1.5).
func (m *marks) send(h *tcpHeaders) {
	switch {
	case m.state == asked && h.flags()&flagSYN != 0:
		m.state = agreed
		fallthrough
	case m.state == agreed && h.flags()&flagSYN != 0: // again
		h.setFlags(flagECE)
		m.next = h.end()
		return
	case m.state != agreed:
		return
	}
	if h.size > 0 && !after(m.next, h.seq()) {
		if !m.plain {
			h.setMark(markable)
		}
		if m.reduced {
			m.reduced = false
			h.setFlags(flagCWR)
		}
	}
	if m.echo {
		h.setFlags(flagECE)
	}
	if end := h.end(); after(end, m.next) {
		m.next = end
	}
}

// receive is for a packet of the peer behind its SYN. segment is the payload of a
// full packet in bytes. What the packet says of congestion the stack is not told.
func (m *marks) receive(h *tcpHeaders, segment uint32) {
	if m.state != agreed {
		return
	}
	if h.size > 0 {
		m.echo = m.echo && h.flags()&flagCWR == 0 || h.mark() == markCongested
	}
	if number := h.number(); !after(number, m.next) {
		m.acknowledge(number, h.flags()&flagECE != 0, segment)
	}
	if m.window > 0 {
		h.limitWindow((m.window + 1<<m.scale - 1) >> m.scale)
	}
}

// acknowledge is for an acknowledgement, which reports a mark or does not.
//
// The window becomes half of what was on its way before it came, all of which it
// may acknowledge. How much that was is known from the second report, which comes
// soon, since the peer repeats it until it is told of the cut. It is told behind
// cut, so that what acknowledges no more than that repeats a report of before.
func (m *marks) acknowledge(number uint32, report bool, segment uint32) {
	if !m.told {
		if report {
			m.told, m.una = true, number
		}
		return
	}
	flight := m.next - m.una
	if after(number, m.una) {
		m.told = report || m.window > 0
		if m.window > 0 {
			m.grow(number-m.una, segment)
		}
		m.una = number
	}
	if report && flight > 0 && (m.window == 0 || after(number, m.cut)) {
		m.window = min(max(flight/2, minWindow*segment), tcpSendMax)
		m.told, m.cut, m.reduced = true, m.next, true
	}
}

// grow widens the window by a segment for each window that was acknowledged, as
// the stack does after a loss (RFC 5681 section 3.1), until it bounds nothing.
func (m *marks) grow(acknowledged, segment uint32) {
	m.window += max(uint32(uint64(segment)*uint64(min(acknowledged, m.window))/uint64(m.window)), 1)
	if m.window >= tcpSendMax {
		m.window, m.told = 0, false
	}
}

// deafness remembers hosts that do not answer a SYN that asks for marks, but one
// that does not. A SYN may be lost by chance as well.
type deafness map[[16]byte]unanswered

type unanswered struct {
	times int // in a row
	last  time.Time
}

const (
	deafAfter = 2 // times
	deafFor   = time.Hour
	maxDeaf   = 1024
)

func (d deafness) has(host [16]byte, now time.Time) bool {
	s := d[host]
	return s.times >= deafAfter && now.Sub(s.last) < deafFor
}

func (d *deafness) add(host [16]byte, now time.Time) {
	if len(*d) >= maxDeaf || *d == nil {
		*d = make(deafness)
	}
	(*d)[host] = unanswered{(*d)[host].times + 1, now}
}

func (d deafness) remove(host [16]byte) { delete(d, host) }

// The headers of a packet, as far as this file is about them. Checksums of what
// leaves are kept right (RFC 1624); of what comes they have been verified.

func (h *tcpHeaders) source() (host [16]byte) {
	a := packetAddresses(h.ip)
	copy(host[:], a[:len(a)/2])
	return host
}

func (h *tcpHeaders) destination() (host [16]byte) {
	a := packetAddresses(h.ip)
	copy(host[:], a[len(a)/2:])
	return host
}

// setFlags adds flags.
func (h *tcpHeaders) setFlags(flags uint8) {
	changed(h.tcp[12:14], h.tcp[16:18], func() { h.tcp[13] |= flags })
}

// mark returns the two bits.
func (h *tcpHeaders) mark() uint8 {
	if isIPv6(h.ip) {
		return h.ip[1] >> 4 & markBits
	}
	return h.ip[1] & markBits
}

// setMark adds to the two bits, which the stack leaves 0.
func (h *tcpHeaders) setMark(mark uint8) {
	if isIPv6(h.ip) {
		h.ip[1] |= mark << 4
		return
	}
	changed(h.ip[0:2], h.ip[10:12], func() { h.ip[1] |= mark })
}

// limitWindow makes the window at most so much, before scaling.
func (h *tcpHeaders) limitWindow(limit uint32) {
	if w := h.tcp[14:16]; uint32(binary.BigEndian.Uint16(w)) > limit {
		binary.BigEndian.PutUint16(w, uint16(limit))
	}
}

// changed has a word changed that a checksum is over.
func changed(word, sum []byte, change func()) {
	was := binary.BigEndian.Uint16(word)
	change()
	c := onesSum(0).word(^binary.BigEndian.Uint16(sum)).word(^was).word(binary.BigEndian.Uint16(word))
	binary.BigEndian.PutUint16(sum, ^c.fold())
}
