package wireguard

import (
	"net/netip"
	"testing"

	"gatecontrol/model"
)

// Two ends with a network between them that marks what goes to the second. What
// leaves an end has the mark of its packet, once the other is known to do the same,
// and what comes out of the other has that of the network, if its sender knows what
// it means.
func TestMarksPassTheTunnel(t *testing.T) {
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		a, b := newEnd(t).open(t), newEnd(t).open(t)
		toB := a.knows(t, b, model.PrivateKey{}, true)
		toA := b.knows(t, a, model.PrivateKey{}, false)
		toA.marks.Store(true)
		at := func(e *end) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(loopback), e.Port()) }
		network := openTestSockets(t)
		toB.SetEndpoint(network.at(loopback).addr)
		var seen []uint8 // of data messages with a packet
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, readSize)
			for {
				s := receiver(network)
				n, segment, from, err := s.receive(buf)
				if err != nil {
					return
				}
				mark := s.reading.mark
				to, leaves := &endpoint{addr: at(b)}, congestion // by a router that means something else, too
				if from.addr.Port() == b.Port() {
					to.addr, leaves = at(a), mark
				}
				for start := 0; start < n; start += segment {
					m := buf[start:min(start+segment, n)]
					if messageType(m) == typeData && len(m) > overhead {
						seen = append(seen, mark)
					}
					_ = network.sendMarked(m, len(m), to, leaves)
				}
			}
		}()
		send := func(to *Peer, marks ...uint8) {
			burst := to.NewBurst(MaxBurst)
			for i, mark := range marks {
				p := ipPacket(4+i%2*2, mark, byte(i))
				copy(burst.Next(len(p)), p)
			}
			burst.Send()
		}
		sent := []uint8{0, 0, 1, 2, 2, 3, 0, 2}
		send(toB, sent...)
		eventually(t, "packets to who marks nothing", func() bool { return b.count() == len(sent) })
		send(toA, 0, congestion)
		eventually(t, "packets without a sign", func() bool { return a.count() == 2 })
		if toB.marks.Load() {
			t.Error("a router's mark is taken for the peer's")
		}
		send(toA, 2)
		eventually(t, "packet with a mark", func() bool { return a.count() == 3 })
		send(toB, sent...)
		eventually(t, "packets", func() bool { return b.count() == 2*len(sent) })
		_ = network.close()
		<-done
		want := append(make([]uint8, len(sent)), 0, congestion, 2)
		if want = append(want, sent...); string(seen) != string(want) {
			t.Errorf("marked outside as %v, not %v", seen, want)
		}
		for i, p := range b.received[:len(sent)] {
			if got := markOf(p); got != congestion && sent[i] != notECT {
				t.Errorf("packet %d, sent with %d, came as %x", i, sent[i], p[:20])
			}
		}
		for i, p := range b.received[len(sent):] {
			want := congestion
			if sent[i] == notECT {
				want = notECT
			}
			if got := markOf(p); got != want || p[63] != byte(i) || p[0]>>4 == 4 && headerSum(p[:20]) != 0xffff {
				t.Errorf("packet %d, sent with %d, came as %x", i, sent[i], p[:20])
			}
		}
	})
}
