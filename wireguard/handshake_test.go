package wireguard

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"

	"gatecontrol/model"
)

func TestSessionsFollowEachOther(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	if c.toA.current.Load() != nil || c.toA.next == nil {
		t.Fatal("the responder uses keys that are not confirmed")
	}
	c.talk(before)
	if c.toA.current.Load() == nil || c.toA.next != nil {
		t.Fatal("the keys are not in use though they were confirmed")
	}
	back := c.back()
	old, theirs := c.message("under way"), back.message("under way")
	c.greet(before + 120*second)
	if !c.passes(old, before+121*second) || !back.passes(theirs, before+121*second) {
		t.Fatal("what was under way is lost")
	}
	if !back.passes(back.message("still the old keys"), before+121*second) {
		t.Fatal("the responder cannot send before the new keys are confirmed")
	}
	c.talk(before + 122*second)
	back.talk(before + 122*second)
	last := back.message("the very old keys")
	for i := range instant(20) {
		c.greet(before + (130+10*i)*second)
		c.talk(before + (130+10*i)*second)
	}
	if back.passes(last, before+150*second) {
		t.Fatal("keys that were replaced twice are good")
	}
	if c.a.numbers() != 2 || c.b.numbers() != 2 {
		t.Fatalf("%d and %d indexes of a current and a previous session", c.a.numbers(), c.b.numbers())
	}
	// Answers that nobody confirms replace each other.
	for i := range instant(5) {
		now := before + (400+10*i)*second
		if c.answer(c.initiation(now), now) == nil {
			t.Fatal("no answer")
		}
	}
	if c.b.numbers() != 2 || c.toA.current.Load() == nil || c.a.numbers() != 3 {
		t.Fatalf("%d and %d indexes after answers that were lost", c.a.numbers(), c.b.numbers())
	}
	c.a.Remove(c.toB)
	c.b.Remove(c.toA)
	if c.a.numbers() != 0 || c.b.numbers() != 0 {
		t.Fatal("indexes of removed peers are left")
	}
}

// Both sides begin at once; whatever order their messages come in, both have
// keys of the same handshake for each direction.
func TestBothBegin(t *testing.T) {
	const (
		initiations = iota // of both are answered first
		oneFirst           // all of one, then the other
	)
	for name, order := range map[string]int{"crossing": initiations, "one after the other": oneFirst} {
		t.Run(name, func(t *testing.T) {
			c := newCouple(t)
			back := c.back()
			fromA, fromB := c.initiation(before), back.initiation(before)
			fromB2 := slices.Clone(fromB)
			answerB := c.answer(fromA, before)
			if order == initiations {
				answerA := back.answer(fromB2, before)
				_, okA := c.toB.established(answerB, before)
				_, okB := back.toB.established(answerA, before)
				if !okA || !okB {
					t.Fatal("an answer was refused")
				}
			} else {
				if _, ok := c.toB.established(answerB, before); !ok {
					t.Fatal("the answer was refused")
				}
				c.talk(before)
				if back.toB.pending != nil {
					t.Fatal("a handshake goes on that nobody needs")
				}
			}
			for range 3 {
				c.talk(before)
				back.talk(before)
			}
		})
	}
}

func TestInitiationReplayed(t *testing.T) {
	c := newCouple(t)
	m := c.initiation(before)
	answer := c.answer(m, before)
	if answer == nil {
		t.Fatal("no answer")
	}
	next := c.toA.next
	if c.answer(m, before+second) != nil || c.toA.next != next {
		t.Fatal("a replayed initiation was answered")
	}
	if _, ok := c.toB.established(answer, before); !ok {
		t.Fatal("the answer was refused")
	}
	if _, ok := c.toB.established(answer, before); ok {
		t.Fatal("a replayed answer was taken")
	}
	older := c.initiation(before + 10*second)
	newer := c.initiation(before + 20*second)
	if c.answer(newer, before+21*second) == nil || c.answer(older, before+22*second) != nil {
		t.Fatal("an initiation older than the last was answered")
	}
	if m := c.initiation(before + 30*second); c.answer(m, before+21*second+instant(initiationGap)/2) != nil {
		t.Fatal("two initiations within 20 ms were answered")
	}
}

func TestForgedAnswer(t *testing.T) {
	c := newCouple(t)
	answer := c.answer(c.initiation(before), before)
	// From 8 on: what is before is not encrypted, but in mac1.
	for at := 8; at < responseSize-macsSize; at++ {
		forged := slices.Clone(answer)
		forged[at] ^= 1
		c.a.takeResponse(forged, &endpoint{addr: netip.MustParseAddrPort("203.0.113.9:9")}, before)
	}
	if c.toB.current.Load() != nil || c.toB.Status().Endpoint != whereB.addr {
		t.Fatal("a forged answer was taken")
	}
	if _, ok := c.toB.established(answer, before); !ok {
		t.Fatal("forged answers have spoiled the handshake")
	}
	c.talk(before)
}

