package netstack

import (
	"encoding/binary"
	"net/netip"
)

// packet builds an IPv4 packet with a right header checksum.
func packet(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4Header+len(payload)))
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

// tcpSYN is a packet that opens a connection to port.
func tcpSYN(src, dst netip.Addr, port uint16) []byte {
	segment := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(segment, 40000)
	binary.BigEndian.PutUint16(segment[2:], port)
	segment[12], segment[13] = 5<<4, 0x02
	return packet(src, dst, protoTCP, segment)
}

// udpDatagram is a packet to port with size bytes of payload.
func udpDatagram(src, dst netip.Addr, port uint16, size int) []byte {
	d := make([]byte, udpHeader+size)
	binary.BigEndian.PutUint16(d, 40000)
	binary.BigEndian.PutUint16(d[2:], port)
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	return packet(src, dst, protoUDP, d)
}

// fragmentOf cuts bytes [from, to) of p's payload out as a fragment.
func fragmentOf(p []byte, id uint16, from, to int) []byte {
	f := append([]byte(nil), p[:ipv4Header]...)
	f = append(f, p[ipv4Header+from:ipv4Header+to]...)
	binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
	binary.BigEndian.PutUint16(f[4:], id)
	flags := uint16(from / 8)
	if ipv4Header+to < len(p) {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(f[6:], flags)
	binary.BigEndian.PutUint16(f[10:], 0)
	binary.BigEndian.PutUint16(f[10:], checksum(f[:ipv4Header]))
	return f
}

// message6 builds an IPv6 packet.
func message6(src, dst string, proto uint8, payload []byte) []byte {
	p := appendIPv6(nil, 0, 64, proto, netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16(), len(payload))
	return append(p, payload...)
}

// fragmentOf6 cuts bytes [from, to) of an IPv6 packet's payload out as a fragment.
func fragmentOf6(p []byte, id uint32, from, to int) []byte {
	f := append([]byte(nil), p[:ipv6Header]...)
	position := uint16(from)
	if ipv6Header+to < len(p) {
		position |= 1
	}
	f = append(f, p[6], 0)
	f = binary.BigEndian.AppendUint16(f, position)
	f = binary.BigEndian.AppendUint32(f, id)
	f = append(f, p[ipv6Header+from:ipv6Header+to]...)
	f[6] = extFragment
	binary.BigEndian.PutUint16(f[4:], uint16(len(f)-ipv6Header))
	return f
}
