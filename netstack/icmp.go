package netstack

import "encoding/binary"

// ICMP types and codes (RFC 792, RFC 4443). This server sends them as a router
// does.
const (
	icmpEchoReply        = 0
	icmpUnreachable      = 3
	icmpEcho             = 8
	icmpTimeExceeded     = 11
	icmpParameterProblem = 12

	codeFragmentationNeeded = 4 // of icmpUnreachable

	icmp6Unreachable      = 1
	icmp6TooBig           = 2
	icmp6TimeExceeded     = 3
	icmp6ParameterProblem = 4
	icmp6Echo             = 128 // all below are errors
	icmp6EchoReply        = 129
	icmp6Redirect         = 137
)

// icmpError is what an error says, as type and code in each family.
type icmpError struct{ v4, v6 [2]uint8 }

var (
	errorNoRoute    = icmpError{[2]uint8{icmpUnreachable, 0}, [2]uint8{icmp6Unreachable, 0}}
	errorNoHost     = icmpError{[2]uint8{icmpUnreachable, 1}, [2]uint8{icmp6Unreachable, 3}}
	errorNoPort     = icmpError{[2]uint8{icmpUnreachable, 3}, [2]uint8{icmp6Unreachable, 4}}
	errorProhibited = icmpError{[2]uint8{icmpUnreachable, 13}, [2]uint8{icmp6Unreachable, 1}} // RFC 1812 section 5.2.7.1
	errorTooBig     = icmpError{[2]uint8{icmpUnreachable, codeFragmentationNeeded}, [2]uint8{icmp6TooBig, 0}}
	errorHops       = icmpError{[2]uint8{icmpTimeExceeded, 0}, [2]uint8{icmp6TimeExceeded, 0}}
)

// about returns type and code of an error about the packet p.
func (e icmpError) about(p []byte) (typ, code uint8) {
	if isIPv6(p) {
		return e.v6[0], e.v6[1]
	}
	return e.v4[0], e.v4[1]
}

// isIPv6 tells the family of a packet that passed the filter.
func isIPv6(p []byte) bool { return p[0]>>4 == 6 }

// icmpTOS is the type of service of ICMP errors: internetwork control (RFC 1812
// section 4.3.2.5).
const icmpTOS = 0xc0

// defaultTTL is that of packets of this server, as common systems have it.
const defaultTTL = 64

// icmpQuote is how much of the offending packet an error quotes: as much as
// fits in 576 bytes (RFC 1812 section 4.3.2.3), or in 1280 bytes of IPv6
// (RFC 4443 section 2.4).
const (
	icmpQuote  = 576 - ipv4Header - icmpHeader
	icmp6Quote = minMTU6 - ipv6Header - icmpHeader
)

// quoteLimit is the one that holds for an error about the packet p.
func quoteLimit(p []byte) int {
	if isIPv6(p) {
		return icmp6Quote
	}
	return icmpQuote
}

// icmpHeader is the size of an ICMP message before its data: type, code,
// checksum and, in an echo, identifier and sequence number.
const icmpHeader = 8

// mayAnswer reports whether an ICMP error about p may be sent: not about a
// later fragment and not about another error (RFC 1122 section 3.2.2, RFC 4443
// section 2.4). p has passed the filter.
func mayAnswer(p []byte) bool {
	if isIPv6(p) {
		h, ok := parseIPv6(p)
		if !ok || h.offset != 0 {
			return false
		}
		return h.proto != protoICMPv6 || h.total > h.length && p[h.length] >= icmp6Echo && p[h.length] != icmp6Redirect
	}
	h, ok := parseIPv4(p)
	if !ok || h.offset != 0 {
		return false
	}
	if h.proto != protoICMP {
		return true
	}
	return h.total > h.length && (p[h.length] == icmpEchoReply || p[h.length] == icmpEcho)
}

