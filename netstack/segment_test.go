package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tcpShape is a TCP packet to build.
type tcpShape struct {
	six       bool
	ipOptions int    // bytes, a multiple of 4; IPv4
	options   int    // bytes, a multiple of 4
	stamp     uint32 // of time stamps, which need 12 bytes of options; 0: other options
	payload   []byte
	seq, ack  uint32
	id        uint16
	flags     uint8
	ports     uint32
	window    uint16
}

// build returns the packet with right checksums.
func (s tcpShape) build() []byte {
	var p []byte
	total := tcpHeader + s.options + len(s.payload)
	if s.six {
		p = append(p, 0x60, 0x12, 0x34, 0x56)
		p = binary.BigEndian.AppendUint16(p, uint16(total))
		p = append(p, protoTCP, 61)
		for i := range 32 {
			p = append(p, byte(i*7))
		}
	} else {
		p = append(p, byte(0x45+s.ipOptions/4), 0x28)
		p = binary.BigEndian.AppendUint16(p, uint16(ipv4Header+s.ipOptions+total))
		p = binary.BigEndian.AppendUint16(p, s.id)
		p = append(p, 0x40, 0, 63, protoTCP, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2)
		p = append(p, bytes.Repeat([]byte{1}, s.ipOptions)...) // no operation
	}
	ip := len(p)
	p = binary.BigEndian.AppendUint32(p, s.ports)
	p = binary.BigEndian.AppendUint32(p, s.seq)
	p = binary.BigEndian.AppendUint32(p, s.ack)
	p = append(p, byte((tcpHeader+s.options)/4<<4), s.flags)
	p = binary.BigEndian.AppendUint16(p, s.window)
	p = append(p, 0, 0, 0, 0)
	for i := range s.options {
		p = append(p, byte(i+1))
	}
	if s.stamp != 0 {
		o := p[len(p)-12:]
		copy(o, []byte{1, 1, 8, 10})
		binary.BigEndian.PutUint32(o[4:], s.stamp)
		binary.BigEndian.PutUint32(o[8:], s.stamp/2)
	}
	p = append(p, s.payload...)
	correct(p, ip)
	return p
}

// correct writes the checksums of a TCP packet, the slow and obvious way.
func correct(p []byte, ip int) {
	addresses := p[8:40]
	if p[0]>>4 == 4 {
		addresses = p[12:20]
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^naiveSum(p[:ip]))
	}
	t := p[ip:]
	t[16], t[17] = 0, 0
	pseudo := append(bytes.Clone(addresses), 0, protoTCP, byte(len(t)>>8), byte(len(t)))
	binary.BigEndian.PutUint16(t[16:], ^naiveSum(append(pseudo, t...)))
}

// headersOf returns how long the headers of s are.
func (s tcpShape) headersOf() (ip, both int) {
	ip = ipv4Header + s.ipOptions
	if s.six {
		ip = ipv6Header
	}
	return ip, ip + tcpHeader + s.options
}

// fromStack is the packet of s as the stack hands it over: headers pushed in
// front of a payload that is cut into views, which pick draws the sizes of.
func (s tcpShape) fromStack(mss uint16, pick func(n int) int) *stack.PacketBuffer {
	whole := s.build()
	ip, both := s.headersOf()
	binary.BigEndian.PutUint16(whole[ip+16:], uint16(pick(65536))) // of the pseudo header, or anything
	var payload buffer.Buffer
	for rest := whole[both:]; len(rest) > 0; {
		n := 1 + pick(len(rest))
		_ = payload.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: both + pick(30), Payload: payload})
	copy(pkt.TransportHeader().Push(both-ip), whole[ip:both])
	copy(pkt.NetworkHeader().Push(ip), whole[:ip])
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: mss, L3HdrLen: uint16(ip)}
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if s.six {
		pkt.GSOOptions.Type = stack.GSOTCPv6
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	return pkt
}

// cut is what the segmenter is to do, the slow and obvious way.
func (s tcpShape) cut(mss int) (packets [][]byte) {
	rest := s.payload
	for first := true; first || len(rest) > 0; first = false {
		n := min(mss, len(rest))
		one := s
		one.payload, rest = rest[:n], rest[n:]
		if !first {
			one.flags &^= flagCWR
		}
		if len(rest) > 0 {
			one.flags &^= flagFIN | flagPSH
		}
		packets = append(packets, one.build())
		s.seq += uint32(n)
		s.id++
	}
	return packets
}

