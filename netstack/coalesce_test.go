package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// delivered is a packet that the coalescer handed over.
type delivered struct {
	data     []byte
	verified bool
}

func runCoalescer(t testing.TB, c *coalescer, batch [][]byte) (out []delivered, bad int) {
	t.Helper()
	bad = c.run(batch, func(pkt *stack.PacketBuffer) {
		defer pkt.DecRef()
		if pkt.ReadRefs() != 1 {
			t.Fatalf("%d references, want 1", pkt.ReadRefs())
		}
		views, _ := pkt.AsViewList()
		data := bytes.Clone(views.Front().AsSlice())
		if views.Len() != 1 { // the headers apart
			var s tcpSegment
			payload := views.Back().AsSlice()
			data = append(data, payload...)
			if s.inspect(data); views.Len() != 2 || len(data)-len(payload) != s.data {
				t.Fatalf("%d views, %d bytes in the last one, headers of %d", views.Len(), len(payload), s.data)
			}
		}
		want := header.IPv4ProtocolNumber
		if data[0]>>4 == 6 {
			want = header.IPv6ProtocolNumber
		}
		if pkt.NetworkProtocolNumber != want {
			t.Fatalf("network protocol %#x, want %#x", pkt.NetworkProtocolNumber, want)
		}
		out = append(out, delivered{data, pkt.RXChecksumValidated})
	})
	if c.packets != nil || c.deliver != nil || c.count != 0 {
		t.Fatal("keeps the batch")
	}
	for i := range c.merges {
		if c.merges[i].head.packet != nil {
			t.Fatal("keeps a packet")
		}
	}
	return out, bad
}

func TestCoalescerAgainstNaive(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var c coalescer
	for range 200 {
		batch := traffic(r, 1+r.IntN(8), 1+r.IntN(60))
		before := make([][]byte, len(batch))
		for i := range batch {
			before[i] = bytes.Clone(batch[i])
		}
		got, bad := runCoalescer(t, &c, batch)
		if bad != 0 {
			t.Fatalf("%d bad packets, want none", bad)
		}
		samePackets(t, batch, before)
		sameDelivered(t, got, coalesceNaively(unpadded(batch)))
	}
}

// byFlow collects the bytes of each flow in the order of delivery.
func byFlow(out []delivered) map[string][]byte {
	flows := map[string][]byte{}
	for _, d := range out {
		h := headersOf(d.data)
		key := string(h.flow(d.data))
		flows[key] = append(flows[key], d.data[h.both:]...)
	}
	return flows
}

// TestCoalescerManyFlows has more flows than are merged at a time.
func TestCoalescerManyFlows(t *testing.T) {
	var batch [][]byte
	want := map[string][]byte{}
	const flows = 3*openMerges + 5
	for i := range 5 * flows {
		s := tcpShape{
			flags: flagACK, ports: uint32(i % flows), seq: uint32(i / flows * 100),
			payload: bytes.Repeat([]byte{byte(i)}, 100),
		}
		p := s.build()
		key := string(headersOf(p).flow(p))
		want[key] = append(want[key], s.payload...)
		batch = append(batch, p)
	}
	out, bad := runCoalescer(t, new(coalescer), batch)
	if bad != 0 {
		t.Fatalf("%d bad", bad)
	}
	got := byFlow(out)
	if len(got) != len(want) {
		t.Fatalf("%d flows, want %d", len(got), len(want))
	}
	for key := range want {
		if !bytes.Equal(got[key], want[key]) {
			t.Fatalf("flow %x changed", key)
		}
	}
}

