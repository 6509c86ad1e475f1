package netstack

import (
	"encoding/binary"
	"net/netip"
)

// This file reads and writes what packets of flows have in common: addresses,
// ports, and UDP headers.

// flowKey is a flow of TCP or UDP: both addresses, of IPv4 with zeros behind
// them, and both ports.
type flowKey [2*16 + 4]byte

// keyOf reads the key out of the addresses and ports of a packet.
func keyOf(addresses, ports []byte) (k flowKey) {
	copy(k[:32], addresses)
	copy(k[32:], ports[:4])
	return k
}

// reverseKey is the key of the flow in the other direction.
func reverseKey(addresses, ports []byte) (k flowKey) {
	half := len(addresses) / 2
	copy(k[copy(k[:], addresses[half:]):32], addresses[:half])
	copy(k[32+copy(k[32:], ports[2:4]):], ports[:2])
	return k
}

// packetAddresses returns source and destination as they stand in a packet.
func packetAddresses(p []byte) []byte {
	if isIPv6(p) {
		return p[8:40]
	}
	return p[12:20]
}

// packetEnds returns addresses and ports of a packet, whose transport header is
// at the offset.
func packetEnds(p []byte, offset int) (src, dst netip.AddrPort) {
	a := packetAddresses(p)
	from, _ := netip.AddrFromSlice(a[:len(a)/2])
	to, _ := netip.AddrFromSlice(a[len(a)/2:])
	ports := p[offset:]
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(ports)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(ports[2:]))
}

// datagramPayload returns what is in a UDP datagram, header first, between the
// addresses. It reports false if the header or the checksum is wrong.
func datagramPayload(addresses, d []byte) ([]byte, bool) {
	if len(d) < udpHeader {
		return nil, false
	}
	size := int(binary.BigEndian.Uint16(d[4:]))
	if size < udpHeader || size > len(d) {
		return nil, false
	}
	d = d[:size]
	if d[6]|d[7] == 0 && len(addresses) == 8 { // only IPv4 allows none (RFC 8200 section 8.1)
		return d[udpHeader:], true
	}
	sum := onesSum(0).add(addresses).add(d).word(protoUDP).word(uint16(size)).fold()
	return d[udpHeader:], sum == 0xffff
}

// appendDatagram writes a datagram with its checksum. sum is of the addresses.
func appendDatagram(b []byte, src, dst netip.AddrPort, sum onesSum, payload []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeader+len(payload)))
	b = append(append(b, 0, 0), payload...)
	check := sum.add(b[start:]).word(uint16(udpHeader + len(payload))).fold()
	if check != 0xffff { // a checksum of 0 would mean none
		check = ^check
	}
	binary.BigEndian.PutUint16(b[start+6:], check)
	return b
}

// pseudoSum is of what the pseudo headers of a flow's packets have in common.
func pseudoSum(src, dst netip.Addr, proto uint16) onesSum {
	a, b := src.As16(), dst.As16()
	if dst.Is4() {
		return onesSum(0).add(a[12:]).add(b[12:]).word(proto)
	}
	return onesSum(0).add(a[:]).add(b[:]).word(proto)
}
