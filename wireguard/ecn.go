package wireguard

import "encoding/binary"

// Explicit congestion notification (RFC 3168) passes the tunnel much as RFC 6040
// has it: a message has the mark of its packet, and where a router has marked the
// message, the packet comes out marked. A packet of a sender that does not know of
// it is left as it is, rather than lost: its message was not marked here, so that
// what marked it means something else by these bits.
//
// Many peers do nothing of it (wireguard-go does not), and a mark on the way to one
// of them would be lost, with nobody to slow down. So messages are marked once the
// peer's own are, and are dropped by a full router until then (RFC 6040 section 4.3).

// The values of the two bits.
const (
	notECT              = 0 // the sender does not know of it
	congestion    uint8 = 3 // experienced
	markBits      uint8 = 3
	leastIPHeader       = 20 // bytes
)

// markOf returns the bits of a packet, notECT of what is none.
func markOf(p []byte) uint8 {
	if len(p) < leastIPHeader {
		return notECT
	}
	switch p[0] >> 4 {
	case 4:
		return p[1] & markBits
	case 6:
		return p[1] >> 4 & markBits
	}
	return notECT
}

// marked is for packets whose messages came from p with this mark.
func (p *Peer) marked(mark uint8, packets [][]byte) {
	if mark == congestion {
		for _, packet := range packets {
			congested(packet)
		}
		return
	}
	if !p.marks.Load() {
		p.marks.Store(true)
	}
}

// congested marks a packet whose sender knows what that means, and keeps its
// checksum right (RFC 1624).
func congested(p []byte) {
	if mark := markOf(p); mark == notECT || mark == congestion {
		return
	}
	if p[0]>>4 == 6 {
		p[1] |= congestion << 4
		return
	}
	was := binary.BigEndian.Uint16(p)
	p[1] |= congestion
	sum := uint32(^binary.BigEndian.Uint16(p[10:])) + uint32(^was) + uint32(binary.BigEndian.Uint16(p))
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
}