// TestRoundTrip cuts packets of several flows, shuffles the flows together and
// joins them again.
func TestRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var s segmenter
	var c coalescer
	for range 100 {
		var queues [][][]byte
		var shapes []tcpShape
		for i := range 1 + r.IntN(8) {
			shape, mss := randomShape(r)
			shape.flags, shape.ipOptions, shape.ports = flagACK, 0, uint32(i)
			if r.IntN(2) == 0 {
				shape.flags |= flagPSH
			}
			if len(shape.payload) == 0 {
				shape.payload = []byte{1}
			}
			pkt := shape.fromStack(uint16(mss), viewSizes(r))
			queues, shapes = append(queues, cutByUs(t, &s, pkt)), append(shapes, shape)
			pkt.DecRef()
		}
		var batch [][]byte
		for len(queues) > 0 {
			i := r.IntN(len(queues))
			batch, queues[i] = append(batch, queues[i][0]), queues[i][1:]
			if len(queues[i]) == 0 {
				queues = append(queues[:i], queues[i+1:]...)
			}
		}
		out, bad := runCoalescer(t, &c, batch)
		if bad != 0 || len(out) != len(shapes) {
			t.Fatalf("%d bad; %d packets, want %d", bad, len(out), len(shapes))
		}
		for _, shape := range shapes {
			whole := shape.build()
			found := false
			for _, d := range out {
				found = found || bytes.Equal(withoutChecksum(t, d.data), withoutChecksum(t, whole))
			}
			if !found {
				t.Fatalf("a packet of %d bytes did not come back", len(whole))
			}
		}
	}
}

// TestCoalescerKeepsOrder has things in between the data of one flow that must
// not overtake it.
func TestCoalescerKeepsOrder(t *testing.T) {
	data := tcpShape{flags: flagACK, payload: make([]byte, 100)}
	at := func(seq uint32, flags uint8, size int) []byte {
		s := data
		s.seq, s.flags, s.payload = seq, flags, s.payload[:size]
		return s.build()
	}
	stamped := func(seq, stamp uint32) []byte {
		s := data
		s.seq, s.options, s.stamp = seq, 12, stamp
		return s.build()
	}
	other := data
	other.ports = 7
	udp := packet4(protoUDP, make([]byte, udpHeader))
	for name, c := range map[string]struct {
		batch [][]byte
		want  []int // sizes of payload, -1 for another protocol
	}{
		"joined":            {[][]byte{at(0, flagACK, 100), at(100, flagACK, 100), at(200, flagACK|flagPSH, 100)}, []int{300}},
		"push ends nothing": {[][]byte{at(0, flagACK, 100), at(100, flagACK|flagPSH, 100), at(200, flagACK, 100)}, []int{300}},
		"push first":        {[][]byte{at(0, flagACK|flagPSH, 100), at(100, flagACK, 100)}, []int{200}},
		"later stamps":      {[][]byte{stamped(0, 7), stamped(100, 7), stamped(200, 8)}, []int{300}},
		"stamps wrap":       {[][]byte{stamped(0, 1<<32-1), stamped(100, 1)}, []int{200}},
		"earlier stamp":     {[][]byte{stamped(0, 8), stamped(100, 7), stamped(200, 8)}, []int{100, 200}},
		"without stamp":     {[][]byte{stamped(0, 8), at(100, flagACK, 100)}, []int{100, 100}},
		"short ends":        {[][]byte{at(0, flagACK, 100), at(100, flagACK, 99), at(199, flagACK, 99)}, []int{199, 99}},
		"longer starts":     {[][]byte{at(0, flagACK, 50), at(50, flagACK, 100), at(150, flagACK, 100)}, []int{50, 200}},
		"pure ACK waits":    {[][]byte{at(0, flagACK, 100), at(100, flagACK, 0), at(100, flagACK, 100)}, []int{100, 0, 100}},
		"FIN waits":         {[][]byte{at(0, flagACK, 100), at(100, flagACK, 100), at(200, flagACK|flagFIN, 0)}, []int{200, 0}},
		"reset waits":       {[][]byte{at(0, flagACK, 100), at(100, flagACK, 100), at(200, flagRST, 0)}, []int{200, 0}},
		"hole":              {[][]byte{at(0, flagACK, 100), at(200, flagACK, 100), at(300, flagACK, 100)}, []int{100, 200}},
		"others pass":       {[][]byte{at(0, flagACK, 100), udp, at(100, flagACK, 100)}, []int{-1, 200}},
		"other flow":        {[][]byte{at(0, flagACK, 100), other.build(), at(100, flagACK, 100)}, []int{200, 100}},
		"other flow's ACK":  {[][]byte{at(0, flagACK, 100), at(100, flagACK, 100), func() []byte { o := other; o.payload = nil; return o.build() }()}, []int{0, 200}},
		"sequence wraps":    {[][]byte{at(1<<32-100, flagACK, 100), at(0, flagACK, 100)}, []int{200}},
		"nothing":           {nil, nil},
		"nothing in packet": {[][]byte{{}, nil}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, bad := runCoalescer(t, new(coalescer), c.batch)
			if bad != 0 {
				t.Fatalf("%d bad", bad)
			}
			var sizes []int
			for _, d := range out {
				size := -1
				if d.data[9] == protoTCP {
					size = len(d.data) - headersOf(d.data).both
				}
				sizes = append(sizes, size)
			}
			if fmt.Sprint(sizes) != fmt.Sprint(c.want) {
				t.Fatalf("payloads of %v bytes, want %v", sizes, c.want)
			}
		})
	}
}