func TestDataReplayedAndForged(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	m := c.message("once")
	if !c.passes(m, before) || c.passes(m, before) {
		t.Fatal("not once")
	}
	elsewhere := endpoint{addr: netip.MustParseAddrPort("203.0.113.9:9")}
	r := reader{device: c.b.Device}
	replay, forged := slices.Clone(m), c.message("forged")
	forged[headerSize] ^= 1
	s := c.toA.current.Load()
	r.open(s, replay, len(replay), &elsewhere, notECT, before)
	r.flush()
	r.open(s, forged, len(forged), &elsewhere, notECT, before)
	r.flush()
	if c.toA.Status().Endpoint != whereA.addr {
		t.Fatal("the endpoint moved for a message that is not authentic or not new")
	}
	moved := c.message("moved")
	r.open(s, moved, len(moved), &elsewhere, notECT, before)
	r.flush()
	if c.toA.Status().Endpoint != elsewhere.addr {
		t.Fatal("the endpoint does not follow the peer")
	}
	// Out of order, but within the window.
	first, second := c.message("first"), c.message("second")
	if !c.passes(second, before) || !c.passes(first, before) || c.passes(second, before) {
		t.Fatal("order")
	}
	far := c.toB.current.Load()
	late := c.message("behind the window")
	far.sent.Add(10000)
	if !c.passes(c.message("ahead"), before) || c.passes(late, before) {
		t.Fatal("window")
	}
	c.b.Remove(c.toA)
	if c.passes(c.message("gone"), before) {
		t.Fatal("a removed peer is heard")
	}
	if r.open(s, c.message("gone"), overhead+16, &whereA, notECT, before); len(c.b.received) != 6 {
		t.Fatalf("%q: a removed peer is heard", c.b.received)
	}
}

// Nothing of a peer that was removed while its handshake was being handled may
// stay.
func TestRemovedMeanwhile(t *testing.T) {
	c := newCouple(t)
	m := c.initiation(before)
	answer := c.answer(slices.Clone(m), before)
	c.a.Remove(c.toB)
	c.b.Remove(c.toA)
	if _, ok := c.toB.established(answer, before); ok {
		t.Fatal("an answer for a removed peer")
	}
	_, i, err := readStatic(c.b.private, m[initiationNoise:])
	if err != nil {
		t.Fatal(err)
	}
	if c.toA.answer(m, i, before+second) != nil {
		t.Fatal("an answer to a removed peer")
	}
	if m, _ := c.toB.initiation(before + 10*second); m != nil {
		t.Fatal("an initiation to a removed peer")
	}
	b := c.toB.NewBurst(4)
	b.Next(4)
	c.toB.wait(b, before+20*second)
	for _, d := range []*still{c.a, c.b} {
		if d.numbers() != 0 || d.clocked() != 0 || d.staged.Load() != 0 {
			t.Fatalf("%d indexes, %d in the clock, %d bytes are left", d.numbers(), d.clocked(), d.staged.Load())
		}
	}
}

// After Close whoever still sends leaves nothing behind.
func TestSendAfterClose(t *testing.T) {
	a := newEnd(t).open(t)
	p := a.knows(t, newEnd(t).open(t), model.PrivateKey{}, true)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		send(p, []byte("too late"))
	}
	p.SetKeepalive(time.Second)
	if n := a.staged.Load(); n != 0 {
		t.Fatalf("%d bytes wait in a closed device", n)
	}
	if _, err := a.Add(PeerConfig{PublicKey: model.NewPrivateKey().Public()}); err == nil {
		t.Fatal("a peer in a closed device")
	}
	if a.Open(0) == nil || a.Close() != nil {
		t.Fatal("a closed device opens, or fails when closed again")
	}
}

func TestWaitingIsBounded(t *testing.T) {
	c := newCouple(t)
	for i := range 3 * maxWaiting {
		b := c.toB.NewBurst(8)
		binary.LittleEndian.PutUint64(b.Next(8), uint64(i))
		c.toB.wait(b, before)
	}
	if len(c.toB.waiting) != maxWaiting || c.a.staged.Load() != maxWaiting*smallBurst {
		t.Fatalf("%d bursts, %d bytes", len(c.toB.waiting), c.a.staged.Load())
	}
	if first := binary.LittleEndian.Uint64(c.toB.waiting[0].buf[headerSize:]); first != 2*maxWaiting {
		t.Fatalf("the oldest is %d", first)
	}
	for range 10 {
		p, err := c.a.Add(PeerConfig{PublicKey: model.NewPrivateKey().Public(), Endpoint: whereB.addr})
		if err != nil {
			t.Fatal(err)
		}
		for range maxWaiting {
			b := p.NewBurst(MaxBurst)
			b.Next(1400)
			b.Next(1400)
			p.wait(b, before)
		}
	}
	if n := c.a.staged.Load(); n > maxWaitingBytes || n < maxWaitingBytes/2 {
		t.Fatalf("%d bytes wait", n)
	}
	c.a.Remove(c.a.Peers()...)
	if n := c.a.staged.Load(); n != 0 {
		t.Fatalf("%d bytes are left", n)
	}
}

