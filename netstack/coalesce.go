package netstack

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// openMerges is how many flows of one batch are merged at a time; when
	// more turn up, all are delivered and it starts anew.
	openMerges = 128

	flowSlots = 2 * openMerges // of the hash table; a power of two
)

// coalescer joins consecutive TCP segments of a batch into large packets
// before the stack sees them, since its cost is by the packet and not by the
// byte. It works as receivers of generic offload do: only segments that differ
// in nothing but sequence number, push flag, time stamp, checksums and IPv4
// identification are joined. They need not be of one burst: senders push at the
// end of each, but what the stack has of several at once is delivered at once.
//
// It also verifies the checksums of IPv4, TCP and UDP, which the stack is told
// to trust. It is for one goroutine and keeps nothing of a batch.
type coalescer struct {
	next   []int32 // of each packet of the batch: the packet that follows it in its merge, or 0
	merges [openMerges]merge
	count  int              // of merges in use, in order of their first packet
	slots  [flowSlots]uint8 // by hash of the flow: index of its last merge, plus one

	packets [][]byte // the batch
	streams *streams // of the peer that it is from, nil if nothing is known of them
	segment uint32   // the payload of a full packet of the stack in bytes
	deliver func(*stack.PacketBuffer)
}

// merge is a run of segments that become one packet. It is over once it has
// been delivered, and then its count is 0.
type merge struct {
	head        tcpSegment // the first
	first, last int32      // packets of the batch
	count       int        // segments
	size        int        // bytes of the packet so far
	seq         uint32     // sequence number that continues it
	push        bool
}

// tcpSegment is what the coalescer reads of a packet. Sizes are bytes.
type tcpSegment struct {
	packet   []byte // without padding
	ip, data int    // where the TCP header and its payload start
	flags    uint8
	plain    bool // no fragment, no IP options
}

// run delivers the packets of a batch, IPv4 or IPv6 that passed the filter, in
// an order that keeps the order of each flow. It drops those with a wrong
// checksum and returns how many. The packets are not used after it returns.
//
// deliver takes over the only reference to its packet and has to release it;
// NetworkProtocolNumber and RXChecksumValidated are set.
func (c *coalescer) run(batch [][]byte, deliver func(*stack.PacketBuffer)) (bad int) {
	c.packets, c.deliver = batch, deliver
	if cap(c.next) < len(batch) {
		c.next = make([]int32, len(batch))
	}
	c.next = c.next[:len(batch)]
	for i, p := range batch {
		if !c.accept(int32(i), p) {
			bad++
		}
	}
	c.flush()
	c.packets, c.streams, c.deliver = nil, nil, nil
	return bad
}

// accept takes one packet, and reports false if its checksum is wrong.
func (c *coalescer) accept(i int32, p []byte) bool {
	var s tcpSegment
	proto, state := s.inspect(p)
	switch {
	case state == checksumWrong:
		return false
	case proto != protoTCP:
		c.pass(p, state)
		return true
	}
	slot := c.find(&s)
	if m := c.open(slot); m != nil {
		if m.continues(&s) {
			c.next[m.last], c.next[i] = i, 0
			m.add(i, &s)
			if s.payload() < m.head.payload() {
				c.finish(m)
			}
			return true
		}
		c.finish(m)
	}
	if !s.starts() {
		c.look(&s, s.packet[:s.data], s.payload())
		c.pass(s.packet, state)
		return true
	}
	if c.count == openMerges {
		c.flush()
		slot = c.find(&s)
	}
	c.merges[c.count] = merge{head: s, first: i, last: i, count: 1, size: len(s.packet), seq: s.end(), push: s.flags&flagPSH != 0}
	c.count++
	c.slots[slot] = uint8(c.count)
	c.next[i] = 0
	return true
}

// find returns the slot of a flow, or the empty one where it belongs.
func (c *coalescer) find(s *tcpSegment) uint32 {
	for slot := s.hash() % flowSlots; ; slot = (slot + 1) % flowSlots {
		if n := c.slots[slot]; n == 0 || c.merges[n-1].head.sameFlow(s) {
			return slot
		}
	}
}

// open returns the merge of a slot if it is not over, or nil.
func (c *coalescer) open(slot uint32) *merge {
	if n := c.slots[slot]; n > 0 && c.merges[n-1].count > 0 {
		return &c.merges[n-1]
	}
	return nil
}