// packet4 is an IPv4 packet with a right header checksum.
func packet4(proto uint8, payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2}
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4Header+len(payload)))
	binary.BigEndian.PutUint16(p[10:], ^naiveSum(p))
	return append(p, payload...)
}

// TestCoalescerSizeLimit fills packets up to the largest there is.
func TestCoalescerSizeLimit(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			var batch [][]byte
			s := tcpShape{six: six, flags: flagACK, payload: make([]byte, 1360)}
			for range 120 {
				batch = append(batch, s.build())
				s.seq += 1360
			}
			out, _ := runCoalescer(t, new(coalescer), batch)
			if len(out) != 3 {
				t.Fatalf("%d packets, want 3", len(out))
			}
			if n := len(out[0].data); n > maxIPPacket || n+1360 <= maxIPPacket {
				t.Fatalf("first packet has %d bytes", n)
			}
		})
	}
}

func TestCoalescerDropsWrongChecksums(t *testing.T) {
	tcp := tcpShape{flags: flagACK, payload: make([]byte, 101)}
	six := tcp
	six.six = true
	udp := func(checksum uint16, size int) []byte {
		u := make([]byte, udpHeader+5)
		u[5], u[9] = byte(size), 77
		binary.BigEndian.PutUint16(u[6:], checksum)
		return packet4(protoUDP, u)
	}
	right := udp(0, 13)
	pseudo := append(bytes.Clone(right[12:20]), 0, protoUDP, 0, 13)
	sum := ^naiveSum(append(pseudo, right[ipv4Header:]...))

	udp6 := append([]byte{0x60, 0, 0, 0, 0, 8, protoUDP, 64}, make([]byte, 40)...)
	udp6[45] = 8

	for name, c := range map[string]struct {
		packet   []byte
		bad      int
		verified bool
	}{
		"IPv4 TCP":             {tcp.build(), 0, true},
		"IPv6 TCP":             {six.build(), 0, true},
		"TCP header damaged":   {damage(tcp.build(), ipv4Header+9), 1, false},
		"TCP payload damaged":  {damage(tcp.build(), ipv4Header+tcpHeader+100), 1, false},
		"IPv6 payload damaged": {damage(six.build(), ipv6Header+tcpHeader+100), 1, false},
		"IPv6 address damaged": {damage(six.build(), 10), 1, false},
		"IPv4 header damaged":  {damage(tcp.build(), 8), 1, false},
		"UDP":                  {udp(sum, 13), 0, true},
		"UDP damaged":          {udp(sum+1, 13), 1, false},
		"UDP without":          {udp(0, 13), 0, false},
		"UDP of wrong length":  {udp(sum, 14), 0, false},
		"UDP without in IPv6":  {udp6, 1, false},
		"ICMP":                 {packet4(protoICMP, []byte{8, 0, 1, 2, 3, 4, 5, 6}), 0, false},
		"short TCP":            {packet4(protoTCP, make([]byte, 19)), 0, false},
		"fragment":             {fragmentOf4(tcp.build()), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			good := tcp
			good.ports = 99
			out, bad := runCoalescer(t, new(coalescer), [][]byte{c.packet, good.build()})
			if bad != c.bad || len(out) != 2-c.bad {
				t.Fatalf("%d bad, %d delivered; want %d bad", bad, len(out), c.bad)
			}
			for _, d := range out {
				if bytes.Equal(d.data, c.packet) && d.verified != c.verified {
					t.Fatalf("verified is %t, want %t", d.verified, c.verified)
				}
			}
		})
	}
	t.Run("in the middle", func(t *testing.T) {
		var batch [][]byte
		s := tcp
		for i := range 5 {
			batch = append(batch, s.build())
			s.seq += 101
			if i == 2 {
				damage(batch[i], 90)
			}
		}
		out, bad := runCoalescer(t, new(coalescer), batch)
		if bad != 1 || len(out) != 2 || len(out[0].data) != 40+202 || len(out[1].data) != 40+202 {
			t.Fatalf("%d bad, %d delivered", bad, len(out))
		}
	})
}

