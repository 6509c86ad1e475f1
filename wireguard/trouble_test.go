package wireguard

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"gatecontrol/model"
)

// troubleAt returns what is in the way of p at an instant.
func troubleAt(p *Peer, now instant) model.TroubleCode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble(now).Code
}

// setBack has a begin again with a clock that was set back by a day.
func (c *couple) setBack() {
	c.a.wall = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	c.toB.stamped = tai64n.Timestamp{}
}

// every calls f every 5 s, as often as a peer tries, until it reports true or
// has been called limit times. It returns how long that was.
func every(start instant, limit int, f func(now instant) bool) time.Duration {
	for i := range instant(limit) {
		if now := start + i*5*second; f(now) {
			return time.Duration(now - start)
		}
	}
	return -1
}

// The clock of a peer was set back: its handshakes are refused, which is a trouble
// once it has gone on for a while. The peer is greeted, and all is well if it
// hears that.
func TestClockOfPeerSetBack(t *testing.T) {
	c := newCouple(t)
	back := c.back()
	c.greet(before)
	c.talk(before)
	c.setBack()
	begin := before + 200*second
	took := every(begin, 10, func(now instant) bool {
		if c.answer(c.initiation(now), now) != nil {
			t.Fatal("it was not refused")
		}
		if asked := c.b.asked(); asked != (now > begin) {
			t.Fatalf("greeted: %v, after %s", asked, time.Duration(now-begin))
		}
		return troubleAt(c.toA, now) == model.TroubleClock
	})
	if took != troubleTime {
		t.Fatalf("a trouble after %s", took)
	}
	for name, end := range map[string]func(now instant) bool{
		"nobody tries any more": func(now instant) bool { return troubleAt(c.toA, now+instant(troubleMemory)) == "" },
		"it is heard": func(now instant) bool {
			c.toA.rxBytes.Add(overhead)
			defer c.toA.rxBytes.Add(^uint64(overhead - 1))
			return troubleAt(c.toA, now) == ""
		},
		"for another minute": func(now instant) bool { return troubleAt(c.toA, now+60*second) == model.TroubleClock },
	} {
		if !end(begin + instant(took) + second) {
			t.Errorf("%s: wrong", name)
		}
	}
	back.greet(begin + 30*second)
	if troubleAt(c.toA, begin+30*second) != "" || c.toA.troubles != nil {
		t.Error("a trouble after a handshake")
	}
	back.talk(begin + 30*second)
}

// A network that repeats the last message of a peer before its clock is set back
// does not hide that.
func TestClockOfPeerSetBackAfterCopy(t *testing.T) {
	c := newCouple(t)
	m := c.initiation(before)
	again := slices.Clone(m)
	if _, ok := c.toB.established(c.answer(m, before), before); !ok {
		t.Fatal("no session")
	}
	c.talk(before)
	if c.answer(again, before+second) != nil {
		t.Fatal("a copy was taken")
	}
	c.setBack()
	took := every(before+200*second, 10, func(now instant) bool {
		_ = c.answer(c.initiation(now), now)
		return troubleAt(c.toA, now) == model.TroubleClock
	})
	if took != troubleTime {
		t.Fatalf("a trouble after %s", took)
	}
}

// What a peer has sent once, and somebody repeats, is no trouble, and does not
// make this side greet anybody.
func TestRepeatedInitiations(t *testing.T) {
	c := newCouple(t)
	var old [][]byte
	for i := range instant(10) {
		now := before + 120*i*second
		m := c.initiation(now)
		old = append(old, slices.Clone(m))
		answer := c.answer(m, now)
		if _, ok := c.toB.established(answer, now); !ok {
			t.Fatal("no session")
		}
		c.talk(now)
	}
	now := before + 1200*second
	for range 1000 {
		now += second
		if c.answer(old[3], now) != nil || troubleAt(c.toA, now) != "" || c.b.asked() {
			t.Fatal("one message is enough")
		}
	}
	// Several, while the peer is heard between them.
	for _, m := range old[4:] {
		now += 5 * second
		c.toA.rxBytes.Add(overhead)
		if c.answer(m, now) != nil || troubleAt(c.toA, now) != "" || c.b.asked() {
			t.Fatal("a trouble with a peer that is there")
		}
	}
	// Each of them once, however often they are sent.
	c.greet(now + second)
	c.talk(now + second)
	for range 10 {
		for _, m := range old {
			now += 5 * second
			_ = c.answer(m, now)
		}
	}
	if s := c.toA.troubles.kinds[refused]; s.count != len(old) {
		t.Errorf("%d messages were %d signs", len(old), s.count)
	}
}