// largest is the largest packet that one message can hold.
func TestLargestPacket(t *testing.T) {
	c := newCouple(t)
	b := c.toB.NewBurst(MaxBurst)
	defer b.free()
	for size := 65400; size <= 65600; size++ {
		if room := b.Next(size); room != nil {
			if b.used != int(b.sizes[0]) || b.used > len(b.buf) {
				t.Fatalf("a packet of %d bytes is a message of %d, counted as %d", size, b.used, b.sizes[0])
			}
			b.Undo()
		}
	}
	if b.used != 0 || b.count != 0 {
		t.Fatal("Undo leaves something")
	}
}

// Under load only who has proved to get answers at its address costs more than
// a hash.
func TestCookie(t *testing.T) {
	c := newCouple(t)
	c.b.jobs.loaded.store(c.b.now() + 1000*second)
	m := c.initiation(before)
	c.b.handle(slices.Clone(m), &whereA)
	if c.toA.next != nil {
		t.Fatal("an initiation without a cookie was answered under load")
	}
	where := appendAddress(&whereA)
	reply, err := c.b.cookies.CreateReply(m, sender(m), where)
	if err != nil {
		t.Fatal(err)
	}
	message := func(r *wgdevice.MessageCookieReply) []byte {
		b := binary.LittleEndian.AppendUint32(nil, typeCookie)
		b = binary.LittleEndian.AppendUint32(b, r.Receiver)
		return append(append(b, r.Nonce[:]...), r.Cookie[:]...)
	}
	forged := message(reply)
	forged[40] ^= 1
	c.a.handle(forged, &whereB)
	if m := c.initiation(before + 10*second); !slices.Equal(m[132:], make([]byte, 16)) {
		t.Fatal("a forged cookie was taken")
	}
	m = c.initiation(before + 20*second)
	if reply, err = c.b.cookies.CreateReply(m, sender(m), where); err != nil {
		t.Fatal(err)
	}
	c.a.handle(message(reply), &whereB)
	m = c.initiation(before + 30*second)
	elsewhere := endpoint{addr: netip.MustParseAddrPort("192.0.2.1:1003")}
	c.b.handle(slices.Clone(m), &elsewhere)
	if c.toA.next != nil {
		t.Fatal("a cookie is good at another port")
	}
	c.b.handle(slices.Clone(m), &whereA)
	if c.toA.next == nil {
		t.Fatal("an initiation with its cookie was not answered")
	}
}

func TestHolder(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8:0:1:2:3:4:5": "2001:db8:0:1::", "fe80::1%2": "fe80::",
	} {
		if got := holder(netip.MustParseAddr(from)); got != netip.MustParseAddr(want) {
			t.Errorf("%s is limited as %s", from, got)
		}
	}
}

// A packet handler that fails costs its packets and nothing else.
func TestPanicIsSurvived(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.b.start = time.Now().Add(-time.Duration(before))
	deliver := c.b.deliver
	c.b.deliver = func(*Peer, [][]byte) { panic("a test") }
	r := reader{device: c.b.Device}
	m := c.message("lost")
	r.split(m, len(m), &whereA, notECT)
	r.flush()
	c.b.deliver = deliver
	m = c.message("hello")
	r.split(m, len(m), &whereA, notECT)
	r.flush()
	if c.b.Panics() != 1 || len(c.b.received) != 1 {
		t.Fatalf("%d panics, received %q", c.b.Panics(), c.b.received)
	}
}

func TestPacketsAllocateNothing(t *testing.T) {
	if socketRace {
		t.Skip("pools forget under the race detector")
	}
	c := newCouple(t)
	now := c.a.now()
	c.greet(now)
	c.talk(now)
	c.b.deliver = func(*Peer, [][]byte) {}
	r := reader{device: c.b.Device}
	buf := make([]byte, 8*(64+overhead))
	if n := testing.AllocsPerRun(200, func() {
		b := c.toB.NewBurst(MaxBurst)
		for range 8 {
			b.Next(64)
		}
		b.seal(c.toB.current.Load(), now)
		copy(buf, b.buf[:b.used])
		b.free()
		r.split(buf, 64+overhead, &whereA, notECT)
		r.flush()
	}); n >= 1 {
		t.Fatalf("%.0f allocations for 8 packets there and back", n)
	}
	if c.toA.rxPackets.Load() < 8*200 {
		t.Fatal("packets are lost")
	}
}
