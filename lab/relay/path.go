package relay

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// defaultQueue bounds what waits for a Rate: a home router's worth.
	defaultQueue = 256 << 10

	// maxHold is how long a reordered datagram is held back at most: enough to be
	// overtaken by many of a busy flow, and less than any retransmission waits.
	maxHold = 5 * time.Millisecond

	// transport is the first byte of a WireGuard message that carries data
	// (WireGuard paper, section 5.4.6).
	transport = 4
)

// Path is what one direction does to the datagrams that take it. The zero Path
// is a perfect one. Each probability is 0 to 1 and drawn for itself.
type Path struct {
	Delay  time.Duration // one way
	Jitter time.Duration // up to this much on top; it delays but does not reorder

	Loss      float64
	Reorder   float64 // is held back a little, so that others overtake it
	Duplicate float64 // arrives twice; the second one may be reordered by itself
	Corrupt   float64 // arrives with one bit flipped, under a right UDP checksum

	Rate  int // bytes per second, 0 is no limit
	Queue int // bytes that wait for Rate before the rest is dropped, 0 is 256 KiB

	// DataOnly spares handshakes and cookies from the four probabilities.
	DataOnly bool
}

func (p Path) check() error {
	for _, v := range []float64{p.Loss, p.Reorder, p.Duplicate, p.Corrupt} {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("the probability %v is not between 0 and 1", v)
		}
	}
	if p.Delay < 0 || p.Jitter < 0 || p.Rate < 0 || p.Queue < 0 {
		return fmt.Errorf("less than nothing: %+v", p)
	}
	return nil
}

// fate is what befalls one datagram.
type fate struct {
	lost, corrupted, duplicated bool
	held, heldCopy              time.Duration
}

func (p *Path) draw(r *rand.Rand, datagram []byte) (f fate) {
	if p.DataOnly && (len(datagram) == 0 || datagram[0] != transport) {
		return f
	}
	hit := func(probability float64) bool { return probability > 0 && r.Float64() < probability }
	hold := func() time.Duration {
		if !hit(p.Reorder) {
			return 0
		}
		return 1 + time.Duration(r.Int64N(int64(maxHold)))
	}
	if f.lost = hit(p.Loss); f.lost {
		return f
	}
	f.corrupted, f.duplicated = hit(p.Corrupt), hit(p.Duplicate)
	f.held = hold()
	if f.duplicated {
		f.heldCopy = hold()
	}
	return f
}

// queue returns the bound of what waits for Rate, in bytes.
func (p *Path) queue() int {
	if p.Queue == 0 {
		return defaultQueue
	}
	return p.Queue
}

// flip inverts one bit of b.
func flip(r *rand.Rand, b []byte) {
	if len(b) > 0 {
		bit := r.IntN(8 * len(b))
		b[bit/8] ^= 1 << (bit % 8)
	}
}