// flush delivers what is open, and forgets the flows.
func (c *coalescer) flush() {
	for i := range c.merges[:c.count] {
		m := &c.merges[i]
		if m.count > 0 {
			c.finish(m)
		}
		m.head.packet = nil
	}
	if c.count > 0 {
		c.count = 0
		clear(c.slots[:])
	}
}

// pass delivers a packet as it is.
func (c *coalescer) pass(p []byte, state checksumState) {
	if len(p) == 0 {
		return
	}
	c.hand(buffer.MakeWithData(p), p[0]>>4, state == checksumRight)
}

// finish delivers a merge.
func (c *coalescer) finish(m *merge) {
	count := m.count
	m.count = 0
	if count == 1 {
		c.look(&m.head, m.head.packet[:m.head.data], m.head.payload())
		c.pass(m.head.packet, checksumRight)
		return
	}
	var headers [maxTCPHeaders]byte
	h := headers[:copy(headers[:], m.head.packet[:m.head.data])]
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(m.size))
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], ^onesSum(0).add(h[:ipv4Header]).fold())
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(m.size-ipv6Header))
	}
	if m.push {
		h[m.head.ip+13] |= flagPSH
	}
	c.look(&m.head, h, m.size-len(h))
	payload := buffer.NewView(m.size - len(h))
	_, _ = payload.Write(m.head.packet[m.head.data:]) // a view takes everything
	for i := c.next[m.first]; i != 0; i = c.next[i] {
		p := c.packets[i]
		_, _ = payload.Write(p[m.head.data:ipSize(p)])
	}
	// The headers are apart, since the stack copies the view that they are in.
	packet, rest := buffer.MakeWithData(h), buffer.MakeWithView(payload)
	packet.Merge(&rest)
	c.hand(packet, h[0]>>4, true)
}

// look shows the flows of the peer the headers of a packet, in place.
func (c *coalescer) look(s *tcpSegment, headers []byte, payload int) {
	if c.streams != nil {
		c.streams.incoming(&tcpHeaders{headers[:s.ip], headers[s.ip:s.data], payload}, c.segment)
	}
}

func (c *coalescer) hand(packet buffer.Buffer, version uint8, verified bool) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: packet})
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if version == 6 {
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	pkt.RXChecksumValidated = verified
	c.deliver(pkt)
}

// continues reports whether s follows the segments of m without a gap and
// differs in nothing that the stack would miss. The window has to be the same,
// since an update would be lost.
func (m *merge) continues(s *tcpSegment) bool {
	a, b := m.head.packet, s.packet
	if !s.plain || s.data != m.head.data || s.payload() == 0 || s.payload() > m.head.payload() || m.size+s.payload() > maxIPPacket {
		return false
	}
	t, u := a[m.head.ip:m.head.data], b[s.ip:s.data]
	return s.flags&^flagPSH == flagACK &&
		binary.BigEndian.Uint32(u[4:]) == m.seq &&
		[4]byte(t[8:]) == [4]byte(u[8:]) && // acknowledgement number
		t[12] == u[12] && [2]byte(t[14:]) == [2]byte(u[14:]) && // reserved bits, window
		[2]byte(t[18:]) == [2]byte(u[18:]) && // urgent pointer
		sameOptions(t[tcpHeader:], u[tcpHeader:]) &&
		m.head.sameService(s)
}

// stampLayout is how senders begin the options of a segment that has time stamps
// and nothing else (RFC 7323 appendix A).
var stampLayout = [4]byte{1, 1, 8, 10}

// sameOptions reports whether the options a of a merge tell all that b, of a
// segment behind it, do. Of time stamps they do if those did not go back: what
// is echoed is that of the first segment that an answer acknowledges (RFC 7323
// section 4.3), and the sender's echo means something with a new acknowledgement
// number only.
func sameOptions(a, b []byte) bool {
	if len(a) == len(stampLayout)+8 && len(b) == len(a) && [4]byte(a) == stampLayout && [4]byte(b) == stampLayout {
		return int32(binary.BigEndian.Uint32(b[4:])-binary.BigEndian.Uint32(a[4:])) >= 0
	}
	return bytes.Equal(a, b)
}

// add appends a segment that continues m.
func (m *merge) add(i int32, s *tcpSegment) {
	m.last = i
	m.count++
	m.size += s.payload()
	m.seq = s.end()
	m.push = m.push || s.flags&flagPSH != 0
}

// starts reports whether others may be joined to s.
func (s *tcpSegment) starts() bool {
	return s.plain && s.flags&^flagPSH == flagACK && s.payload() > 0 && len(s.packet) < maxIPPacket
}

