package wireguard

import (
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

const second = instant(time.Second)

// late is later than any jitter that a timeout may have.
const late = instant(maxJitter) + second/100

func TestRekey(t *testing.T) {
	for name, test := range map[string]struct {
		initiator bool
		age       instant
		asked     bool
	}{
		"initiator, young":   {true, 119 * second, false},
		"initiator, old":     {true, 121 * second, true},
		"responder, old":     {false, 121 * second, false},
		"responder, expired": {false, 181 * second, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCouple(t)
			c.greet(before)
			c.talk(before)
			if !test.initiator {
				c = c.back()
			}
			b := c.toB.NewBurst(4)
			copy(b.Next(4), "data")
			now := before + test.age
			if s := c.toB.current.Load(); s.usable(now) {
				b.seal(s, now)
				b.free()
			} else {
				c.toB.wait(b, now)
			}
			if c.a.asked() != test.asked {
				t.Fatalf("asked for a handshake: %v", !test.asked)
			}
		})
	}
}

func TestRekeyOnReceipt(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	back := c.back()
	back.talk(before + 160*second)
	if c.a.asked() {
		t.Fatal("a handshake was asked for at 160 s")
	}
	back.talk(before + 166*second)
	if !c.a.asked() {
		t.Fatal("no handshake was asked for at 166 s")
	}
	back.talk(before + 167*second)
	if c.a.asked() {
		t.Fatal("a handshake was asked for twice")
	}
	c.talk(before + 170*second)
	if c.b.asked() {
		t.Fatal("the responder asks for a handshake")
	}
}

// What comes late with the keys before does not use up the chance of the keys
// after them.
func TestRekeyOnReceiptIsForCurrentKeys(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	back := c.back()
	old := back.message("old keys")
	c.greet(before + 150*second)
	if !back.passes(old, before+170*second) || c.a.asked() {
		t.Fatal("the old keys are lost or have asked for a handshake")
	}
	c.talk(before + 170*second)
	back.talk(before + (150+166)*second)
	if !c.a.asked() {
		t.Fatal("no handshake before the new keys run out")
	}
}

func TestReject(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before + 179*second)
	m := c.message("too late")
	if c.passes(m, before+180*second) || c.toB.current.Load().usable(before+180*second) {
		t.Fatal("keys are good after 180 s")
	}
	c.greet(before + 200*second)
	s := c.toB.current.Load()
	s.sent.Store(rejectAfterMessages - 2)
	if _, ok := s.reserve(1); !ok {
		t.Fatal("the last counter is refused")
	}
	if _, ok := s.reserve(1); ok || s.usable(before+200*second) {
		t.Fatal("a counter after the last")
	}
}

func TestRekeyAfterMessages(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.toB.current.Load().sent.Store(rekeyAfterMessages)
	b := c.toB.NewBurst(1)
	b.Next(1)
	b.seal(c.toB.current.Load(), before+10*second)
	b.free()
	if !c.a.asked() {
		t.Fatal("no handshake after 2^60 messages")
	}
}

// A handshake is tried for 90 s, and what waits for it is lost then.
func TestGiveUp(t *testing.T) {
	c := newCouple(t)
	b := c.toB.NewBurst(4)
	b.Next(4)
	now := before
	c.toB.wait(b, now)
	c.toB.wait(c.toB.NewBurst(MaxBurst), now)
	if c.a.staged.Load() != 2*smallBurst || c.a.clocked() != 1 {
		t.Fatalf("%d bytes wait, %d peers are watched", c.a.staged.Load(), c.a.clocked())
	}
	tries := 0
	for ; c.toB.timers.absent.load() == 0 && now < before+200*second; now += second / 4 {
		if c.a.asked() {
			c.initiation(now)
			tries++
		}
		c.toB.expire(now)
	}
	if took := time.Duration(now - before); tries != rekeyAttempts+1 || took < 90*time.Second || took > 110*time.Second {
		t.Fatalf("%d tries in %s", tries, took)
	}
	if c.a.staged.Load() != 0 || c.a.numbers() != 0 || c.toB.busy() {
		t.Fatal("something is left of the handshake")
	}
	if c.toB.expire(now + 100*second); c.a.asked() {
		t.Fatal("it tries without a reason")
	}
	again := c.toB.NewBurst(4)
	again.Next(4)
	c.toB.wait(again, now+100*second)
	if !c.a.asked() || c.toB.timers.absent.load() != 0 {
		t.Fatal("new data does not try again")
	}
}

