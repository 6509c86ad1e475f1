package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// ipPacket is a packet of 64 bytes with a mark and, of IPv4, a right checksum.
func ipPacket(version int, mark uint8, number byte) []byte {
	p := make([]byte, 64)
	p[63] = number
	if version == 6 {
		p[0], p[1], p[5] = 0x60, mark<<4|0x05, 24
		return p
	}
	p[0], p[1], p[3], p[8], p[9] = 0x45, 0x28|mark, 64, 64, 17
	binary.BigEndian.PutUint16(p[10:], ^headerSum(p[:20]))
	return p
}

// headerSum is 0xffff over an IPv4 header with the right checksum.
func headerSum(h []byte) uint16 {
	sum := uint32(0)
	for ; len(h) > 0; h = h[2:] {
		sum += uint32(binary.BigEndian.Uint16(h))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestCongested(t *testing.T) {
	for _, version := range []int{4, 6} {
		for mark, want := range []uint8{0, 3, 3, 3} {
			t.Run(fmt.Sprintf("IPv%d %d", version, mark), func(t *testing.T) {
				p := ipPacket(version, uint8(mark), 0)
				if got := markOf(p); got != uint8(mark) {
					t.Fatalf("the mark is %d", got)
				}
				congested(p)
				if got := markOf(p); got != want {
					t.Errorf("the mark became %d", got)
				}
				if version == 4 && headerSum(p[:20]) != 0xffff {
					t.Errorf("the checksum of %x", p[:20])
				}
				if other := ipPacket(version, want, 0); version == 6 && !bytes.Equal(p, other) || version == 4 && !bytes.Equal(p[12:], other[12:]) {
					t.Errorf("%x", p)
				}
			})
		}
	}
	for _, p := range [][]byte{nil, {0x45}, make([]byte, 19), make([]byte, 64)} {
		was := bytes.Clone(p)
		if congested(p); markOf(p) != notECT || !bytes.Equal(p, was) {
			t.Errorf("%x", p)
		}
	}
}
