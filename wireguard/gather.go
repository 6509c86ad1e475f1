package wireguard

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// gather holds small packets of several goroutines to one peer, which then
// leave in one call of the system. There is no timer and no other goroutine:
// whoever comes first lets those run that are ready to, and then sends for all.
// On an idle machine nobody is, and the packet leaves at once; on a busy one
// dozens of requests share what a call costs, here and at the peer.
type gather struct {
	some    atomic.Bool // waiting is not empty
	mu      sync.Mutex
	waiting []*Burst // of one packet each, in small buffers
}

// maxGather bounds the packets that wait.
const maxGather = burstPackets

// SendSoon sends like Send, together with what other goroutines have for the
// same peer at this moment, if b holds one small packet. A packet that is not
// worth waiting for others, such as an acknowledgement, goes with them only if
// they wait already.
func (b *Burst) SendSoon(worth bool) {
	g := &b.peer.gather
	if b.count != 1 || len(b.buf) != smallBurst || !worth && !g.some.Load() {
		b.Send()
		return
	}
	p := b.peer
	g.mu.Lock()
	g.waiting = append(g.waiting, b)
	n := len(g.waiting)
	g.some.Store(true)
	g.mu.Unlock()
	switch {
	case n == 1:
		runtime.Gosched()
	case n < maxGather:
		return // whoever came first sends this one as well
	}
	p.sendGathered()
}

// sendGathered sends what waits.
func (p *Peer) sendGathered() {
	var all [maxGather]*Burst
	n := p.gather.take(all[:])
	switch n {
	case 0:
		return
	case 1:
		all[0].send()
		return
	}
	b := p.NewBurst(MaxBurst)
	for _, one := range all[:n] {
		packet := one.buf[headerSize : one.used-tagSize]
		room := b.Next(len(packet))
		if room == nil {
			b.send()
			b = p.NewBurst(MaxBurst)
			room = b.Next(len(packet))
		}
		copy(room, packet)
		one.free()
	}
	b.send()
}

// take moves what waits into to, as much as there is room for.
func (g *gather) take(to []*Burst) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := copy(to, g.waiting)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	g.some.Store(rest > 0)
	return n
}
