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
//
// While packets of many flows of the peer are being delivered, it also holds the
// acknowledgements that they cause. Who delivers sends them when it is done.
type gather struct {
	some    atomic.Bool // waiting is not empty, or may get something that is not worth waiting for
	mu      sync.Mutex
	waiting []*Burst // of one packet each, in small buffers
	led     bool     // somebody lets others run, and then sends what waits
	held    int      // of those who deliver and then send what waits
}

// maxGather bounds the packets that wait.
const maxGather = burstPackets

// SendSoon sends like Send, together with what other goroutines have for the
// same peer at this moment, if b holds one small packet. A packet that is not
// worth waiting for others, such as an acknowledgement, goes with them only if
// they wait already, or if it is caused by one of many that are being delivered.
func (b *Burst) SendSoon(worth bool) {
	g := &b.peer.gather
	if b.count != 1 || len(b.buf) != smallBurst || !worth && !g.some.Load() {
		b.Send()
		return
	}
	p := b.peer
	g.mu.Lock()
	if !worth && len(g.waiting) == 0 && g.held == 0 { // meanwhile
		g.mu.Unlock()
		b.Send()
		return
	}
	g.waiting = append(g.waiting, b)
	g.some.Store(true)
	full := len(g.waiting) >= maxGather
	lead := worth && !g.led && !full
	g.led = g.led || lead
	g.mu.Unlock()
	switch {
	case lead:
		runtime.Gosched()
	case !full:
		return // another sends this one as well
	}
	p.sendGathered()
}

// hold keeps what is not worth waiting for others, until release.
func (g *gather) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held++
	g.some.Store(true)
}

// releaseGathered ends a hold and sends what waits.
func (p *Peer) releaseGathered() {
	g := &p.gather
	g.mu.Lock()
	g.held--
	g.some.Store(len(g.waiting) > 0 || g.held > 0)
	g.mu.Unlock()
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
	g.led = false
	g.some.Store(rest > 0 || g.held > 0)
	return n
}
