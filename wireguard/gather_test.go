package wireguard

import (
	"encoding/binary"
	"sync"
	"testing"

	"gatecontrol/model"
)

// Whatever goroutines send together arrives, and once.
func TestSendSoon(t *testing.T) {
	const senders, packets = 8, 200
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB := a.knows(t, b, model.PrivateKey{}, true)
	b.knows(t, a, model.PrivateKey{}, false)
	send(toB, []byte("hello"))
	eventually(t, "session", func() bool { return b.has([]byte("hello")) })

	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := range packets {
				size := 8 + 16*(i%3)
				burst := toB.NewBurst(size)
				room := burst.Next(size)
				binary.BigEndian.PutUint32(room, uint32(i)+1)
				binary.BigEndian.PutUint32(room[4:], uint32(n))
				burst.SendSoon(n%4 != 0)
			}
		})
	}
	wg.Wait()
	eventually(t, "every packet", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.received) == senders*packets+1
	})
	if n := toB.Status().TxPackets; n != senders*packets+1 {
		t.Errorf("%d packets counted", n)
	}
	seen := make(map[[2]uint32]bool)
	for _, p := range b.received[1:] {
		who, n := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])
		if seen[[2]uint32{who, n}] {
			t.Fatalf("packet %d of %d came twice", n, who)
		}
		seen[[2]uint32{who, n}] = true
	}
	if len(toB.gather.waiting) != 0 || toB.gather.some.Load() {
		t.Error("something waits")
	}
}

// What waits when its peer is removed is given back.
func TestSendSoonToARemovedPeer(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB := a.knows(t, b, model.PrivateKey{}, true)
	a.Remove(toB)
	for range 3 {
		burst := toB.NewBurst(8)
		copy(burst.Next(8), "too late")
		burst.SendSoon(true)
	}
	if len(toB.gather.waiting) != 0 || a.staged.Load() != 0 {
		t.Error("something waits")
	}
}

func BenchmarkSendSoon(b *testing.B) {
	near, far := newEnd(b).open(b), newEnd(b).open(b)
	to := near.knows(b, far, model.PrivateKey{}, true)
	far.knows(b, near, model.PrivateKey{}, false)
	send(to, []byte("hello"))
	eventually(b, "session", func() bool { return far.has([]byte("hello")) })
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			burst := to.NewBurst(200)
			burst.Next(200)
			burst.SendSoon(true)
		}
	})
}