// What waits is not forgotten when its handshake could not be begun.
func TestWaitingAsksAgain(t *testing.T) {
	c := newCouple(t)
	for range maxJobs {
		c.a.jobs.peers <- nil
	}
	b := c.toB.NewBurst(4)
	b.Next(4)
	c.toB.wait(b, before)
	for range maxJobs {
		if p := <-c.a.jobs.peers; p != nil {
			t.Fatal("there was room")
		}
	}
	if !c.toB.expire(before + second/4) {
		t.Fatal("the peer is not watched")
	}
	if !c.a.asked() {
		t.Fatal("no handshake is asked for")
	}
}

func TestSilence(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	at := before + 20*second
	b := c.toB.NewBurst(4)
	b.Next(4)
	b.seal(c.toB.current.Load(), at)
	b.free()
	c.toB.endpoint.Store(&endpoint{addr: whereB.addr, local: whereA.addr.Addr()})
	if c.toB.expire(at + 15*second - 1); c.a.asked() {
		t.Fatal("too early")
	}
	if c.toB.expire(at + 15*second + late); !c.a.asked() {
		t.Fatal("no handshake after 15 s of silence")
	}
	if c.toB.endpoint.Load().local.IsValid() {
		t.Fatal("the source address was kept")
	}
	b = c.toB.NewBurst(4)
	b.Next(4)
	b.seal(c.toB.current.Load(), at+30*second)
	b.free()
	c.back().talk(at + 31*second)
	if c.toB.expire(at + 60*second); c.a.asked() {
		t.Fatal("a handshake though there was an answer")
	}
}

func TestPassiveKeepalive(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	at := before + 20*second
	c.talk(at)
	s := c.toA.current.Load()
	if c.toA.expire(at + 10*second); s.sent.Load() != 0 {
		t.Fatal("too early")
	}
	c.talk(at + 10*second)
	if c.toA.expire(at + 11*second); s.sent.Load() != 1 {
		t.Fatalf("%d messages after 11 s", s.sent.Load())
	}
	if c.toA.expire(at + 21*second); s.sent.Load() != 1 {
		t.Fatal("the second is too early")
	}
	if c.toA.expire(at + 22*second); s.sent.Load() != 2 {
		t.Fatal("no second one, though data came between")
	}
	if c.toA.expire(at + 60*second); s.sent.Load() != 2 {
		t.Fatal("a third one for nothing")
	}
	// A keepalive asks for none.
	back := c.back()
	empty := back.message("")
	back.passes(empty, at+61*second)
	if c.toB.timers.unheard.load() != 0 || c.toB.timers.unanswered.load() != 0 {
		t.Fatal("a keepalive wants an answer")
	}
}

func TestPersistentKeepalive(t *testing.T) {
	c := newCouple(t)
	c.toB.SetKeepalive(25 * time.Second)
	if c.a.clocked() != 1 {
		t.Fatal("the peer is not watched")
	}
	if c.toB.expire(1); !c.a.asked() {
		t.Fatal("the first one does not come at once")
	}
	c.greet(before)
	s := c.toB.current.Load()
	c.toB.timers.received(before, false)
	if c.toB.expire(before + 25*second - 1); s.sent.Load() != 0 {
		t.Fatal("too early")
	}
	if c.toB.expire(before + 25*second); s.sent.Load() != 1 {
		t.Fatal("none after 25 s")
	}
	if c.toB.expire(before + 26*second); s.sent.Load() != 1 {
		t.Fatal("one more after a second")
	}
	c.toB.SetKeepalive(0)
	if c.toB.expire(before + 100*second); s.sent.Load() != 1 {
		t.Fatal("one though it is off")
	}
}