// payload is its size in bytes.
func (s *tcpSegment) payload() int { return len(s.packet) - s.data }

// end is the sequence number after s.
func (s *tcpSegment) end() uint32 {
	return binary.BigEndian.Uint32(s.packet[s.ip+4:]) + uint32(s.payload())
}

// hash is over the addresses and ports. A peer that makes flows collide slows
// down its own batches, by at most openMerges comparisons a packet.
func (s *tcpSegment) hash() uint32 {
	p := s.packet
	h := uint64(binary.LittleEndian.Uint32(p[s.ip:]))
	if p[0]>>4 == 4 {
		h ^= bits.RotateLeft64(binary.LittleEndian.Uint64(p[12:]), 32)
	} else {
		h ^= binary.LittleEndian.Uint64(p[16:]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(p[32:]), 32)
	}
	return uint32(h * 0x9e3779b97f4a7c15 >> 32)
}

// sameFlow compares addresses and ports.
func (s *tcpSegment) sameFlow(o *tcpSegment) bool {
	a, b := s.packet, o.packet
	if a[0]>>4 != b[0]>>4 || [4]byte(a[s.ip:]) != [4]byte(b[o.ip:]) {
		return false
	}
	if a[0]>>4 == 4 {
		return [8]byte(a[12:]) == [8]byte(b[12:])
	}
	return [32]byte(a[8:]) == [32]byte(b[8:])
}

// sameService compares what else of the IP header means something to the
// stack, for two plain segments of a flow: DSCP and ECN, time to live, and the
// flag against fragmentation or the flow label.
func (s *tcpSegment) sameService(o *tcpSegment) bool {
	a, b := s.packet, o.packet
	if a[0]>>4 == 4 {
		return a[1] == b[1] && a[6] == b[6] && a[8] == b[8]
	}
	return [4]byte(a[0:]) == [4]byte(b[0:]) && a[7] == b[7]
}

type checksumState uint8

const (
	checksumUnknown checksumState = iota // a fragment, without one, malformed, or neither TCP nor UDP
	checksumRight
	checksumWrong
)

// ipSize is the size of a packet that inspect found sound, without padding.
func ipSize(p []byte) int {
	if p[0]>>4 == 4 {
		return int(binary.BigEndian.Uint16(p[2:]))
	}
	return ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
}

// inspect parses p and verifies its checksums. s is filled in if proto is
// protoTCP, and else of no use.
func (s *tcpSegment) inspect(p []byte) (proto uint8, state checksumState) {
	if len(p) == 0 {
		return 0, checksumUnknown
	}
	var addresses []byte
	switch p[0] >> 4 {
	case 4:
		h, ok := parseIPv4(p)
		if !ok {
			return 0, checksumUnknown
		}
		if onesSum(0).add(p[:h.length]).fold() != 0xffff {
			return 0, checksumWrong
		}
		if h.more || h.offset != 0 {
			return 0, checksumUnknown
		}
		proto, addresses = h.proto, p[12:20]
		s.ip, s.packet, s.plain = h.length, p[:h.total], !h.options
	case 6:
		if len(p) < ipv6Header || ipSize(p) > len(p) {
			return 0, checksumUnknown
		}
		proto, addresses = p[6], p[8:40]
		s.ip, s.packet, s.plain = ipv6Header, p[:ipSize(p)], true
	default:
		return 0, checksumUnknown
	}

	t := s.packet[s.ip:]
	switch proto {
	case protoTCP:
		if len(t) < tcpHeader {
			return 0, checksumUnknown
		}
		s.data, s.flags = s.ip+int(t[12]>>4)*4, t[13]
		if s.data < s.ip+tcpHeader || s.data > len(s.packet) {
			return 0, checksumUnknown
		}
	case protoUDP:
		if len(t) < udpHeader {
			return proto, checksumUnknown
		}
		size := int(binary.BigEndian.Uint16(t[4:]))
		without := p[0]>>4 == 4 && t[6] == 0 && t[7] == 0 // only IPv4 allows it (RFC 8200 section 8.1)
		if size < udpHeader || size > len(t) || without {
			return proto, checksumUnknown
		}
		t = t[:size]
	default: // the stack verifies ICMP itself
		return proto, checksumUnknown
	}
	if onesSum(0).add(addresses).add(t).word(uint16(proto)).word(uint16(len(t))).fold() != 0xffff {
		return proto, checksumWrong
	}
	return proto, checksumRight
}
