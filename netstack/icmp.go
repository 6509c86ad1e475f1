package netstack

import "encoding/binary"

// ICMP types and codes (RFC 792). This server sends them as a router does.
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11

	// Codes of icmpUnreachable.
	codeNet                 = 0
	codeHost                = 1
	codePort                = 3
	codeFragmentationNeeded = 4
	codeProhibited          = 13 // RFC 1812 section 5.2.7.1

	codeTTL = 0 // of icmpTimeExceeded
)

// Type of service and TTL of ICMP errors.
const (
	icmpTOS = 0xc0 // internetwork control (RFC 1812 section 4.3.2.5)
	icmpTTL = 64
)

// icmpQuote is how much of the offending packet an error quotes: as much as
// fits in 576 bytes (RFC 1812 section 4.3.2.3).
const icmpQuote = 576 - ipv4Header - icmpHeader

// icmpHeader is the size of an ICMP message before its data: type, code,
// checksum and, in an echo, identifier and sequence number.
const icmpHeader = 8

// mayAnswer reports whether an ICMP error about p may be sent: not about a
// later fragment and not about another error (RFC 1122 section 3.2.2). p has
// passed the filter.
func mayAnswer(p []byte) bool {
	h, ok := parseIPv4(p)
	if !ok || h.offset != 0 {
		return false
	}
	if h.proto != protoICMP {
		return true
	}
	return h.total > h.length && (p[h.length] == icmpEchoReply || p[h.length] == icmpEcho)
}

// appendICMPError writes an ICMP error from server about p, an IPv4 packet,
// to its sender. mtu is for codeFragmentationNeeded, otherwise 0.
func appendICMPError(b []byte, server uint32, typ, code uint8, mtu int, p []byte) []byte {
	quote := min(len(p), icmpQuote)
	b = appendIPv4(b, icmpTOS, icmpTTL, protoICMP, server, binary.BigEndian.Uint32(p[12:]), icmpHeader+quote)
	return appendErrorMessage(b, typ, code, mtu, p)
}

// appendErrorMessage writes the same without the IP header.
func appendErrorMessage(b []byte, typ, code uint8, mtu int, p []byte) []byte {
	start := len(b)
	b = append(b, typ, code, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(mtu)) // RFC 1191 section 4
	b = append(b, p[:min(len(p), icmpQuote)]...)
	binary.BigEndian.PutUint16(b[start+2:], checksum(b[start:]))
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

// decrementTTL lowers the TTL of an IPv4 packet by one and keeps its checksum
// right (RFC 1624): the word that holds the TTL falls by 0x100.
func decrementTTL(p []byte) {
	p[8]--
	sum := uint32(binary.BigEndian.Uint16(p[10:])) + 0x100
	binary.BigEndian.PutUint16(p[10:], uint16(sum+sum>>16))
}
