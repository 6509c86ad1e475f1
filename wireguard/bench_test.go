package wireguard

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/replay"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// row is what leaves in one call.
const row = 45

func fill(b *Burst) {
	for range row {
		b.Next(1420)
	}
}

func BenchmarkSend(b *testing.B) {
	run := func(b *testing.B, p *Peer) {
		b.SetBytes(row * 1420)
		b.ReportAllocs()
		for b.Loop() {
			burst := p.NewBurst(MaxBurst)
			fill(burst)
			burst.Send()
		}
	}
	b.Run("no socket", func(b *testing.B) {
		c := newCouple(b)
		c.greet(c.a.now())
		run(b, c.toB)
	})
	b.Run("loopback", func(b *testing.B) {
		x, y := newEnd(b).open(b), newEnd(b).open(b)
		toY := x.knows(b, y, model.PrivateKey{}, true)
		y.knows(b, x, model.PrivateKey{}, false)
		send(toY, []byte("hello"))
		eventually(b, "session", func() bool { return y.count() == 1 })
		y.Remove(y.Peers()...) // it drops what comes
		run(b, toY)
	})
}

func BenchmarkOpen(b *testing.B) {
	c := newCouple(b)
	now := c.a.now()
	c.greet(now)
	c.talk(now)
	c.b.deliver = func(*Peer, [][]byte) {}
	burst := c.toB.NewBurst(MaxBurst)
	fill(burst)
	from := c.toB.current.Load()
	for i := range row {
		from.seal(burst.buf[i*1452:][:1452], uint64(1000+i))
	}
	messages := slices.Clone(burst.buf[:burst.used])
	buf := make([]byte, len(messages))
	r := reader{device: c.b.Device}
	s := c.toA.current.Load()
	b.SetBytes(row * 1420)
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, messages)
		s.seen = replay.Filter{}
		r.split(buf, 1452, &whereA, notECT)
		r.flush()
	}
	if c.toA.rxPackets.Load() < row {
		b.Fatal("nothing was opened")
	}
}

func BenchmarkHandshake(b *testing.B) {
	b.Run("both sides", func(b *testing.B) {
		c := newCouple(b)
		now := before
		b.ReportAllocs()
		for b.Loop() {
			now += 10 * second
			c.greet(now)
			c.toB.stamped, c.toA.latest = tai64n.Timestamp{}, tai64n.Timestamp{}
		}
	})
	// What a stranger makes this side do.
	for _, loaded := range []bool{false, true} {
		b.Run(fmt.Sprintf("of nobody, under load %v", loaded), func(b *testing.B) {
			server := newEnd(b).open(b)
			if loaded {
				server.jobs.loaded.store(server.now() + instant(time.Hour))
			}
			m := make([]byte, initiationSize)
			m[0], m[8] = typeInitiation, 9
			sign(server.key.Public(), m)
			from := endpoint{addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(b))}
			b.ReportAllocs()
			for b.Loop() {
				server.handle(m, &from)
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	for _, keys := range []bool{false, true} {
		b.Run(fmt.Sprintf("1000 peers, keys %v", keys), func(b *testing.B) {
			d := newStill(b)
			for range 1000 {
				p, err := d.Add(PeerConfig{PublicKey: model.NewPrivateKey().Public(), Endpoint: whereB.addr, Keepalive: time.Hour})
				if err != nil {
					b.Fatal(err)
				}
				p.timers.passed.store(1)
				if keys {
					p.current.Store(&session{peer: p})
					p.timers.unanswered.store(1)
				}
			}
			peers := d.Peers()
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range peers {
					p.expire(2 * second)
				}
			}
		})
	}
}

// BenchmarkPeer measures what a peer holds, with a session and without.
func BenchmarkPeer(b *testing.B) {
	const peers = 1000
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		d := newStill(b)
		keys := make([]model.PrivateKey, peers)
		for i := range keys {
			keys[i] = model.NewPrivateKey()
		}
		start := memory()
		all := make([]*Peer, peers)
		for i, k := range keys {
			all[i], _ = d.Add(PeerConfig{PublicKey: k.Public(), Endpoint: whereB.addr})
		}
		idle := memory()
		for _, p := range all {
			if p.prepare() != nil {
				b.Fatal("no secret")
			}
			i := &initiation{noiseState: initialState, remote: d.private.PublicKey().Bytes()}
			s := &session{peer: p, born: 1}
			var err error
			if _, s.sealer, s.opener, err = i.respond(nil, p.key, &p.psk); err != nil {
				b.Fatal(err)
			}
			s.local = d.index.add(entry{p, s})
			p.install(s)
		}
		b.ReportMetric(float64(idle-start)/peers, "B/peer")
		b.ReportMetric(float64(memory()-start)/peers, "B/peer-with-keys")
		runtime.KeepAlive(all)
	}
}
