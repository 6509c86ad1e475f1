package netstack

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// Both directions of the streams of a peer that is not there, as packets between
// its port 1000 and the server's port 80.

// out is what becomes of a packet of the stack, nil if it is kept.
func (w *watched) out(t testing.TB, p []byte) []byte {
	t.Helper()
	pkt := fromStack4(p)
	defer pkt.DecRef()
	if !w.outgoing(w.to, pkt, 1420) {
		return nil
	}
	view := pkt.ToView()
	defer view.Release()
	got := bytes.Clone(view.AsSlice())
	if checksum(got[:ipv4Header]) != 0 || !tcpSumRight(got) {
		t.Errorf("a checksum is wrong: %x", got)
	}
	return got
}

// in is what the stack gets of a packet of the peer.
func (w *watched) in(p []byte) []byte {
	got := bytes.Clone(p)
	end := ipv4Header + int(got[ipv4Header+12]>>4)*4
	w.incoming(&tcpHeaders{got[:ipv4Header], got[ipv4Header:end], len(got) - end}, 1000)
	return got
}

func tcpSumRight(p []byte) bool {
	t := p[ipv4Header:]
	return onesSum(0).add(p[12:20]).word(protoTCP).word(uint16(len(t))).add(t).fold() == 0xffff
}

// marked is p with a mark for congestion.
func marked(mark byte, p []byte) []byte {
	p[1] = p[1]&^markBits | mark
	clear(p[10:12])
	binary.BigEndian.PutUint16(p[10:], ^onesSum(0).add(p[:ipv4Header]).fold())
	return p
}

// window is p of the peer with a window.
func window(size uint16, p []byte) []byte {
	binary.BigEndian.PutUint16(p[ipv4Header+14:], size)
	return p
}

// turn is one packet and what is to become of it.
type turn struct {
	from   string // "stack" or "peer"
	packet []byte
	flags  byte
	mark   byte
	window uint16 // 0: as it was
}

const ask = flagSYN | flagECE | flagCWR

