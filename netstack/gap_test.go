package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
)

// sackOf returns the blocks that a packet reports, nil if none.
func sackOf(p []byte) (blocks []block) {
	t := p[ipv4Header:]
	for o := t[tcpHeader : int(t[12]>>4)*4]; len(o) > 0; {
		switch {
		case o[0] == 1:
			o = o[1:]
			continue
		case o[0] == 5:
			for b := o[2:o[1]]; len(b) > 0; b = b[8:] {
				blocks = append(blocks, block{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])})
			}
		}
		o = o[o[1]:]
	}
	return blocks
}

func TestGaps(t *testing.T) {
	const start = uint32(1<<32 - 250) // wraps around behind the second segment
	at := func(from, to uint32) block { return block{start + from, start + to} }
	for name, c := range map[string]struct {
		come  []block
		acked uint32
		want  []block
	}{
		"in order":              {[]block{at(0, 100)}, 100, nil},
		"one behind a gap":      {[]block{at(100, 200)}, 0, []block{at(100, 200)}},
		"two in a row":          {[]block{at(100, 200), at(200, 300)}, 0, []block{at(100, 300)}},
		"the other way round":   {[]block{at(200, 300), at(100, 200)}, 0, []block{at(100, 300)}},
		"between two":           {[]block{at(100, 200), at(300, 400), at(200, 300)}, 0, []block{at(100, 400)}},
		"newest first":          {[]block{at(100, 200), at(500, 600), at(300, 400)}, 0, []block{at(300, 400), at(500, 600), at(100, 200)}},
		"what grew is newest":   {[]block{at(100, 200), at(300, 400), at(200, 250)}, 0, []block{at(100, 250), at(300, 400)}},
		"the oldest is left":    {[]block{at(100, 200), at(300, 400), at(500, 600), at(700, 800), at(900, 950)}, 0, []block{at(900, 950), at(700, 800), at(500, 600), at(300, 400)}},
		"again":                 {[]block{at(100, 200), at(300, 400), at(100, 200)}, 0, []block{at(100, 200), at(300, 400)}},
		"part of another":       {[]block{at(100, 400), at(200, 300)}, 0, []block{at(100, 400)}},
		"acknowledged":          {[]block{at(100, 200), at(300, 400)}, 200, []block{at(300, 400)}},
		"about to be":           {[]block{at(100, 200), at(300, 400)}, 100, []block{at(300, 400)}},
		"all":                   {[]block{at(100, 200), at(300, 400)}, 400, nil},
		"further than anything": {[]block{at(100+2*tcpReceiveMax, 200+2*tcpReceiveMax)}, 0, nil},
		"from before":           {[]block{{start - 200, start - 100}}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := gaps{wanted: true}
			for _, b := range c.come {
				h := tcpHeadersOf(tcpPacket(false, flagACK, b.start, 1, nil, nil))
				h.size = int(b.end - b.start)
				g.note(&h, start)
			}
			g.forget(start + c.acked)
			if got := g.blocks[:g.count]; !slices.Equal(got, c.want) {
				t.Errorf("%v", got)
			}
		})
	}
}

// Whatever comes, the blocks are what came, apart from each other and behind what
// is acknowledged.
func TestGapsAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		const size = 64
		base := r.Uint32()
		g := gaps{wanted: true}
		var came [size]bool
		acked := uint32(0)
		for range 100 {
			from := r.Uint32N(size)
			to := from + 1 + r.Uint32N(min(8, size-from))
			h := tcpHeadersOf(tcpPacket(false, flagACK, base+from, 1, nil, nil))
			h.size = int(to - from)
			g.note(&h, base+acked)
			for i := from; i < to; i++ {
				came[i] = true
			}
			for acked < size && came[acked] {
				acked++
			}
			g.forget(base + acked)
			var seen [size]bool
			for _, b := range g.blocks[:g.count] {
				if b.start-base <= acked || b.end-base > size || !after(b.end, b.start) {
					t.Fatalf("seed %d: %v behind %d", seed, g.blocks[:g.count], acked)
				}
				for i := b.start - base; i < b.end-base; i++ {
					if !came[i] || seen[i] {
						t.Fatalf("seed %d: %v", seed, g.blocks[:g.count])
					}
					seen[i] = true
				}
			}
		}
	}
}

