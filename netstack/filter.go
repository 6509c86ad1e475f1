package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// way is where a packet from a peer goes.
type way uint8

const (
	drop     way = iota
	toServer     // into the stack, for this server's own address
	toPeer       // back out through WireGuard to another peer
	toExit       // into the stack, whose forwarders dial, or refuse
	toEcho       // to the exit, past the stack, which would answer it: ICMPv6 echo
	toFlow       // to the exit, past the stack, which costs more: a whole UDP datagram
)

// verdict is what the filter says of one packet.
type verdict struct {
	way      way
	fragment bool  // one of several fragments
	header   int   // bytes before the transport header, for toFlow
	from, to *peer // to is set for toPeer
}

// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	extFragment = 44 // an extension header of IPv6, in the place of a protocol
)

// Header sizes in bytes.
const (
	ipv4Header = 20 // RFC 791 section 3.1, without options
	ipv6Header = 40 // RFC 8200 section 3
	fragHeader = 8  // RFC 8200 section 4.5
	tcpHeader  = 20 // RFC 9293 section 3.1, without options
	udpHeader  = 8  // RFC 768
)

// classify decides about a packet that WireGuard has decrypted, by what it says
// of itself. Whether its source address belongs to whoever sent it is for the
// caller to check, by from. It takes any bytes and does not allocate.
//
// What is refused rather than dropped goes to the exit, which answers with a
// reset or an ICMP error, the same for a host that exists and one that does not.
func (t *table) classify(p []byte) verdict {
	if len(p) == 0 {
		return verdict{}
	}
	switch p[0] >> 4 {
	case 4:
		return t.classify4(p)
	case 6:
		return t.classify6(p)
	}
	return verdict{}
}

func (t *table) classify4(p []byte) (v verdict) {
	h, ok := parseIPv4(p)
	if !ok || h.options && sourceRouted(p[ipv4Header:h.length]) {
		return verdict{}
	}
	if v.from = t.lookup4(h.src); v.from == nil || !unicast4(h.src) || h.src == t.server4 {
		return verdict{}
	}
	if !unicast4(h.dst) || h.dst != t.server4 && (h.dst == t.bcast4 || h.dst == t.lowest4) {
		return verdict{}
	}
	payload := p[h.length:h.total]
	v.fragment = h.more || h.offset != 0
	if v.fragment && !plausibleFragment(h.offset, len(payload), h.more, h.proto, maxIPPacket-h.length) {
		return verdict{}
	}
	if h.dst == t.server4 {
		if h.proto == protoTCP || h.proto == protoUDP || h.proto == protoICMP && t.mayTell4(v.from, h.offset, payload) {
			v.way = toServer
		}
		return v
	}
	if to := t.lookup4(h.dst); reaches(v.from, to) {
		return v.relayed(to, h.proto, h.offset, payload)
	}
	switch h.proto {
	case protoTCP:
		v.way = toExit
	case protoUDP:
		if v.way = toFlow; v.fragment {
			v.way = toExit
		}
		v.header = h.length
	case protoICMP:
		// Echo, and errors about a flow through the exit (a smaller MTU on the
		// peer's side), which the stack never answers.
		if t.mayTell4(v.from, h.offset, payload) {
			v.way = toExit
		}
	}
	return v
}

// classify6 does the same for IPv6. Where this server has no IPv6 address, only
// peers that hold such addresses reach each other.
func (t *table) classify6(p []byte) (v verdict) {
	h, ok := parseIPv6(p)
	if !ok || !unicast6(netip.AddrFrom16(h.src)) || !unicast6(netip.AddrFrom16(h.dst)) {
		return verdict{}
	}
	if v.from = t.lookup6(h.src); v.from == nil || h.src == t.server6 {
		return verdict{}
	}
	payload := p[h.length:h.total]
	if v.fragment = h.fragment; v.fragment && !plausibleFragment(h.offset, len(payload), h.more, h.proto, maxIPPacket) {
		return verdict{}
	}
	if h.proto != protoTCP && h.proto != protoUDP && h.proto != protoICMPv6 {
		// Other extension headers: routing (RFC 5095), anything that hides ports.
		return verdict{}
	}
	if h.dst == t.server6 {
		// Neighbours and routers are not told of here: there is no link.
		if h.proto != protoICMPv6 || t.mayTell6(v.from, h.offset, payload) {
			v.way = toServer
		}
		return v
	}
	if to := t.lookup6(h.dst); reaches(v.from, to) {
		return v.relayed(to, h.proto, h.offset, payload)
	}
	switch {
	case !t.self.addr6.IsValid():
	case h.proto == protoUDP && !v.fragment:
		v.way, v.header = toFlow, h.length
	case h.proto != protoICMPv6:
		v.way = toExit
	case !t.mayTell6(v.from, h.offset, payload):
	case h.offset != 0 || payload[0] == icmp6Echo: // which the stack would answer itself
		v.way = toEcho
	default:
		v.way = toExit
	}
	return v
}

// mayTell4 reports whether a peer may send this server or the exit an ICMP
// message. Echo it may, of which the stack puts fragments together. An error is
// about a packet that was sent to it: one about packets to somebody else could
// only slow down or end what is not its own, and the stack, which answers for
// every address, believes any. One that asks for packets smaller than every host
// must take would have the stack send them byte by byte.
func (t *table) mayTell4(from *peer, offset int, m []byte) bool {
	if offset != 0 {
		return true // what follows an echo; errors fit into one packet
	}
	if len(m) < icmpHeader {
		return false
	}
	switch m[0] {
	case icmpEcho:
		return true
	case icmpUnreachable, icmpTimeExceeded, icmpParameterProblem:
		if about := m[icmpHeader:]; len(about) >= ipv4Header && t.lookup4(binary.BigEndian.Uint32(about[16:])) == from {
			return m[0] != icmpUnreachable || m[1] != codeFragmentationNeeded || binary.BigEndian.Uint16(m[6:]) >= minMTU
		}
	}
	return false
}