func TestMarks(t *testing.T) {
	data := make([]byte, 1000)
	scale := []byte{3, 3, 7, 0}
	stack := func(flags byte, seq, ack uint32, payload []byte) []byte {
		return tcpPacket(true, flags, seq, ack, nil, payload)
	}
	peer := func(flags byte, seq, ack uint32, payload []byte) []byte {
		return tcpPacket(false, flags, seq, ack, nil, payload)
	}
	start, there := uint32(1<<32-1500), uint32(7000) // the stack's numbers wrap around
	dialed := []turn{
		{"stack", stack(flagSYN, start-1, 0, nil), ask, 0, 0},
		{"peer", peer(flagSYN|flagACK|flagECE, there-1, start, nil), flagSYN | flagACK | flagECE, 0, 0},
		{"stack", stack(flagACK, start, there, nil), flagACK, 0, 0},
	}
	accepted := []turn{
		{"peer", peer(ask, there-1, 0, nil), ask, 0, 0},
		{"stack", stack(flagSYN|flagACK, start-1, there, nil), flagSYN | flagACK | flagECE, 0, 0},
		{"stack", stack(flagSYN|flagACK, start-1, there, nil), flagSYN | flagACK | flagECE, 0, 0}, // again
		{"peer", peer(flagACK, there, start, nil), flagACK, 0, 0},
	}
	unwanted := []turn{
		{"stack", stack(flagACK|flagPSH, start, there, data), flagACK | flagPSH, 0, 0},
		{"peer", marked(markCongested, peer(flagACK, there, start+1000, data)), flagACK, markCongested, 0},
		{"stack", stack(flagACK, start+1000, there+1000, data), flagACK, 0, 0},
		{"peer", peer(flagACK|flagECE, there+1000, start+1000, nil), flagACK | flagECE, 0, 0xffff},
	}
	told := []turn{ // of marks on the way of the peer's data
		{"peer", marked(markCongested, peer(flagACK, there, start, data)), flagACK, markCongested, 0},
		{"stack", stack(flagACK, start, there+1000, nil), flagACK | flagECE, 0, 0},
		{"stack", stack(flagACK|flagPSH, start, there+1000, data), flagACK | flagPSH | flagECE, markable, 0},
		{"peer", marked(markable, peer(flagACK, there+1000, start+1000, data)), flagACK, markable, 0},
		{"stack", stack(flagACK, start+1000, there+2000, nil), flagACK | flagECE, 0, 0}, // it does not know yet
		{"peer", marked(markable, peer(flagACK|flagCWR, there+2000, start+1000, data)), flagACK | flagCWR, markable, 0},
		{"stack", stack(flagACK|flagFIN, start+1000, there+3000, nil), flagACK | flagFIN, 0, 0},
		{"peer", marked(markCongested, peer(flagACK|flagCWR, there+3000, start+1000, data)), flagACK | flagCWR, markCongested, 0},
		{"stack", stack(flagACK, start+1001, there+4000, nil), flagACK | flagECE, 0, 0}, // of the next one already
	}
	slowed := []turn{ // by marks on the way of the stack's data
		{"stack", stack(flagACK, start, there, make([]byte, 10000)), flagACK, markable, 0},
		{"peer", peer(flagACK, there, start+2000, nil), flagACK, 0, 0xffff},
		{"peer", peer(flagACK|flagECE, there, start+2000, nil), flagACK | flagECE, 0, 0xffff}, // of how much is not known
		{"peer", peer(flagACK|flagECE, there, start+4000, nil), flagACK | flagECE, 0, 4000},   // of 8000
		{"peer", peer(flagACK|flagECE, there, start+6000, nil), flagACK | flagECE, 0, 4500},   // once a flight; a segment more for each window
		{"stack", stack(flagACK, start+4000, there, data), flagACK, 0, 0},                     // repeated
		{"stack", stack(flagACK, start+10000, there, data), flagACK | flagCWR, markable, 0},   // new
		{"stack", stack(flagACK, start+11000, there, data), flagACK, markable, 0},
		{"peer", peer(flagACK|flagECE, there, start+10000, nil), flagACK | flagECE, 0, 5388}, // the last of that flight, before the peer knows
		{"peer", window(1000, peer(flagACK, there, start+12000, nil)), flagACK, 0, 1000},     // the peer has less room
		{"peer", peer(flagACK, there, start+12000, nil), flagACK, 0, 5759},
		{"stack", stack(flagACK, start+12000, there, make([]byte, 10000)), flagACK, markable, 0},
		{"peer", peer(flagACK|flagECE, there, start+22000, nil), flagACK | flagECE, 0, 5000},  // all at once
		{"peer", peer(flagACK|flagECE, there, start+22000, data), flagACK | flagECE, 0, 5000}, // nothing is on its way
		{"stack", stack(flagACK, start+22000, there+1000, data), flagACK | flagCWR, markable, 0},
		{"peer", peer(flagACK|flagECE, there+1000, start+99000, nil), flagACK | flagECE, 0, 5000}, // never sent
		{"peer", peer(flagACK|flagECE, there+1000, start+23000, nil), flagACK | flagECE, 0, 2000}, // the least
		{"stack", stack(flagACK, start+23000, there+1000, data), flagACK | flagCWR, markable, 0},
	}
	requests := []turn{ // each answer is acknowledged at once
		{"stack", stack(flagACK, start, there, make([]byte, 20000)), flagACK, markable, 0},
		{"peer", peer(flagACK|flagECE, there, start+20000, data), flagACK | flagECE, 0, 0xffff},
		{"peer", peer(flagACK|flagECE, there+1000, start+20000, data), flagACK | flagECE, 0, 0xffff},
		{"stack", stack(flagACK, start+20000, there+2000, make([]byte, 20000)), flagACK, markable, 0},
		{"peer", peer(flagACK|flagECE, there+2000, start+40000, data), flagACK | flagECE, 0, 10000},
		{"stack", stack(flagACK, start+40000, there+3000, make([]byte, 10000)), flagACK | flagCWR, markable, 0},
		{"peer", peer(flagACK, there+3000, start+50000, data), flagACK, 0, 11000},
	}
	single := []turn{ // a peer that forgets
		{"stack", stack(flagACK, start, there, make([]byte, 20000)), flagACK, markable, 0},
		{"peer", peer(flagACK|flagECE, there, start+2000, nil), flagACK | flagECE, 0, 0xffff},
		{"peer", peer(flagACK, there, start+4000, nil), flagACK, 0, 0xffff},
		{"peer", peer(flagACK|flagECE, there, start+6000, nil), flagACK | flagECE, 0, 0xffff},
	}
	for name, c := range map[string][][]turn{
		"told, dialed":                     {dialed, told},
		"told, accepted":                   {accepted, told},
		"slowed, dialed":                   {dialed, slowed},
		"slowed, accepted":                 {accepted, slowed},
		"answers, each acknowledged whole": {accepted, requests},
		"a mark that is told once":         {dialed, single},
		"a peer that does not want it": {{
			{"stack", stack(flagSYN, start-1, 0, nil), ask, 0, 0},
			{"peer", peer(flagSYN|flagACK, there-1, start, nil), flagSYN | flagACK, 0, 0},
		}, unwanted},
		"a peer that answers with what it got": {{
			{"stack", stack(flagSYN, start-1, 0, nil), ask, 0, 0},
			{"peer", peer(ask|flagACK, there-1, start, nil), ask | flagACK, 0, 0},
		}, unwanted},
		"a peer that does not ask": {{
			{"peer", peer(flagSYN, there-1, 0, nil), flagSYN, 0, 0},
			{"stack", stack(flagSYN|flagACK, start-1, there, nil), flagSYN | flagACK, 0, 0},
		}, unwanted},
		"a peer that asks by half": {{
			{"peer", peer(flagSYN|flagECE, there-1, 0, nil), flagSYN | flagECE, 0, 0},
			{"stack", stack(flagSYN|flagACK, start-1, there, nil), flagSYN | flagACK, 0, 0},
		}, unwanted},
		"a peer that answers late": {{
			{"stack", stack(flagSYN, start-1, 0, nil), ask, 0, 0},
			{"stack", stack(flagSYN, start-1, 0, nil), flagSYN, 0, 0},
			{"stack", stack(flagSYN, start-1, 0, nil), flagSYN, 0, 0},
			{"peer", peer(flagSYN|flagACK|flagECE, there-1, start, nil), flagSYN | flagACK | flagECE, 0, 0}, // the first one
			{"stack", stack(flagACK, start, there, nil), flagACK, 0, 0},
			{"stack", stack(flagACK, start, there, data), flagACK, 0, 0}, // may not be marked (section 6.1.1)
			{"peer", marked(markCongested, peer(flagACK, there, start+1000, data)), flagACK, markCongested, 0},
			{"stack", stack(flagACK, start+1000, there+1000, nil), flagACK | flagECE, 0, 0},
		}},
		"a connection in place of another": {{
			{"stack", stack(flagSYN, start-90001, 0, nil), ask, 0, 0},
		}, dialed, told},
		"windows with a scale": {{
			{"stack", stack(flagSYN, start-1, 0, nil), ask, 0, 0},
			{"peer", tcpPacket(false, flagSYN|flagACK|flagECE, there-1, start, scale, nil), flagSYN | flagACK | flagECE, 0, 0},
			{"stack", stack(flagACK, start, there, nil), flagACK, 0, 0},
			{"stack", stack(flagACK, start, there, make([]byte, 60000)), flagACK, markable, 0},
			{"peer", peer(flagACK|flagECE, there, start, nil), flagACK | flagECE, 0, 0xffff},
			{"peer", peer(flagACK|flagECE, there, start, nil), flagACK | flagECE, 0, 235}, // 30,000 / 128
		}},
		"a scale that the stack does not agree to": {{ // it answers so when many half open connections wait
			{"peer", tcpPacket(false, ask, there-1, 0, scale, nil), ask, 0, 0},
			{"stack", stack(flagSYN|flagACK, start-1, there, nil), flagSYN | flagACK | flagECE, 0, 0},
			{"peer", peer(flagACK, there, start, nil), flagACK, 0, 0},
			{"stack", stack(flagACK, start, there, make([]byte, 60000)), flagACK, markable, 0},
			{"peer", peer(flagACK|flagECE, there, start, nil), flagACK | flagECE, 0, 0xffff},
			{"peer", peer(flagACK|flagECE, there, start, nil), flagACK | flagECE, 0, 30000},
		}},
		"after the end": {dialed, {
			{"stack", stack(flagRST, start, 0, nil), flagRST, 0, 0},
		}, unwanted},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t)
			n := 0
			for _, turns := range c {
				for _, s := range turns {
					var got []byte
					if s.from == "stack" {
						got = w.out(t, s.packet)
					} else {
						got = w.in(s.packet)
					}
					if len(got) == 0 {
						t.Fatalf("packet %d is kept", n)
					}
					if flags, mark := got[ipv4Header+13], got[1]&markBits; flags != s.flags || mark != s.mark {
						t.Errorf("packet %d has flags %#x and mark %d, not %#x and %d", n, flags, mark, s.flags, s.mark)
					}
					if size := binary.BigEndian.Uint16(got[ipv4Header+14:]); s.window != 0 && size != s.window {
						t.Errorf("packet %d has a window of %d, not %d", n, size, s.window)
					}
					n++
				}
			}
		})
	}
}