// After its end the server goes on to say what has come behind gaps, with what
// else belongs into the packet; the flow is forgotten with its end.
func TestGapsAfterTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		options []byte
		blocks  int
	}{
		"with time stamps":    {append([]byte{4, 2}, timestamps[2:]...), 3},
		"without time stamps": {[]byte{4, 2, 1, 1}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			received := make(chan []byte, 1)
			g := openWith(t, flagSYN, c.options, func(c net.Conn) {
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				got, _ := io.ReadAll(c)
				received <- got
			})
			if g.options = nil; c.blocks == 3 {
				g.options = slices.Clone(timestamps)
			}
			flags, _, _ := g.next()
			if flags&flagFIN == 0 {
				t.Fatalf("flags %#x", flags)
			}
			g.ack++
			g.write(flagACK, nil)
			const size = 100
			var data []byte
			for i := range 11 {
				data = append(data, bytes.Repeat([]byte{byte('a' + i)}, size)...)
			}
			base := g.seq
			at := func(i int) uint32 { return base + uint32(i*size) }
			segment := func(i int) []byte {
				return tcpPacket(false, flagACK, at(i), g.ack, g.options, data[i*size:][:size])
			}
			report := func() (ack uint32, blocks []block) {
				p := g.take(1)[0]
				if checksum(p[:ipv4Header]) != 0 || !tcpSumRight(p) {
					t.Fatalf("a checksum is wrong: %x", p)
				}
				if stamped := bytes.Equal(p[ipv4Header+tcpHeader:][:4], stampLayout[:]); stamped != (c.blocks == 3) {
					t.Errorf("time stamps: %v", stamped)
				}
				return binary.BigEndian.Uint32(p[ipv4Header+8:]), sackOf(p)
			}
			var want []block
			for _, i := range []int{1, 3, 5, 7, 9} {
				g.send(segment(i))
				want = slices.Insert(want, 0, block{at(i), at(i + 1)})
				want = want[:min(len(want), c.blocks)]
				if ack, got := report(); ack != base || !slices.Equal(got, want) {
					t.Fatalf("segment %d: %d is acknowledged, and %v", i, ack-base, got)
				}
			}
			g.send(segment(0))
			if ack, got := report(); ack != at(2) || !slices.Equal(got, want) {
				t.Fatalf("%d is acknowledged, and %v", ack-base, got)
			}
			for _, i := range []int{2, 4, 6, 8} {
				g.send(segment(i))
				g.take(1)
			}
			g.seq = at(10)
			g.write(flagACK|flagFIN, data[10*size:])
			if got := <-received; !bytes.Equal(got, data) {
				t.Errorf("%d bytes came", len(got))
			}
			known := &g.server.table.Load().lookup4(word(plainIP)).streams
			eventually(t, "end", func() bool {
				known.mu.Lock()
				defer known.mu.Unlock()
				return len(known.young) == 0 && known.watched.Load() == 0
			})
		})
	}
}

// A report is right over IPv6, too.
func TestGapsOverIPv6(t *testing.T) {
	p := append(packet6("fd00::2", "fd00::4", protoTCP, 80), make([]byte, tcpHeader-udpHeader)...)
	h := tcpHeaders{ip: p[:ipv6Header], tcp: p[ipv6Header:]}
	h.tcp[12], h.tcp[13] = tcpHeader/4<<4, flagACK
	g := gaps{wanted: true, blocks: [maxBlocks]block{{100, 200}}, count: 1}
	got := g.report(nil, &h)
	sum := onesSum(0).add(got[8:40]).word(protoTCP).word(uint16(len(got) - ipv6Header)).add(got[ipv6Header:]).fold()
	if len(got) != ipv6Header+tcpHeader+12 || ipSize(got) != len(got) || sum != 0xffff {
		t.Errorf("%x", got)
	}
}
