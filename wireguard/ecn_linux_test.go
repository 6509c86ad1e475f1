package wireguard

import (
	"net/netip"
	"testing"

	"gatecontrol/model"
)

// Two ends with a network between them that marks what may be marked. What leaves
// an end has the mark of its packet, and what comes out of the other has that of
// the network, if its sender knows what it means.
func TestMarksPassTheTunnel(t *testing.T) {
	families(t, func(t *testing.T, loopback string, receiver func(*sockets) *socket) {
		a, b := newEnd(t).open(t), newEnd(t).open(t)
		toB := a.knows(t, b, model.PrivateKey{}, true)
		b.knows(t, a, model.PrivateKey{}, false)
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
				to := &endpoint{addr: at(b)}
				if from.addr.Port() == b.Port() {
					to.addr = at(a)
				}
				for start := 0; start < n; start += segment {
					m := buf[start:min(start+segment, n)]
					if messageType(m) == typeData && len(m) > overhead {
						seen = append(seen, mark)
					}
					_ = network.sendMarked(m, len(m), to, congestion) // by a router that means something else, too
				}
			}
		}()
		sent := []uint8{0, 0, 1, 2, 2, 3, 0, 2}
		burst := toB.NewBurst(MaxBurst)
		for i, mark := range sent {
			version := 4 + i%2*2
			p := ipPacket(version, mark, byte(i))
			copy(burst.Next(len(p)), p)
		}
		burst.Send()
		eventually(t, "packets", func() bool { return b.count() == len(sent) })
		_ = network.close()
		<-done
		if string(seen) != string(sent) {
			t.Errorf("marked outside as %v, sent as %v", seen, sent)
		}
		for i, p := range b.received {
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
