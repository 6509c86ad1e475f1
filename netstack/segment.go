package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TCP flags (RFC 9293 section 3.1, RFC 3168 section 6.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
	flagECE
	flagCWR
)

const (
	maxIPPacket   = 65535   // bytes: all that an IPv4 header can say; kept for IPv6 too
	maxTCPHeaders = 60 + 60 // bytes: the longest headers of IPv4 and TCP
)

// segmenter cuts one packet of the stack into packets of its maximum segment
// size. For a link that segments, the stack puts up to 64 KiB of TCP payload
// behind one header, whose checksum covers the pseudo header only. Any other
// packet is one segment and is copied as it is.
//
//	if s.reset(pkt) {
//		for size, ok := s.more(); ok; size, ok = s.more() {
//			s.write(buf[:size])
//		}
//	}
//
// It allocates nothing and may be used again. It holds no reference: the
// packet has to outlive the last write.
type segmenter struct {
	view *buffer.View // holds the next byte of the packet
	skip int          // bytes of view that are done
	left int          // bytes of the packet that are not
	mss  int          // bytes of payload per segment
	done bool

	// The headers of a packet to cut. Otherwise size is 0, and headers are
	// payload like the rest. The sums are of what all segments share: reading
	// fields just written, to sum them, would stall the processor.
	headers [maxTCPHeaders]byte
	ip      int     // bytes of the IP header
	size    int     // bytes of both
	ipSum   onesSum // of the IPv4 header without total length, identification, checksum
	tcpSum  onesSum // of pseudo and TCP header without length, sequence number, flags, checksum
	id      uint16  // of the next segment, like the following
	seq     uint32
	flags   uint8
}

// reset starts over with pkt. It reports false for a packet that cannot be
// cut, and then there are no segments.
func (s *segmenter) reset(pkt *stack.PacketBuffer) bool {
	views, offset := pkt.AsViewList()
	s.view, s.skip, s.left = views.Front(), offset, pkt.Size()
	s.mss, s.size, s.done = s.left, 0, s.left <= 0
	s.settle()
	switch pkt.GSOOptions.Type {
	case stack.GSOTCPv4:
		s.done = !s.begin(4, int(pkt.GSOOptions.MSS))
	case stack.GSOTCPv6:
		s.done = !s.begin(6, int(pkt.GSOOptions.MSS))
	}
	return !s.done
}

// begin takes the headers of a TCP packet, and reports whether they are such
// as can be repeated before each segment.
func (s *segmenter) begin(version, mss int) bool {
	h := s.headers[:s.peek(s.headers[:])]
	if len(h) < ipv4Header || int(h[0]>>4) != version {
		return false
	}
	s.ip = ipv6Header
	proto := h[6]
	if version == 4 {
		s.ip, proto = int(h[0]&15)*4, h[9]
		if fragment := binary.BigEndian.Uint16(h[6:])&0x3fff != 0; s.ip < ipv4Header || fragment {
			return false
		}
	}
	if proto != protoTCP || len(h) < s.ip+tcpHeader {
		return false
	}
	t := h[s.ip:]
	s.size = s.ip + int(t[12]>>4)*4
	if s.size < s.ip+tcpHeader || s.size > len(h) {
		return false
	}
	s.seq, s.flags, s.mss = binary.BigEndian.Uint32(t[4:]), t[13], mss
	switch payload := s.left - s.size; {
	case payload <= mss:
		s.mss = payload
	case mss == 0 || s.flags&(flagSYN|flagRST|flagURG) != 0: // those belong to one byte
		return false
	}
	if s.size+s.mss > maxIPPacket {
		return false
	}
	t = t[:s.size-s.ip]
	clear(t[4:8])
	t[13] = 0
	clear(t[16:18])
	addresses := h[8:40]
	if version == 4 {
		s.id = binary.BigEndian.Uint16(h[4:])
		clear(h[2:6])
		clear(h[10:12])
		s.ipSum = onesSum(0).add(h[:s.ip])
		addresses = h[12:20]
	}
	s.tcpSum = onesSum(0).add(addresses).add(t).word(protoTCP)
	s.take(nil, s.size)
	return true
}

// more returns the size of the next segment in bytes, headers included, and
// whether there is one.
func (s *segmenter) more() (size int, ok bool) {
	if s.done {
		return 0, false
	}
	return s.size + min(s.left, s.mss), true
}

// write writes the next segment to the start of dst and returns its size. It
// does nothing and returns 0 if there is none, or dst is too short for it.
func (s *segmenter) write(dst []byte) int {
	size, ok := s.more()
	if !ok || len(dst) < size {
		return 0
	}
	dst = dst[:size]
	s.take(dst[s.size:], size-s.size)
	s.done = s.left <= 0
	if s.size > 0 {
		sum := s.tcpSum.add(dst[s.size:])
		copy(dst, s.headers[:s.size])
		s.address(dst)
		s.transport(dst[s.ip:], sum)
	}
	return size
}

// address completes the IP header of the segment p.
func (s *segmenter) address(p []byte) {
	if p[0]>>4 == 6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6Header))
		return
	}
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[4:], s.id)
	binary.BigEndian.PutUint16(p[10:], ^s.ipSum.word(uint16(len(p))).word(s.id).fold())
	s.id++
}

// transport completes the TCP header of t, a segment without its IP header.
// sum is tcpSum and the payload.
func (s *segmenter) transport(t []byte, sum onesSum) {
	flags := s.flags
	if !s.done {
		flags &^= flagFIN | flagPSH
	}
	binary.BigEndian.PutUint32(t[4:], s.seq)
	t[13] = flags
	sum = sum.word(uint16(s.seq >> 16)).word(uint16(s.seq)).word(uint16(flags)).word(uint16(len(t)))
	binary.BigEndian.PutUint16(t[16:], ^sum.fold())
	s.seq += uint32(s.mss)
	s.flags &^= flagCWR // answers a mark once (RFC 3168 section 6.1.2)
}

// take moves the next n bytes of the packet to dst, or skips them if it is nil.
func (s *segmenter) take(dst []byte, n int) {
	for n > 0 && s.view != nil {
		b := s.view.AsSlice()[s.skip:]
		b = b[:min(len(b), n)]
		dst = dst[copy(dst, b):]
		n -= len(b)
		s.left -= len(b)
		s.skip += len(b)
		s.settle()
	}
	if s.view == nil {
		s.left = 0 // so that more ends, whatever the packet says of its size
	}
}

// peek copies the next bytes of the packet to dst and returns how many.
func (s *segmenter) peek(dst []byte) (n int) {
	skip := s.skip
	for v := s.view; v != nil && n < len(dst); v = v.Next() {
		n += copy(dst[n:], v.AsSlice()[skip:])
		skip = 0
	}
	return n
}

// settle moves on to the view that holds the next byte, past empty ones.
func (s *segmenter) settle() {
	for s.view != nil && s.skip >= s.view.Size() {
		s.skip -= s.view.Size()
		s.view = s.view.Next()
	}
}