// cutByUs runs the segmenter and checks that it stays within its buffer.
func cutByUs(t testing.TB, s *segmenter, pkt *stack.PacketBuffer) (packets [][]byte) {
	t.Helper()
	buf := bytes.Repeat([]byte{0xaa}, pkt.Size()+maxTCPHeaders)
	if !s.reset(pkt) {
		if size, ok := s.more(); ok || size != 0 || s.write(buf) != 0 {
			t.Fatal("a refused packet has segments")
		}
		return nil
	}
	for size, ok := s.more(); ok; size, ok = s.more() {
		if n := s.write(buf[:size-1]); n != 0 {
			t.Fatalf("wrote %d bytes where %d do not fit", n, size)
		}
		if n := s.write(buf); n != size {
			t.Fatalf("wrote %d bytes, announced %d", n, size)
		}
		packets = append(packets, bytes.Clone(buf[:size]))
		if buf[size] != 0xaa {
			t.Fatal("wrote past the segment")
		}
		for i := range size {
			buf[i] = 0xaa
		}
		if len(packets) > maxIPPacket {
			t.Fatal("no end of segments")
		}
	}
	return packets
}

func samePackets(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("packet %d of %d is\n%x, want\n%x", i, len(got), got[i][:min(len(got[i]), 80)], want[i][:min(len(want[i]), 80)])
		}
	}
}

func TestSegmenterAgainstNaive(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var s segmenter
	for range 1000 {
		shape, mss := randomShape(r)
		pkt := shape.fromStack(uint16(mss), viewSizes(r))
		samePackets(t, cutByUs(t, &s, pkt), shape.cut(mss))
		pkt.DecRef()
	}
}

func randomShape(r *rand.Rand) (tcpShape, int) {
	sizes := []int{0, 1, 2, 7, 1000, 20_000, maxIPPacket - 120}
	shape := tcpShape{
		six: r.IntN(2) == 0, options: r.IntN(11) * 4,
		payload: make([]byte, r.IntN(sizes[r.IntN(len(sizes))]+1)),
		seq:     r.Uint32(), ack: r.Uint32(), id: uint16(r.Uint32()), ports: r.Uint32(), window: uint16(r.Uint32()),
		flags: flagACK | uint8(r.Uint32())&^(flagSYN|flagRST|flagURG),
	}
	if !shape.six && r.IntN(4) == 0 {
		shape.ipOptions = r.IntN(11) * 4
	}
	for i := range shape.payload {
		shape.payload[i] = byte(r.Uint32())
	}
	mss := 1 + r.IntN(3000)
	if len(shape.payload) > 5000 {
		mss += 500
	}
	return shape, mss
}

// viewSizes draws sizes of views: a few small, most of them whatever is there.
func viewSizes(r *rand.Rand) func(int) int {
	return func(n int) int {
		if r.IntN(3) == 0 {
			n = min(n, 9)
		}
		return r.IntN(n)
	}
}

func TestSegmenterPlainPacket(t *testing.T) {
	for _, size := range []int{1, 40, 1420, maxIPPacket} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			var b buffer.Buffer
			_ = b.Append(buffer.NewViewWithData(data[:size/3]))
			_ = b.Append(buffer.NewViewWithData(data[size/3:]))
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
			defer pkt.DecRef()
			samePackets(t, cutByUs(t, new(segmenter), pkt), [][]byte{data})
		})
	}
	t.Run("empty", func(t *testing.T) {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
		defer pkt.DecRef()
		samePackets(t, cutByUs(t, new(segmenter), pkt), nil)
	})
}

func TestSegmenterRefuses(t *testing.T) {
	ok := tcpShape{flags: flagACK, payload: make([]byte, 3000)}
	six := ok
	six.six = true
	for name, c := range map[string]struct {
		shape  tcpShape
		mss    uint16
		change func(p *stack.PacketBuffer, ip, tcp []byte)
	}{
		"no MSS":             {ok, 0, nil},
		"SYN":                {with(ok, flagSYN), 1000, nil},
		"reset":              {with(ok, flagRST), 1000, nil},
		"urgent":             {with(ok, flagURG), 1000, nil},
		"version 4 as 6":     {ok, 1000, func(p *stack.PacketBuffer, _, _ []byte) { p.GSOOptions.Type = stack.GSOTCPv6 }},
		"version 6 as 4":     {six, 1000, func(p *stack.PacketBuffer, _, _ []byte) { p.GSOOptions.Type = stack.GSOTCPv4 }},
		"UDP":                {ok, 1000, func(_ *stack.PacketBuffer, ip, _ []byte) { ip[9] = protoUDP }},
		"extension header":   {six, 1000, func(_ *stack.PacketBuffer, ip, _ []byte) { ip[6] = 0 }},
		"first fragment":     {ok, 1000, func(_ *stack.PacketBuffer, ip, _ []byte) { ip[6] = 0x20 }},
		"later fragment":     {ok, 1000, func(_ *stack.PacketBuffer, ip, _ []byte) { ip[7] = 1 }},
		"short IP header":    {ok, 1000, func(_ *stack.PacketBuffer, ip, _ []byte) { ip[0] = 0x44 }},
		"short TCP header":   {ok, 1000, func(_ *stack.PacketBuffer, _, tcp []byte) { tcp[12] = 0x40 }},
		"headers beyond all": {tcpShape{flags: flagACK}, 1000, func(_ *stack.PacketBuffer, _, tcp []byte) { tcp[12] = 0xf0 }},
	} {
		t.Run(name, func(t *testing.T) {
			pkt := c.shape.fromStack(c.mss, rand.IntN)
			defer pkt.DecRef()
			if c.change != nil {
				c.change(pkt, pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice())
			}
			if new(segmenter).reset(pkt) {
				t.Fatal("accepted")
			}
			samePackets(t, cutByUs(t, new(segmenter), pkt), nil)
		})
	}
}