// The preshared keys differ: whoever begins, both sides get to know.
func TestTroubleOfPresharedKeys(t *testing.T) {
	c := newCouple(t)
	right := c.toA.psk
	c.toA.psk = model.NewPresharedKey()
	var here, there time.Duration
	every(before, 10, func(now instant) bool {
		answer := c.answer(c.initiation(now), now)
		for range 5 { // one sign, however often it comes
			if _, ok := c.toB.established(answer, now); ok {
				t.Fatal("a session")
			}
		}
		if here == 0 && troubleAt(c.toB, now) == model.TroubleForged {
			here = time.Duration(now - before)
		}
		if there == 0 && troubleAt(c.toA, now) == model.TroubleUnconfirmed {
			there = time.Duration(now - before)
		}
		return false
	})
	if here != troubleTime || there != troubleTime+rekeyTimeout {
		t.Errorf("the side that begins knows after %s, the other after %s", here, there)
	}
	c.toA.psk = right
	now := before + 60*second
	c.greet(now)
	if troubleAt(c.toA, now) != model.TroubleUnconfirmed {
		t.Error("it ends before the peer has confirmed the session")
	}
	c.talk(now)
	if c.toA.troubles != nil || c.toB.troubles != nil {
		t.Error("a trouble after a handshake")
	}
}

// Answers that get lost now and then are no trouble.
func TestLostAnswers(t *testing.T) {
	c := newCouple(t)
	for i := range instant(20) {
		now := before + 120*i*second
		_ = c.answer(c.initiation(now), now)
		_ = c.answer(c.initiation(now+6*second), now+6*second)
		c.greet(now + 12*second)
		if troubleAt(c.toA, now+12*second) != "" {
			t.Fatal("a trouble")
		}
		c.talk(now + 12*second)
	}
}

// A peer of another make whose clock is behind what it was. Where it is known it
// is greeted, and takes that; from elsewhere it is not heard, which is a trouble
// until it is known where it is.
func TestForeignClockSetBack(t *testing.T) {
	for name, moved := range map[string]bool{"in its place": false, "elsewhere": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newEnd(t).open(t)
			c := newClient(t, netip.MustParseAddr("127.0.0.1"), a)
			p, err := a.Add(PeerConfig{PublicKey: c.key.Public()})
			if err != nil {
				t.Fatal(err)
			}
			c.stamped = stampOf(time.Now().Add(24 * time.Hour))
			if c.greet(t, a, time.Second, 5) == 0 {
				t.Fatal("no session with the clock of tomorrow")
			}
			if _, err := c.conn.Write(c.sealer([]byte("here I am......."))); err != nil {
				t.Fatal(err)
			}
			eventually(t, "session", func() bool { return a.count() == 1 })
			port := p.Status().Endpoint.Port()
			if err := c.conn.Close(); err != nil {
				t.Fatal(err)
			}
			if moved {
				port = freePort(t)
			}
			age(p, time.Minute) // so that the handshake was not a moment ago
			tun, d := foreign(t, c.key, a, model.PrivateKey{}, port)
			began := time.Now()
			ping := tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
			tun.Outbound <- ping
			if moved {
				eventually(t, "trouble", func() bool { return p.Status().Trouble.Code == model.TroubleClock })
				if a.has(ping) {
					t.Fatal("it was heard")
				}
				p.SetEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			}
			eventually(t, "packet", func() bool { return a.has(ping) })
			if trouble := p.Status().Trouble; trouble.Code != "" {
				t.Errorf("all is well, but for %v", trouble)
			}
			t.Logf("heard after %s, %d bytes", time.Since(began).Round(time.Millisecond), foreignCounter(t, d, "tx_bytes"))
		})
	}
}
