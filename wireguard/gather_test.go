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

// While packets are being delivered, what they cause waits, and leaves together
// and in order; what is worth a call of its own takes it along.
func TestHold(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB := a.knows(t, b, model.PrivateKey{}, true)
	b.knows(t, a, model.PrivateKey{}, false)
	send(toB, []byte("hello"))
	eventually(t, "session", func() bool { return b.has([]byte("hello")) })

	next, want := byte(0), 1
	soon := func(worth bool) {
		burst := toB.NewBurst(8)
		copy(burst.Next(8), []byte{next})
		next++
		burst.SendSoon(worth)
	}
	waits := func(n int) {
		t.Helper()
		if len(toB.gather.waiting) != n {
			t.Fatalf("%d packets wait, want %d", len(toB.gather.waiting), n)
		}
	}
	arrive := func(n int) {
		t.Helper()
		waits(0)
		want += n
		eventually(t, "packets", func() bool { return b.count() == want })
	}
	toB.gather.hold()
	for range 5 {
		soon(false)
	}
	waits(5)
	toB.releaseGathered()
	arrive(5)

	toB.gather.hold()
	soon(false)
	soon(true)
	arrive(2)
	soon(false)
	send(toB, []byte{next})
	next++
	arrive(2)
	for range maxGather - 1 {
		soon(false)
	}
	waits(maxGather - 1)
	soon(false)
	arrive(maxGather)
	toB.gather.hold() // by two goroutines
	toB.releaseGathered()
	soon(false)
	waits(1)
	toB.releaseGathered()
	arrive(1)
	if toB.gather.some.Load() {
		t.Error("something is to wait for")
	}
	soon(false)
	arrive(1)
	for i, p := range b.received[1:] {
		if p[0] != byte(i) {
			t.Fatalf("packet %d is number %d", i, p[0])
		}
	}
}

// Answers to a flood arrive, whoever sends them meanwhile.
func TestAnswersToMany(t *testing.T) {
	const senders, packets = 8, 300
	a, b := newEnd(t).open(t), newEnd(t)
	var answering sync.WaitGroup
	deliver := b.deliver
	b.deliver = func(from *Peer, packets [][]byte) {
		deliver(from, packets)
		for _, p := range packets[:len(packets)/2] { // as a stack does, partly in other goroutines
			answer := from.NewBurst(16)
			copy(answer.Next(16), p)
			answer.SendSoon(false)
		}
		for _, p := range packets[len(packets)/2:] {
			answer := from.NewBurst(16)
			copy(answer.Next(16), p)
			answering.Go(func() { answer.SendSoon(false) })
		}
	}
	b.open(t)
	toB := a.knows(t, b, model.PrivateKey{}, true)
	back := b.knows(t, a, model.PrivateKey{}, false)
	send(toB, make([]byte, 16))
	eventually(t, "session", func() bool { return a.count() == 1 })

	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := range packets {
				burst := toB.NewBurst(16)
				room := burst.Next(16)
				binary.BigEndian.PutUint32(room, uint32(i)+1)
				binary.BigEndian.PutUint32(room[4:], uint32(n))
				burst.Send()
			}
		})
	}
	wg.Wait()
	eventually(t, "every answer", func() bool { return a.count() == senders*packets+1 })
	answering.Wait()
	eventually(t, "end of the hold", func() bool { return !back.gather.some.Load() })
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