// A window that marks have cut grows until it bounds nothing, and then no packet
// that comes is looked at any more.
func TestMarksAreForgotten(t *testing.T) {
	w := newWatched(t)
	w.out(t, tcpPacket(true, flagSYN, 0, 0, nil, nil))
	w.in(tcpPacket(false, flagSYN|flagACK|flagECE, 0, 1, []byte{3, 3, 14, 0}, nil))
	seq := uint32(1)
	send := func() { w.out(t, tcpPacket(true, flagACK, seq, 1, nil, make([]byte, 60000))); seq += 60000 }
	send()
	w.in(tcpPacket(false, flagACK|flagECE, 1, 1, nil, nil))
	w.in(tcpPacket(false, flagACK|flagECE, 1, 1, nil, nil))
	if n := w.watched.Load(); n != 1 {
		t.Fatalf("%d are watched", n)
	}
	for _, s := range w.young {
		s.mark.window = tcpSendMax - 50*1000
	}
	for i := 0; w.watched.Load() > 0; i++ {
		if send(); i > 60*tcpSendMax/60000 {
			t.Fatal("it does not grow by a segment for each window")
		}
		w.in(tcpPacket(false, flagACK, 1, seq, nil, nil))
	}
	if got := w.in(tcpPacket(false, flagACK, 1, seq, nil, nil)); binary.BigEndian.Uint16(got[ipv4Header+14:]) != 0xffff {
		t.Error("there is still a window")
	}
}

