package netstack

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// coalesceNaively is what the coalescer is to do with sound TCP packets of up
// to openMerges flows: a list of open packets, searched from the start.
func coalesceNaively(batch [][]byte) (out [][]byte) {
	type open struct {
		packet []byte
		mss    int
	}
	var all []*open
	closeAt := func(i int) {
		out = append(out, all[i].packet)
		all = append(all[:i], all[i+1:]...)
	}
next:
	for _, p := range batch {
		h := headersOf(p)
		payload := len(p) - h.both
		flags := p[h.ip+13]
		for i, o := range all {
			if !bytes.Equal(h.flow(p), h.flow(o.packet)) {
				continue
			}
			joined := joinNaively(o.packet, p, h)
			if joined == nil || payload == 0 || payload > o.mss || flags&^flagPSH != flagACK || len(joined) > maxIPPacket {
				closeAt(i)
				break
			}
			o.packet = joined
			if payload < o.mss {
				closeAt(i)
			}
			continue next
		}
		if flags&^flagPSH == flagACK && payload > 0 && (p[0]>>4 == 6 || h.ip == ipv4Header) {
			all = append(all, &open{p, payload})
		} else {
			out = append(out, p)
		}
	}
	for _, o := range all {
		out = append(out, o.packet)
	}
	return out
}

type testHeaders struct{ ip, both int }

func headersOf(p []byte) (h testHeaders) {
	h.ip = ipv6Header
	if p[0]>>4 == 4 {
		h.ip = int(p[0]&15) * 4
	}
	h.both = h.ip + int(p[h.ip+12]>>4)*4
	return h
}

// flow returns what names the flow of p.
func (testHeaders) flow(p []byte) []byte {
	h := headersOf(p)
	addresses := p[8:40]
	if p[0]>>4 == 4 {
		addresses = p[12:20]
	}
	return append(append([]byte{p[0] >> 4}, addresses...), p[h.ip:h.ip+4]...)
}

// joinNaively appends the payload of p to that of a, or returns nil. It blanks
// what may differ and compares the rest of the headers.
func joinNaively(a, p []byte, h testHeaders) []byte {
	blank := func(q []byte) []byte {
		q = bytes.Clone(q[:h.both])
		if q[0]>>4 == 4 {
			clear(q[2:6])   // total length, identification
			clear(q[10:12]) // checksum
		} else {
			clear(q[4:6]) // payload length
		}
		clear(q[h.ip+4 : h.ip+8]) // sequence number
		q[h.ip+13] = 0            // flags
		clear(q[h.ip+16 : h.ip+18])
		if o := q[h.ip+20:]; len(o) == 12 && bytes.HasPrefix(o, []byte{1, 1, 8, 10}) {
			clear(o[4:])
		}
		return q
	}
	if h == headersOf(a) && h.both == h.ip+32 && int32(binary.BigEndian.Uint32(p[h.ip+24:])-binary.BigEndian.Uint32(a[h.ip+24:])) < 0 &&
		bytes.Equal(p[h.ip+20:][:4], []byte{1, 1, 8, 10}) {
		return nil // a time stamp that goes back
	}
	if headersOf(a) != h || a[0]>>4 == 4 && h.ip != ipv4Header || !bytes.Equal(blank(a), blank(p)) {
		return nil
	}
	seq := binary.BigEndian.Uint32(a[h.ip+4:]) + uint32(len(a)-h.both)
	if binary.BigEndian.Uint32(p[h.ip+4:]) != seq {
		return nil
	}
	joined := append(bytes.Clone(a), p[h.both:]...)
	joined[h.ip+13] |= p[h.ip+13]
	if a[0]>>4 == 4 {
		binary.BigEndian.PutUint16(joined[2:], uint16(len(joined)))
	} else {
		binary.BigEndian.PutUint16(joined[4:], uint16(len(joined)-ipv6Header))
	}
	return joined
}

// sameDelivered compares packets, apart from the TCP checksum of joined ones,
// which the stack is told not to look at.
func sameDelivered(t testing.TB, got []delivered, want [][]byte) {
	t.Helper()
	plain := make([][]byte, len(got))
	for i := range got {
		if !got[i].verified {
			t.Fatalf("packet %d not marked as verified", i)
		}
		plain[i] = withoutChecksum(t, got[i].data)
	}
	for i := range want {
		want[i] = bytes.Clone(want[i])
		h := headersOf(want[i])
		correct(want[i], h.ip)
		want[i] = withoutChecksum(t, want[i])
	}
	samePackets(t, plain, want)
}

func withoutChecksum(t testing.TB, p []byte) []byte {
	p = bytes.Clone(p)
	h := headersOf(p)
	if p[0]>>4 == 4 && naiveSum(p[:h.ip]) != 0xffff {
		t.Fatalf("wrong header checksum: %x", p[:h.ip])
	}
	clear(p[h.ip+16 : h.ip+18])
	return p
}

// traffic draws the packets of one batch: several flows, mostly bulk data,
// with all that ends a merge in between.
func traffic(r *rand.Rand, flows, packets int) (batch [][]byte) {
	state := make([]tcpShape, flows)
	for i := range state {
		state[i] = tcpShape{
			six: r.IntN(3) == 0, options: r.IntN(4) * 4, ports: r.Uint32(),
			seq: r.Uint32(), ack: r.Uint32(), flags: flagACK, window: 500,
		}
		if r.IntN(2) == 0 {
			state[i].options, state[i].stamp = 12, r.Uint32()|1
		}
	}
	data := make([]byte, 3000)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for range packets {
		s := &state[r.IntN(flows)]
		one := *s
		one.payload = data[r.IntN(100):][:1368]
		one.id = uint16(r.Uint32())
		switch r.IntN(40) {
		case 0:
			one.payload = nil
		case 1:
			one.payload = one.payload[:r.IntN(1368)]
		case 2:
			one.payload = data
		case 3, 4:
			one.flags |= flagPSH
		case 5:
			one.flags |= flagFIN
		case 6:
			s.ack += 100
			one.ack = s.ack
		case 7:
			s.window++
			one.window = s.window
		case 8:
			s.seq += 1368 // a hole
			one.seq = s.seq
		case 9:
			one.seq -= 1368 // again
		case 10:
			one.options ^= 4
			one.stamp = 0
		case 11:
			if !one.six {
				one.ipOptions = 4
			}
		case 12, 13:
			if s.stamp != 0 {
				s.stamp += 2
				one.stamp = s.stamp
			}
		case 14:
			if s.stamp != 0 {
				one.stamp -= 2
			}
		}
		s.seq = one.seq + uint32(len(one.payload))
		p := one.build()
		switch r.IntN(60) {
		case 0: // another TTL or hop limit
			if one.six {
				p[7]--
			} else {
				p[8]--
			}
		case 1: // marked
			p[1] ^= 3
		}
		correct(p, headersOf(p).ip)
		batch = append(batch, append(p, make([]byte, r.IntN(2)*r.IntN(16))...)) // padding
	}
	return batch
}

func unpadded(batch [][]byte) [][]byte {
	out := make([][]byte, len(batch))
	for i, p := range batch {
		out[i] = p[:ipSize(p)]
	}
	return out
}