// A peer that was given up is tried seldom for its keepalive, once each time.
func TestAbsent(t *testing.T) {
	c := newCouple(t)
	c.toB.SetKeepalive(10 * time.Second)
	c.toB.timers.absent.store(before)
	c.toB.timers.passed.store(before)
	tries := 0
	for now := before; now < before+125*second; now += second / 4 {
		c.toB.expire(now)
		if c.a.asked() {
			c.initiation(now)
			tries++
		}
	}
	if tries != 4 {
		t.Fatalf("%d tries in two minutes", tries)
	}
	c.toB.SetEndpoint(whereA.addr)
	if c.toB.expire(before + 136*second); !c.a.asked() {
		t.Fatal("another endpoint is not tried")
	}
}

func TestKeysAreWiped(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	c.greet(before + 10*second)
	c.talk(before + 10*second)
	c.greet(before + 20*second)
	if !c.toA.expire(before+20*second+540*second) || c.toA.current.Load() == nil {
		t.Fatal("too early")
	}
	for _, p := range []*Peer{c.toA, c.toB} {
		p.timers.unanswered.stop()
		p.timers.unheard.stop()
		if p.expire(before+20*second+541*second) || p.current.Load() != nil || p.next != nil || p.previous != nil {
			t.Fatal("keys are left")
		}
	}
	if c.a.numbers() != 0 || c.b.numbers() != 0 {
		t.Fatal("indexes are left")
	}
}

// An idle peer leaves the clock.
func TestClockForgets(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	if c.a.clocked() != 1 || c.b.clocked() != 1 {
		t.Fatal("peers with keys are not watched")
	}
	c.toB.forget()
	c.a.unwatch(c.toB)
	if c.a.clocked() != 0 {
		t.Fatal("the peer is watched for nothing")
	}
	c.b.unwatch(c.toA)
	if c.b.clocked() != 1 {
		t.Fatal("a busy peer has left the clock")
	}
	c.b.Remove(c.toA)
	if c.b.clocked() != 0 || c.b.numbers() != 0 {
		t.Fatal("a removed peer has not left")
	}
}

// The clock of the host may be set back; the peer must not notice.
func TestClockSetBack(t *testing.T) {
	c := newCouple(t)
	var last tai64n.Timestamp
	for i := range 3 {
		now := before + instant(i)*10*second
		c.greet(now)
		if !c.toB.stamped.After(last) {
			t.Fatal("a time came twice")
		}
		// As if all this had been a day later.
		last = c.toB.stamped
		last[6]++
		c.toB.stamped, c.toA.latest = last, last
	}
	if x := later(tai64n.Timestamp{9}, tai64n.Timestamp{8}); x != (tai64n.Timestamp{9}) {
		t.Fatal("the clock is not used")
	}
}

func TestLowOrderPeer(t *testing.T) {
	a := newStill(t)
	p, err := a.Add(PeerConfig{PublicKey: model.PublicKey{1}, Endpoint: whereB.addr, Keepalive: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b := p.NewBurst(4)
	b.Next(4)
	now := before
	p.wait(b, now)
	refused := false
	for ; p.timers.absent.load() == 0 && now < before+200*second; now += second / 4 {
		if p.expire(now); a.asked() {
			m, err := p.initiation(now)
			if m != nil {
				t.Fatal("a handshake with a key of low order")
			}
			refused = refused || err != nil
		}
	}
	if !refused || a.staged.Load() != 0 || p.timers.absent.load() == 0 {
		t.Fatal("it was not given up")
	}
}
