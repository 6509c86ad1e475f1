package wireguard

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"gatecontrol/model"
)

// fuzzed is a device with a session, a handshake that waits, and what a peer
// would send it.
func fuzzed(f *testing.F) (c *couple, seeds [][]byte) {
	c = newCouple(f)
	now := c.b.now()
	seeds = append(seeds, c.initiation(now))
	c.greet(now + 10*second)
	c.talk(now + 10*second)
	seeds = append(seeds, c.answer(c.initiation(now+20*second), now+20*second))
	c.back().initiation(now + 30*second)
	for i, p := range []string{"", "sixteen bytes...", string(make([]byte, 1420))} {
		m := c.message(p)
		seeds = append(seeds, m, bytes.Repeat(m, i+2))
	}
	cookie := binary.LittleEndian.AppendUint32(nil, typeCookie)
	cookie = binary.LittleEndian.AppendUint32(cookie, c.toA.pending.local)
	seeds = append(seeds, append(cookie, make([]byte, cookieSize-8)...), nil, make([]byte, 31))
	return c, seeds
}

func FuzzSplit(f *testing.F) {
	c, seeds := fuzzed(f)
	for _, m := range seeds {
		f.Add(m, uint16(len(m)))
		f.Add(m, uint16(overhead))
		f.Add(m, uint16(0))
	}
	known := len(c.b.received)
	r := reader{device: c.b.Device}
	f.Fuzz(func(t *testing.T, data []byte, segment uint16) {
		r.split(slices.Clone(data), int(segment)+1, &whereA, uint8(segment)&markBits)
		r.flush()
		if c.b.Panics() != 0 {
			t.Fatal("a message made the device fail")
		}
		for len(c.b.jobs.messages) > 0 {
			m := <-c.b.jobs.messages
			c.b.jobs.waiting[m.slot].Add(-1)
		}
		for i := range c.b.jobs.waiting {
			if c.b.jobs.waiting[i].Load() != 0 {
				t.Fatal("a message is counted that does not wait")
			}
		}
		for _, p := range c.b.received[known:] {
			if p != "sixteen bytes..." && p != string(make([]byte, 1420)) {
				t.Fatalf("nobody has sent %q", p)
			}
		}
		known = len(c.b.received)
	})
}

func FuzzHandle(f *testing.F) {
	c, seeds := fuzzed(f)
	for _, m := range seeds {
		f.Add(m, false)
		f.Add(m, true)
	}
	key := c.b.key.Public()
	f.Fuzz(func(t *testing.T, data []byte, loaded bool) {
		m := slices.Clone(data)
		switch messageType(m) {
		case typeInitiation, typeResponse:
			sign(key, m)
		case typeCookie:
		default:
			return
		}
		c.b.jobs.loaded.stop()
		if loaded {
			c.b.jobs.loaded.store(c.b.now())
		}
		before := c.toA.next
		c.b.handle(m, &whereA)
		if c.b.Panics() != 0 {
			t.Fatal("a message made the device fail")
		}
		if n := c.b.numbers(); n > 4 {
			t.Fatalf("%d indexes", n)
		}
		if c.toA.next != before && !slices.ContainsFunc(seeds, func(s []byte) bool { return bytes.HasPrefix(s, m[:8+32]) }) {
			t.Fatal("nobody has sent this handshake")
		}
	})
}

// sign gives a handshake message its mac1, so that it gets further.
func sign(to model.PublicKey, m []byte) { copy(m[len(m)-macsSize:], mac1(to, m)) }