// A host that has twice not answered a SYN that asks for marks, but one that does
// not, is not asked for an hour.
func TestDeafHosts(t *testing.T) {
	w := newWatched(t)
	now := time.Now()
	first := func(at time.Time) byte {
		x := tcpHeadersOf(tcpPacket(true, flagSYN, 0, 0, nil, nil))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dial(flowKey{}, w.young[flowKey{}], &x, at)
		return x.flags()
	}
	answer := func(flags byte, at time.Time) {
		x := tcpHeadersOf(tcpPacket(false, flagSYN|flagACK|flags, 0, 1, nil, nil))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answered(w.young[flowKey{}], &x, at)
	}
	late := func() {
		if flags := first(now); flags != ask {
			t.Fatalf("flags %#x", flags)
		}
		if flags := first(now); flags != flagSYN {
			t.Fatalf("repeated with flags %#x", flags)
		}
		answer(0, now)
	}
	w.find(flowKey{}, now) // makes the table
	late()
	first(now)
	answer(0, now) // at once: the SYN before was lost by chance
	late()
	late()
	if flags := first(now); flags != flagSYN {
		t.Errorf("asked with flags %#x", flags)
	}
	if flags := first(now.Add(deafFor)); flags != ask {
		t.Errorf("flags %#x an hour later", flags)
	}
	for i := range uint32(10 * maxDeaf) {
		w.deaf.add([16]byte{byte(i), byte(i >> 8)}, now)
	}
	if n := len(w.deaf); n > maxDeaf {
		t.Errorf("%d hosts are remembered", n)
	}
}