func with(s tcpShape, flags uint8) tcpShape {
	s.flags |= flags
	return s
}

// FuzzSegmenter hands in any bytes as a packet to cut, in views of any size.
func FuzzSegmenter(f *testing.F) {
	f.Add(tcpShape{flags: flagACK, payload: make([]byte, 300)}.build(), uint16(100), uint64(3), false)
	f.Add(tcpShape{flags: flagACK | flagPSH, six: true, options: 12, payload: make([]byte, 301)}.build(), uint16(7), uint64(1), true)
	f.Add(tcpShape{flags: flagFIN | flagACK, ipOptions: 8}.build(), uint16(0), uint64(2), false)
	f.Add([]byte{0x45}, uint16(1), uint64(0), false)
	f.Fuzz(func(t *testing.T, p []byte, mss uint16, seed uint64, six bool) {
		if len(p) > maxIPPacket || len(p) > 200*int(mss) && mss > 0 { // slow, and nothing new
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		var b buffer.Buffer
		for rest := p; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			_ = b.Append(buffer.NewViewWithData(rest[:n]))
			rest = rest[n:]
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
		defer pkt.DecRef()
		pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, MSS: mss}
		if six {
			pkt.GSOOptions.Type = stack.GSOTCPv6
		}
		var payload []byte
		var headers int
		for _, q := range cutByUs(t, new(segmenter), pkt) {
			var s tcpSegment
			proto, state := s.inspect(q)
			if state != checksumRight || proto != protoTCP || len(s.packet) != len(q) {
				t.Fatalf("segment %x: state %d, protocol %d", q, state, proto)
			}
			if len(q)-s.data > int(mss) {
				t.Fatalf("payload of %d bytes, MSS %d", len(q)-s.data, mss)
			}
			payload, headers = append(payload, q[s.data:]...), s.data
		}
		if headers > 0 && !bytes.Equal(payload, p[headers:]) {
			t.Fatal("payload changed")
		}
	})
}

// bulk is a full packet of a fast sender, in views as the stack keeps what a
// program writes.
func bulk(six bool) *stack.PacketBuffer {
	shape := tcpShape{flags: flagACK, options: 12, six: six, payload: make([]byte, 45*1368)}
	for i := range shape.payload {
		shape.payload[i] = byte(rand.Uint32())
	}
	return shape.fromStack(1368, func(n int) int { return min(n-1, 32<<10) })
}

func BenchmarkSegmenter(b *testing.B) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		b.Run(name, func(b *testing.B) {
			pkt := bulk(six)
			defer pkt.DecRef()
			buf := make([]byte, 64<<10)
			var s segmenter
			b.SetBytes(int64(pkt.Data().Size()))
			b.ReportAllocs()
			for b.Loop() {
				s.reset(pkt)
				at := 0
				for size, ok := s.more(); ok; size, ok = s.more() {
					if at+size > len(buf) {
						at = 0
					}
					at += s.write(buf[at:])
				}
			}
		})
	}
	b.Run("copy only", func(b *testing.B) {
		pkt := bulk(false)
		defer pkt.DecRef()
		plain := pkt.Clone()
		plain.GSOOptions = stack.GSO{}
		defer plain.DecRef()
		buf := make([]byte, 64<<10)
		var s segmenter
		b.SetBytes(int64(pkt.Data().Size()))
		b.ReportAllocs()
		for b.Loop() {
			s.reset(plain)
			s.write(buf)
		}
	})
}
