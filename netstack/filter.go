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
)

// verdict is what the filter says of one packet.
type verdict struct {
	way      way
	fragment bool  // one of several fragments
	from, to *peer // to is set for toPeer
}

// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Header sizes in bytes.
const (
	ipv4Header = 20 // RFC 791 section 3.1, without options
	ipv6Header = 40 // RFC 8200 section 3
	tcpHeader  = 20 // RFC 9293 section 3.1, without options
	udpHeader  = 8  // RFC 768
)

// classify decides about a packet that WireGuard has decrypted, by what it says
// of itself. Whether its source address belongs to whoever sent it is for the
// caller to check, by from. It takes any bytes and does not allocate.
//
// What is refused rather than dropped goes toExit, since the forwarders there
// answer with a reset or an ICMP error, the same for a host that exists and
// one that does not.
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
	if v.fragment && !plausibleFragment(h, len(payload)) {
		return verdict{}
	}
	if h.dst == t.server4 {
		if h.proto == protoTCP || h.proto == protoUDP || h.proto == protoICMP {
			v.way = toServer
		}
		return v
	}
	if to := t.lookup4(h.dst); to != nil && !v.from.Isolated && !to.Isolated {
		if to == v.from || h.offset == 0 && opensServerPort(v.from, to, h.proto, payload) {
			return verdict{}
		}
		v.way, v.to = toPeer, to
		return v
	}
	switch h.proto {
	case protoTCP, protoUDP:
		v.way = toExit
	case protoICMP:
		// Echo, and errors about a flow through the exit (a smaller MTU on the
		// peer's side), which the stack never answers. Of a fragment only the
		// stack, which puts it together, can tell the type.
		if v.fragment || len(payload) > 0 && (payload[0] == icmpEcho || payload[0] == icmpUnreachable) {
			v.way = toExit
		}
	}
	return v
}

// classify6 lets IPv6 pass between peers that hold such addresses. This server
// has none, and the exit does not carry it.
func (t *table) classify6(p []byte) (v verdict) {
	if len(p) < ipv6Header || ipv6Header+int(binary.BigEndian.Uint16(p[4:])) > len(p) || len(t.nets6) == 0 {
		return verdict{}
	}
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	if !unicast6(src) || !unicast6(dst) {
		return verdict{}
	}
	v.from, v.to = t.lookup6(src), t.lookup6(dst)
	if v.from == nil || v.to == nil || v.from == v.to || v.from.Isolated || v.to.Isolated {
		return verdict{}
	}
	payload := p[ipv6Header : ipv6Header+int(binary.BigEndian.Uint16(p[4:]))]
	switch proto := p[6]; {
	case proto == protoTCP || proto == protoUDP:
		if opensServerPort(v.from, v.to, proto, payload) {
			return verdict{}
		}
	case proto == protoICMPv6:
	default: // extension headers: routing (RFC 5095), fragments, anything that hides ports
		return verdict{}
	}
	v.way = toPeer
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
// largest datagram, of odd size before the last one, and such as split or
// overwrite a transport header (RFC 1858, RFC 3128).
func plausibleFragment(h ipv4, size int) bool {
	if size == 0 || h.offset+size > 65535-h.length || h.more && size%8 != 0 {
		return false
	}
	header := udpHeader
	if h.proto == protoTCP {
		header = tcpHeader
	}
	if h.offset == 0 {
		return size >= header
	}
	return h.offset >= header
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