func tcpHeadersOf(p []byte) tcpHeaders {
	end := ipv4Header + int(p[ipv4Header+12]>>4)*4
	return tcpHeaders{p[:ipv4Header], p[ipv4Header:end], len(p) - end}
}

// A peer that takes part slows the stack down by a mark, and the stack tells it of
// its own, over a real connection.
func TestMarksOfAConnection(t *testing.T) {
	const segment = 1340
	data := bytes.Repeat([]byte("0123456789"), 20*segment/10)
	g := openWith(t, ask, timestamps, func(c net.Conn) {
		_, _ = c.Write(data)
		var b [4]byte
		for {
			if _, err := c.Read(b[:]); err != nil {
				return
			}
		}
	})
	if g.opened != flagSYN|flagACK|flagECE {
		t.Fatalf("the answer to a SYN that asks has flags %#x", g.opened)
	}
	flight := func() (cwr, n int) { // until the stack waits
		for quiet := time.Now(); time.Since(quiet) < 200*time.Millisecond; {
			g.mu.Lock()
			got := g.got
			g.got = nil
			g.mu.Unlock()
			for _, p := range got {
				quiet = time.Now()
				if size := len(p) - ipv4Header - int(p[ipv4Header+12]>>4)*4; size == 0 {
					continue
				}
				if n++; p[1]&markBits != markable {
					t.Errorf("data comes with mark %d", p[1]&markBits)
				}
				if p[ipv4Header+13]&flagCWR != 0 {
					if cwr++; n != 1 {
						t.Errorf("packet %d of a flight says that the window is reduced", n)
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		return cwr, n
	}
	cwr, n := flight()
	if cwr != 0 || n < 8 {
		t.Fatalf("%d packets, %d of them with a window reduced", n, cwr)
	}
	base := g.ack
	g.write(flagACK|flagECE, nil)
	g.ack = base + segment
	g.write(flagACK|flagECE, nil)
	if cwr, n := flight(); cwr+n > 0 {
		t.Errorf("%d packets follow a mark", n)
	}
	g.ack = base + uint32(n)*segment
	g.write(flagACK|flagECE, nil)
	if cwr, got := flight(); cwr != 1 || got > n/2+1 || got < 2 {
		t.Errorf("after a mark %d packets follow %d, %d of them say so", got, n, cwr)
	}

	g.send(marked(markCongested, tcpPacket(false, flagACK, g.seq, g.ack, g.options, []byte("a mark"))))
	g.seq += 6
	eventually(t, "echo", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, p := range g.got {
			if p[ipv4Header+13]&flagECE != 0 {
				return true
			}
		}
		return false
	})
}

func FuzzStreams(f *testing.F) {
	for _, p := range [][]byte{
		tcpPacket(true, ask, 1, 1100, timestamps, nil),
		tcpPacket(false, flagACK|flagECE, 1, 1100, sack, []byte("data")),
		tcpPacket(false, flagSYN|flagACK|flagECE, 1, 1100, []byte{3, 3, 255, 4, 2, 3, 1, 9}, nil),
		tcpPacket(true, flagACK|flagFIN, 1, 1100, nil, []byte("data")),
	} {
		f.Add(p, tcpPacket(false, flagACK, 9000, 1, nil, []byte("behind a gap")), uint8(1))
	}
	w := newWatched(f)
	f.Fuzz(func(t *testing.T, a, b []byte, order uint8) {
		for i, p := range [][]byte{a, b, a, b} {
			h, ok := parseIPv4(p)
			if !ok || h.proto != protoTCP || h.length != ipv4Header || h.total != len(p) || len(p) < ipv4Header+tcpHeader {
				return
			}
			if end := ipv4Header + int(p[ipv4Header+12]>>4)*4; end < ipv4Header+tcpHeader || end > len(p) {
				return
			}
			if order>>i&1 == 0 {
				w.in(p)
				continue
			}
			pkt := fromStack4(p)
			w.outgoing(w.to, pkt, 1420)
			pkt.DecRef()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		n := int32(0)
		for _, list := range []map[flowKey]*stream{w.young, w.old} {
			for _, s := range list {
				if s.watched {
					n++
				}
				if s.mark.window > tcpSendMax || s.gap.count > maxBlocks || s.mark.scale > 14 {
					t.Fatalf("%+v", s)
				}
			}
		}
		if n != w.watched.Load() {
			t.Fatalf("%d are watched, %d are counted", n, w.watched.Load())
		}
	})
}

// A flow that was silent is known while there is no room for it among those that
// are not, and forgotten with its end.
func TestMarksInAFullTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		w.out(t, tcpPacket(true, flagSYN, 0, 0, nil, nil))
		w.in(tcpPacket(false, flagSYN|flagACK|flagECE, 0, 1, nil, nil))
		w.out(t, tcpPacket(true, flagACK|flagFIN, 1, 1, nil, nil))
		time.Sleep(streamAge + 1)
		other := func(flags byte, port uint16) {
			p := tcpPacket(true, flags, 1, 1, nil, []byte("data"))
			binary.BigEndian.PutUint16(p[ipv4Header+2:], port)
			w.write(p)
		}
		for i := range uint16(maxStreams) {
			other(flagACK, 2000+i)
		}
		if got := w.in(marked(markCongested, tcpPacket(false, flagACK, 1, 2, nil, []byte("data")))); len(got) == 0 {
			t.Fatal("nothing comes")
		}
		if got := w.out(t, tcpPacket(true, flagACK, 2, 5, nil, nil)); got[ipv4Header+13] != flagACK|flagECE {
			t.Errorf("flags %#x", got[ipv4Header+13])
		}
		w.out(t, tcpPacket(true, flagRST, 2, 5, nil, nil))
		if n := w.watched.Load(); n != 0 {
			t.Errorf("%d are watched", n)
		}
		other(flagRST, 2000) // makes room
		if got := w.out(t, tcpPacket(true, flagACK, 1, 1, nil, []byte("data"))); got[1]&markBits != 0 {
			t.Error("marked by the word of a connection before")
		}
	})
}

// A repeated acknowledgement that reports a mark is one more than the first.
func TestMarksAndWaitingAcks(t *testing.T) {
	w := newWatched(t)
	w.in(tcpPacket(false, ask, 0, 0, nil, nil))
	w.out(t, tcpPacket(true, flagSYN|flagACK, 0, 1, nil, nil))
	w.out(t, tcpPacket(true, flagACK, 1, 1, nil, []byte("data")))
	w.in(tcpPacket(false, flagACK, 1, 5, nil, []byte("data")))
	if got := w.out(t, tcpPacket(true, flagACK, 5, 5, nil, nil)); got != nil {
		t.Fatal("it does not wait")
	}
	w.in(marked(markCongested, tcpPacket(false, flagACK, 9, 5, nil, []byte("behind a gap"))))
	pkt := fromStack4(tcpPacket(true, flagACK, 5, 5, nil, nil))
	defer pkt.DecRef()
	h := tcpHeaders{ip: pkt.NetworkHeader().Slice(), tcp: pkt.TransportHeader().Slice()}
	w.mu.Lock()
	before, ok := w.send(w.to, pkt, &h, 1420)
	w.mu.Unlock()
	if before == nil || !ok || h.flags() != flagACK|flagECE {
		t.Errorf("before: %v, sent: %v, flags %#x", before != nil, ok, h.flags())
	}
}
