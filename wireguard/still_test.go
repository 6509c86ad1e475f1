package wireguard

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatecontrol/model"
)

// still is a device without goroutines and sockets. Its messages are carried by
// the test, at instants that the test makes up.
type still struct {
	*Device
	key      model.PrivateKey
	received []string
}

func newStill(t testing.TB) *still {
	t.Helper()
	e := &still{key: model.NewPrivateKey()}
	d, err := New(Options{PrivateKey: e.key, MTU: 1420, Receive: func(_ *Peer, packets [][]byte) {
		for _, p := range packets {
			e.received = append(e.received, string(p))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	d.jobs.stop()
	d.clock.stop()
	d.running.Wait()
	d.jobs.done, d.clock.done = make(chan struct{}), make(chan struct{})
	e.Device = d
	t.Cleanup(func() { _ = d.Close() })
	return e
}

// couple is a peer of each of two devices: each other's.
type couple struct {
	t    testing.TB
	a, b *still
	toB  *Peer // of a
	toA  *Peer // of b
}

// where the messages of these tests come from.
var (
	whereA = endpoint{addr: netip.MustParseAddrPort("192.0.2.1:1001")}
	whereB = endpoint{addr: netip.MustParseAddrPort("192.0.2.2:1002")}
)

// before is an instant at which the clocks of new devices have not begun.
const before = instant(time.Hour)

func newCouple(t testing.TB) *couple {
	t.Helper()
	a, b := newStill(t), newStill(t)
	psk := model.NewPresharedKey()
	toB, errA := a.Add(PeerConfig{PublicKey: b.key.Public(), PresharedKey: psk, Endpoint: whereB.addr})
	toA, errB := b.Add(PeerConfig{PublicKey: a.key.Public(), PresharedKey: psk, Endpoint: whereA.addr})
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return &couple{t: t, a: a, b: b, toB: toB, toA: toA}
}

// back is the same couple seen from the other side.
func (c *couple) back() *couple {
	return &couple{t: c.t, a: c.b, b: c.a, toB: c.toA, toA: c.toB}
}

// initiation has a begin a handshake.
func (c *couple) initiation(now instant) []byte {
	c.t.Helper()
	m, err := c.toB.initiation(now)
	if err != nil || m == nil {
		c.t.Fatalf("no initiation: %v", err)
	}
	return m
}

// answer has b answer it; nil if it does not.
func (c *couple) answer(m []byte, now instant) []byte {
	key, i, err := readStatic(c.b.private, slices.Clone(m[initiationNoise:]))
	if err != nil || c.b.Lookup(key) != c.toA {
		return nil
	}
	return c.toA.answer(m, i, now)
}

// greet carries a handshake through that a begins. b does not know yet that its
// answer has come.
func (c *couple) greet(now instant) {
	c.t.Helper()
	answer := c.answer(c.initiation(now), now)
	if answer == nil {
		c.t.Fatal("the initiation was not answered")
	}
	waiting, ok := c.toB.established(answer, now)
	if !ok {
		c.t.Fatal("the answer was not accepted")
	}
	for _, b := range waiting {
		b.free()
	}
}

// message returns what a sends for a packet.
func (c *couple) message(packet string) []byte {
	c.t.Helper()
	s := c.toB.current.Load()
	counter, ok := s.reserve(1)
	if !ok {
		c.t.Fatal("no counter is left")
	}
	b := c.toB.NewBurst(len(packet))
	copy(b.Next(len(packet)), packet)
	m := slices.Clone(b.buf[:b.used])
	s.seal(m, counter)
	b.free()
	return m
}

// passes reports whether b takes a message that comes at an instant.
func (c *couple) passes(m []byte, now instant) bool {
	r := reader{device: c.b.Device}
	n := len(c.b.received)
	if e := c.b.index.lookup(receiver(m)); e.session.opens(now) {
		r.open(e.session, slices.Clone(m), len(m), &whereA, notECT, now)
		r.flush()
	}
	return len(c.b.received) > n
}

// talk has a send a packet, and b take it.
func (c *couple) talk(now instant) {
	c.t.Helper()
	if !c.passes(c.message("hello"), now) {
		c.t.Fatal("a packet was lost")
	}
}

// asked reports whether d was asked to begin handshakes, and forgets it.
func (e *still) asked() (any bool) {
	for {
		select {
		case p := <-e.jobs.peers:
			p.timers.asked.Store(false)
			any = true
		default:
			return any
		}
	}
}

// numbers returns how many indexes are given out.
func (d *Device) numbers() int {
	d.index.mu.RLock()
	defer d.index.mu.RUnlock()
	return len(d.index.entries)
}

// clocked returns how many peers the clock looks at.
func (d *Device) clocked() int {
	d.clock.mu.Lock()
	defer d.clock.mu.Unlock()
	return len(d.clock.peers)
}
