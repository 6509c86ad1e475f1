package netstack

import "encoding/binary"

// ICMP types and codes that the hub sends as a router (RFC 792).
const (
	icmpUnreachable  = 3
	icmpTimeExceeded = 11

	codeFragmentationNeeded = 4 // of icmpUnreachable
	codeTTL                 = 0 // of icmpTimeExceeded
)

// icmpQuote is how much of the offending packet an error quotes: as much as
// fits in 576 bytes (RFC 1812 section 4.3.2.3).
const icmpQuote = 576 - ipv4Header - icmpHeader

const icmpHeader = 8 // RFC 792

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
	return h.total > h.length && (p[h.length] == 0 || p[h.length] == 8) // echo reply, echo
}

// appendICMPError writes an ICMP error from server about p, an IPv4 packet,
// to its sender. mtu is for codeFragmentationNeeded, otherwise 0.
func appendICMPError(b []byte, server uint32, typ, code uint8, mtu int, p []byte) []byte {
	quote := p[:min(len(p), icmpQuote)]
	total := ipv4Header + icmpHeader + len(quote)

	start := len(b)
	b = append(b, 0x45, 0xc0) // internetwork control (RFC 1812 section 4.3.2.5)
	b = binary.BigEndian.AppendUint16(b, uint16(total))
	b = append(b, 0, 0, 0, 0, 64, protoICMP, 0, 0)
	b = binary.BigEndian.AppendUint32(b, server)
	b = append(b, p[12:16]...)
	binary.BigEndian.PutUint16(b[start+10:], checksum(b[start:start+ipv4Header]))

	body := len(b)
	b = append(b, typ, code, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(mtu)) // RFC 1191 section 4
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[body+2:], checksum(b[body:]))
	return b
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