// mayTell6 does the same for IPv6.
func (t *table) mayTell6(from *peer, offset int, m []byte) bool {
	if offset != 0 {
		return true
	}
	if len(m) < icmpHeader {
		return false
	}
	switch m[0] {
	case icmp6Echo:
		return true
	case icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6ParameterProblem:
		if about := m[icmpHeader:]; len(about) >= ipv6Header && t.lookup6([16]byte(about[24:])) == from {
			return m[0] != icmp6TooBig || binary.BigEndian.Uint32(m[4:]) >= minMTU6
		}
	}
	return false
}

// reaches reports whether packets go from one peer to another, which may be nil.
func reaches(from, to *peer) bool { return to != nil && !from.Isolated && !to.Isolated }

// relayed is the verdict about a packet for another peer. payload starts with
// the transport header if offset is 0.
func (v verdict) relayed(to *peer, proto uint8, offset int, payload []byte) verdict {
	if to == v.from || offset == 0 && opensServerPort(v.from, to, proto, payload) {
		return verdict{}
	}
	v.way, v.to = toPeer, to
	return v
}

// ipv4 is what the filter reads of an IPv4 header. Addresses are numbers,
// sizes are bytes.
type ipv4 struct {
	src, dst      uint32
	length, total int // of the header, of the packet
	offset        int // of a fragment
	proto         uint8
	more          bool // more fragments follow
	options       bool
}

func parseIPv4(p []byte) (h ipv4, ok bool) {
	if len(p) < ipv4Header {
		return h, false
	}
	h.length = int(p[0]&15) * 4
	h.total = int(binary.BigEndian.Uint16(p[2:]))
	if h.length < ipv4Header || h.total < h.length || h.total > len(p) {
		return h, false
	}
	flags := binary.BigEndian.Uint16(p[6:])
	h.more = flags&0x2000 != 0
	h.offset = int(flags&0x1fff) * 8
	h.proto = p[9]
	h.src = binary.BigEndian.Uint32(p[12:])
	h.dst = binary.BigEndian.Uint32(p[16:])
	h.options = h.length > ipv4Header
	return h, true
}

// ipv6 is the same of an IPv6 packet. Of extension headers it knows the one of
// fragments, if that is the first.
type ipv6 struct {
	src, dst      [16]byte
	length, total int // of the headers, of the packet
	offset        int // of a fragment
	id            uint32
	proto         uint8 // or the number of an extension header
	more          bool  // more fragments follow
	fragment      bool  // there is a fragment header
}

func parseIPv6(p []byte) (h ipv6, ok bool) {
	if len(p) < ipv6Header {
		return h, false
	}
	h.length, h.total, h.proto = ipv6Header, ipv6Header+int(binary.BigEndian.Uint16(p[4:])), p[6]
	h.src, h.dst = [16]byte(p[8:]), [16]byte(p[24:])
	if h.total > len(p) {
		return h, false
	}
	if h.proto == extFragment {
		if h.length += fragHeader; h.total < h.length {
			return h, false
		}
		f := p[ipv6Header:]
		position := binary.BigEndian.Uint16(f[2:])
		h.fragment, h.proto = true, f[0]
		h.offset, h.more = int(position&^7), position&1 != 0
		h.id = binary.BigEndian.Uint32(f[4:])
	}
	return h, true
}

// unicast4 reports whether an address may be a source or a destination here:
// not in 0/8, 127/8, 224/4 or 240/4, which holds the broadcast address.
func unicast4(addr uint32) bool {
	top := addr >> 24
	return top != 0 && top != 127 && top < 224
}

func unicast6(addr netip.Addr) bool {
	return !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast() && !addr.Is4In6() && !addr.IsLinkLocalUnicast()
}

// sourceRouted reports whether IPv4 options ask for a route of the sender's
// choice (LSRR, SSRR: RFC 791 section 3.1), or cannot be read.
func sourceRouted(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case 0: // end of list
			return false
		case 1: // no operation
			options = options[1:]
			continue
		case 131, 137:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

// plausibleFragment refuses fragments that no honest sender makes: beyond the
// largest datagram, whose payload is limit bytes, of odd size before the last
// one, and such as split or overwrite a transport header (RFC 1858, RFC 3128).
func plausibleFragment(offset, size int, more bool, proto uint8, limit int) bool {
	if size == 0 || offset+size > limit || more && size%8 != 0 {
		return false
	}
	header := udpHeader
	if proto == protoTCP {
		header = tcpHeader
	}
	if offset == 0 {
		return size >= header
	}
	return offset >= header
}

// opensServerPort reports whether a packet opens a port of to that only this
// server may open, and from is not exempt. payload starts with the transport
// header. Answers of TCP pass, so that a port number that the gateway uses for
// a connection of its own does no harm.
func opensServerPort(from, to *peer, proto uint8, payload []byte) bool {
	if len(to.ports) == 0 || from.Trusted {
		return false
	}
	switch proto {
	case protoTCP:
		const syn, ack = 0x02, 0x10
		if len(payload) < tcpHeader {
			return true
		}
		if payload[13]&(syn|ack) != syn {
			return false
		}
	case protoUDP:
		if len(payload) < udpHeader {
			return true
		}
	default:
		return false
	}
	_, found := slices.BinarySearch(to.ports, binary.BigEndian.Uint16(payload[2:]))
	return found
}
