package wireguard

import (
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

// host is a system that a test puts to sleep and whose time of day it sets.
type host struct{ slept, ahead atomic.Int64 }

func (h *host) clocks(o *Options) {
	o.asleep = func() time.Duration { return time.Hour + time.Duration(h.slept.Load()) } // it slept before, too
	o.wall = func() time.Time { return time.Now().Add(time.Duration(h.slept.Load() + h.ahead.Load())) }
}

func (h *host) sleep(d time.Duration) { h.slept.Add(int64(d)) }

// set moves the time of day.
func (h *host) set(d time.Duration) { h.ahead.Add(int64(d)) }

// soon is within what traffic resumes after a sleep: a tick, a handshake, and
// what a busy machine adds. The other ways take 5 s at least.
const soon = 4 * time.Second

// Traffic resumes at once after a sleep in which keys have expired, whoever
// slept and whoever has something to say.
func TestSleep(t *testing.T) {
	for name, test := range map[string]struct {
		here, there time.Duration // asleep
		answers     bool          // the side that did not begin the session speaks
	}{
		"both, keys are too old":        {200 * time.Second, 200 * time.Second, false},
		"both, the other side speaks":   {200 * time.Second, 200 * time.Second, true},
		"both, keys are gone":           {time.Hour, time.Hour, false},
		"both, a short sleep":           {time.Minute, time.Minute, false},
		"a client, and then it speaks":  {200 * time.Second, 0, false},
		"a server, and then it answers": {0, 8 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hosts [2]host
			a, b := newEnd(t, hosts[0].clocks).open(t), newEnd(t, hosts[1].clocks).open(t)
			psk := model.NewPresharedKey()
			toB, toA := a.knows(t, b, psk, true), b.knows(t, a, psk, false)
			send(toB, []byte("before"))
			eventually(t, "session", func() bool { return b.has([]byte("before")) })
			before := toB.current.Load()

			hosts[0].sleep(test.here)
			hosts[1].sleep(test.there)
			woke := time.Now()
			eventually(t, "tick", func() bool {
				return a.now() > instant(test.here) && b.now() > instant(test.there)
			})
			from, to := toB, b
			if test.answers {
				from, to = toA, a
			}
			send(from, []byte("after"))
			eventually(t, "packet", func() bool { return to.has([]byte("after")) })
			if took := time.Since(woke); took > soon {
				t.Errorf("it took %s", took)
			}
			if toB.current.Load() == before && max(test.here, test.there) > rejectAfterTime {
				t.Error("with keys that are too old")
			}
		})
	}
}

// A peer with a keepalive has a session again after a sleep although nobody
// says anything.
func TestSleepOfTheSilent(t *testing.T) {
	for name, asleep := range map[string]time.Duration{
		"too old": 200 * time.Second, "gone": time.Hour, "still good": time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h host
			a, b := newEnd(t, h.clocks).open(t), newEnd(t, h.clocks).open(t)
			toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, false)
			toB.SetKeepalive(25 * time.Second)
			eventually(t, "session", func() bool { return toA.current.Load() != nil && toB.current.Load() != nil })
			before, sent := toB.current.Load(), toB.txBytes.Load()

			h.sleep(asleep)
			woke := time.Now()
			if asleep < rejectAfterTime {
				eventually(t, "keepalive", func() bool { return toB.txBytes.Load() == sent+overhead })
			} else {
				eventually(t, "session on both sides", func() bool {
					now := toA.current.Load()
					return toB.current.Load() != before && now.usable(b.now())
				})
			}
			if took := time.Since(woke); took > soon {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Nothing is watched, so nobody notices a sleep before the first handshake after
// it. The session must not be as old as the sleep was long.
func TestSleepUnnoticed(t *testing.T) {
	var h host
	a, b := newEnd(t, h.clocks).open(t), newEnd(t, h.clocks).open(t)
	toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, false)
	h.sleep(time.Hour)
	if a.now() > instant(time.Hour) || b.now() > instant(time.Hour) {
		t.Fatal("somebody looked")
	}
	send(toB, []byte("good morning"))
	eventually(t, "packet", func() bool { return b.has([]byte("good morning")) })
	for _, p := range []*Peer{toA, toB} {
		if age := p.device.wake().since(p.current.Load().born); age > time.Minute {
			t.Errorf("the session is %s old", age)
		}
	}
}

// Keys that are too old are wiped beside a handshake that is under way.
func TestWipingLeavesHandshake(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	c.talk(before)
	now := before + instant(time.Hour)
	m := c.initiation(now)
	if !c.toB.expire(now+second/4) || c.toB.current.Load() != nil {
		t.Fatal("the keys are left")
	}
	if _, ok := c.toB.established(c.answer(m, now), now+second/2); !ok {
		t.Fatal("the answer was refused")
	}
	c.talk(now + second)
}

// The time of day is set by a day, to and fro, while a tunnel is in use: no
// packet is lost, keys are renewed, and the last handshake is as long ago as
// it is.
func TestClockIsSet(t *testing.T) {
	var hosts [2]host
	a, b := newEnd(t, hosts[0].clocks).open(t), newEnd(t, hosts[1].clocks).open(t)
	toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, true)
	n := 0
	pass := func() {
		t.Helper()
		n++
		send(toB, []byte("there"))
		eventually(t, "packet", func() bool { return b.count() == n })
		send(toA, []byte("and back"))
		eventually(t, "packet", func() bool { return a.count() == n })
	}
	pass()
	const day = 24 * time.Hour
	for _, step := range []struct{ here, there time.Duration }{{day, 0}, {0, day}, {-2 * day, 0}, {0, -2 * day}, {day, day}} {
		hosts[0].set(step.here)
		hosts[1].set(step.there)
		pass()
		for _, p := range []*Peer{toA, toB} {
			last := p.Status().LastHandshake
			if ago := p.device.wall().Sub(last); ago < -maxSkew || ago > patience {
				t.Errorf("the last handshake was %s ago", ago)
			}
			if again := p.Status().LastHandshake; !again.Equal(last) {
				t.Errorf("it was at %s, and then at %s", last, again)
			}
		}
		before := toB.current.Load()
		age(toB, 121*time.Second)
		age(toA, 121*time.Second)
		pass()
		eventually(t, "new keys", func() bool { s := toB.current.Load(); return s != before && s.initiator && s.born > before.born })
		pass()
	}
}