// appendICMPError writes an ICMP error from this server about p to its sender.
// mtu is for errorTooBig, otherwise 0.
func appendICMPError(b []byte, server *table, e icmpError, mtu int, p []byte) []byte {
	typ, code := e.about(p)
	size := icmpHeader + min(len(p), quoteLimit(p))
	if isIPv6(p) {
		b = appendIPv6(b, icmpTOS, defaultTTL, protoICMPv6, server.server6, [16]byte(p[8:]), size)
		start := len(b)
		b = appendErrorMessage(b, typ, code, mtu, p)
		setChecksum6(b[start:], b[start-ipv6Header+8:start])
		return b
	}
	b = appendIPv4(b, icmpTOS, defaultTTL, protoICMP, server.server4, binary.BigEndian.Uint32(p[12:]), size)
	return appendErrorMessage(b, typ, code, mtu, p)
}

// appendErrorMessage writes the same without the IP header. Of IPv6 the checksum
// is left out.
func appendErrorMessage(b []byte, typ, code uint8, mtu int, p []byte) []byte {
	start := len(b)
	b = append(b, typ, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(mtu)) // RFC 1191 section 4, RFC 4443 section 3.2
	b = append(b, p[:min(len(p), quoteLimit(p))]...)
	if !isIPv6(p) {
		binary.BigEndian.PutUint16(b[start+2:], checksum(b[start:]))
	}
	return b
}

// appendIPv4 writes the header of a packet with size bytes of payload.
func appendIPv4(b []byte, tos, ttl, proto uint8, src, dst uint32, size int) []byte {
	start := len(b)
	b = append(b, 0x45, tos)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+size))
	b = append(b, 0, 0, 0, 0, ttl, proto, 0, 0)
	b = binary.BigEndian.AppendUint32(b, src)
	b = binary.BigEndian.AppendUint32(b, dst)
	binary.BigEndian.PutUint16(b[start+10:], checksum(b[start:]))
	return b
}

// appendIPv6 does the same for IPv6.
func appendIPv6(b []byte, class, hops, proto uint8, src, dst [16]byte, size int) []byte {
	b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(class)<<20)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, proto, hops)
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

// setChecksum6 writes the checksum of a whole ICMPv6 message; addresses are those
// of source and destination (RFC 4443 section 2.3).
func setChecksum6(m, addresses []byte) {
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], ^sum6(m, addresses))
}

// sum6 is 0xffff over an ICMPv6 message with the right checksum.
func sum6(m, addresses []byte) uint16 {
	return onesSum(0).add(addresses).add(m).word(protoICMPv6).word(uint16(len(m))).fold()
}

// parseEcho returns the identifier of a whole ICMP echo message. It reports
// false if m is of another type or was damaged.
func parseEcho(m []byte, typ uint8) (id uint16, ok bool) {
	id, ok = parseEchoHeader(m, typ)
	return id, ok && checksum(m) == 0
}

// parseEchoHeader does the same for the beginning of a message.
func parseEchoHeader(m []byte, typ uint8) (id uint16, ok bool) {
	if len(m) < icmpHeader || m[0] != typ || m[1] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint16(m[4:]), true
}

// setEchoID gives an echo message another identifier and keeps its checksum
// right (RFC 1624), also where only the beginning of the message is there.
func setEchoID(m []byte, id uint16) {
	was := binary.BigEndian.Uint16(m[4:])
	sum := uint32(^binary.BigEndian.Uint16(m[2:])) + uint32(^was) + uint32(id)
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(m[4:], id)
}

// checksum is the internet checksum (RFC 1071).
func checksum(b []byte) uint16 { return ^onesSum(0).add(b).fold() }

// setIPv4ID numbers a packet whose number is 0, and keeps its checksum right.
func setIPv4ID(p []byte, id uint16) {
	binary.BigEndian.PutUint16(p[4:], id)
	sum := uint32(^binary.BigEndian.Uint16(p[10:])) + uint32(id)
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
}

// decrementTTL lowers the TTL of an IPv4 packet by one and keeps its checksum
// right (RFC 1624): the word that holds the TTL falls by 0x100.
func decrementTTL(p []byte) {
	p[8]--
	sum := uint32(binary.BigEndian.Uint16(p[10:])) + 0x100
	binary.BigEndian.PutUint16(p[10:], uint16(sum+sum>>16))
}