func damage(p []byte, at int) []byte {
	p[at] ^= 0x10
	return p
}

// fragmentOf4 marks an IPv4 packet as a first fragment.
func fragmentOf4(p []byte) []byte {
	p[6] |= 0x20
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^naiveSum(p[:ipv4Header]))
	return p
}

// FuzzCoalescer splits any bytes into packets, and has the checksums of some
// of them put right, or none would be joined.
func FuzzCoalescer(f *testing.F) {
	seed := func(packets ...[]byte) {
		var b []byte
		for _, p := range packets {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
		}
		f.Add(b, true)
	}
	s := tcpShape{flags: flagACK, payload: []byte("payload")}
	second := s
	second.seq = 7
	six := second
	six.six, six.options = true, 12
	seed(s.build(), second.build(), six.build())
	seed(six.build(), packet4(protoUDP, make([]byte, 20)), packet4(protoICMP, make([]byte, 8)))
	seed([]byte{0x45}, []byte{0x60}, []byte{})
	var c coalescer
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		var batch [][]byte
		for len(b) >= 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			p := bytes.Clone(b[2:][:n])
			b = b[2+n:]
			if repair {
				p = repaired(p)
			}
			batch = append(batch, p[:len(p):len(p)])
		}
		sound := make([][]byte, 0, len(batch))
		nonempty, other := 0, 0
		for _, p := range batch {
			if len(p) > 0 {
				nonempty++
			}
			var s tcpSegment
			proto, state := s.inspect(p)
			switch {
			case state == checksumWrong:
			case proto == protoTCP:
				sound = append(sound, s.packet)
			case len(p) > 0:
				other++
			}
		}
		out, bad := runCoalescer(t, &c, batch)
		if len(out)+bad > nonempty {
			t.Fatalf("%d packets and %d bad from %d", len(out), bad, nonempty)
		}
		var tcp []delivered
		for _, d := range out {
			if d.verified && isTCP(d.data) {
				tcp = append(tcp, d)
			} else {
				other--
			}
		}
		if other != 0 {
			t.Fatalf("%d packets of other protocols are missing", other)
		}
		if len(sound) <= openMerges {
			sameDelivered(t, tcp, coalesceNaively(sound))
		}
	})
}

func isTCP(p []byte) bool {
	return p[0]>>4 == 4 && p[9] == protoTCP || p[0]>>4 == 6 && p[6] == protoTCP
}

// repaired makes the lengths and checksums of a packet right.
func repaired(p []byte) []byte {
	switch {
	case len(p) >= ipv4Header+tcpHeader && p[0] == 0x45:
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		correct(p, ipv4Header)
	case len(p) >= ipv6Header+tcpHeader && p[0]>>4 == 6:
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6Header))
		correct(p, ipv6Header)
	}
	return p
}
