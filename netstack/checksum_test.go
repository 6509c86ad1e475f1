package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	gvisor "gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// naiveSum is RFC 1071 to the letter.
func naiveSum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestOnesSum(t *testing.T) {
	data := make([]byte, 70_000)
	for name, fill := range map[string]func(i int) byte{
		"zeros":  func(int) byte { return 0 },
		"ones":   func(int) byte { return 0xff },
		"random": func(int) byte { return byte(rand.Uint32()) },
	} {
		t.Run(name, func(t *testing.T) {
			for i := range data {
				data[i] = fill(i)
			}
			for size := range 300 {
				for offset := range 9 {
					checkSum(t, data[offset:offset+size])
				}
			}
			checkSum(t, data)
			checkSum(t, data[:65535])
		})
	}
}

func checkSum(t *testing.T, b []byte) {
	t.Helper()
	want := naiveSum(b)
	if got := onesSum(0).add(b).fold(); got != want {
		t.Fatalf("sum of %d bytes is %#x, want %#x", len(b), got, want)
	}
}

func FuzzOnesSum(f *testing.F) {
	f.Add([]byte("odd"), uint16(1), uint8(1))
	f.Add(bytes.Repeat([]byte{0xff}, 200), uint16(0xffff), uint8(7))
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, w uint16, cut uint8) {
		checkSum(t, b)

		// In two pieces, after a word.
		at := min(int(cut)&^1, len(b)&^1)
		whole := append(binary.BigEndian.AppendUint16(nil, w), b...)
		if got, want := onesSum(0).word(w).add(b[:at]).add(b[at:]).fold(), naiveSum(whole); got != want {
			t.Fatalf("sum in pieces is %#x, want %#x", got, want)
		}
	})
}

func BenchmarkOnesSum(b *testing.B) {
	for _, size := range []int{40, 1420, 64_000} {
		src, dst := make([]byte, size), make([]byte, size)
		for i := range src {
			src[i] = byte(rand.Uint32())
		}
		b.Run(fmt.Sprintf("add/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				onesSum(0).add(src)
			}
		})
		b.Run(fmt.Sprintf("copyThenAdd/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				copy(dst, src)
				onesSum(0).add(dst)
			}
		})
		b.Run(fmt.Sprintf("gvisor/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				gvisor.Checksum(src, 0)
			}
		})
	}
}
