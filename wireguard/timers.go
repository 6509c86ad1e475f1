package wireguard

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keepaliveTimeout is after how long a side that only receives sends an
	// empty packet (paper, section 6.5).
	keepaliveTimeout = 10 * time.Second

	// silenceTimeout is after how long without any answer the session is taken
	// for lost.
	silenceTimeout = keepaliveTimeout + rekeyTimeout

	// keysTimeout is when keys without a successor are wiped.
	keysTimeout = 3 * rejectAfterTime

	// maxJitter keeps two sides from greeting each other at the same time, again
	// and again.
	maxJitter = 334 * time.Millisecond

	// absentTimeout is how often a peer that has not answered any of
	// rekeyAttempts is tried for the sake of its keepalive alone. What is sent to
	// it tries at once.
	absentTimeout = 30 * time.Second

	// tickTime is how exactly all of this is kept.
	tickTime = 250 * time.Millisecond
)

// timers are the clocks of one peer. Packets only note the time; a tick looks
// what is due. So a packet costs a few stores, and an idle peer nothing.
type timers struct {
	passed     moment // the last authentic message, either way
	unanswered moment // the first data sent since anything was received
	unheard    moment // the first data received since anything was sent
	data       moment // the last data received
	greeted    moment // the last handshake message sent
	derived    moment // the last session made
	absent     moment // when the peer was given up
	asked      atomic.Bool
	lastMinute atomic.Bool // the session was renewed on receipt, once
	watched    atomic.Bool // the device's clock looks at the peer
}

// sent notes that an authentic message leaves.
func (t *timers) sent(now instant, data bool) {
	t.passed.store(now)
	t.unheard.stop()
	if data {
		t.unanswered.start(now)
	}
}

// received notes that an authentic message came.
func (t *timers) received(now instant, data bool) {
	t.passed.store(now)
	t.unanswered.stop()
	t.absent.stop()
	if data {
		t.data.store(now)
		t.unheard.start(now)
	}
}

// clock is the list of peers whose timers may be due. It stands still while
// there are none.
type clock struct {
	mu    sync.Mutex
	peers map[*Peer]struct{}
	wake  chan struct{}
	done  chan struct{}
}

func newClock() clock {
	return clock{peers: make(map[*Peer]struct{}), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (c *clock) stop() { close(c.done) }

// watch has the clock look at p if there is anything to be done by itself: a
// keepalive.
func (p *Peer) watch() {
	if p.keepalive.Load() > 0 && p.endpoint.Load() != nil {
		p.watchNow()
	}
}

// watchNow has the clock look at p until nothing is left to be done.
func (p *Peer) watchNow() {
	if p.timers.watched.Swap(true) {
		return
	}
	c := &p.device.clock
	c.mu.Lock()
	c.peers[p] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// tick does what is due, until the device is closed.
func (d *Device) tick() {
	ticker := time.NewTicker(tickTime)
	defer ticker.Stop()
	var due []*Peer
	for {
		select {
		case <-d.clock.done:
			return
		case <-ticker.C:
		}
		now := d.wake()
		if d.sockets.Load() == nil {
			continue
		}
		due = due[:0]
		d.clock.mu.Lock()
		for p := range d.clock.peers {
			due = append(due, p)
		}
		d.clock.mu.Unlock()
		for _, p := range due {
			if !p.expire(now) {
				d.unwatch(p)
			}
		}
		if len(due) == 0 { // stand still until there is a peer to look at
			ticker.Stop()
			select {
			case <-d.clock.done:
				return
			case <-d.clock.wake:
			}
			ticker.Reset(tickTime)
		}
		clear(due)
	}
}

// unwatch takes p off the list, and puts it back if something came up
// meanwhile.
func (d *Device) unwatch(p *Peer) {
	d.clock.mu.Lock()
	delete(d.clock.peers, p)
	p.timers.watched.Store(false)
	d.clock.mu.Unlock()
	if !p.removed.Load() && p.busy() {
		p.watchNow()
	}
}

// busy reports whether p has anything that ends by itself.
func (p *Peer) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending != nil || len(p.waiting) > 0 || p.current.Load() != nil || p.next != nil || p.previous != nil ||
		p.keepalive.Load() > 0 && p.endpoint.Load() != nil
}

// expire does what is due for p. It reports whether p has to be looked at
// again.
func (p *Peer) expire(now instant) bool {
	if p.removed.Load() {
		return false
	}
	t := &p.timers
	p.wipeOld(now) // before what may begin a handshake, as after a night asleep
	if p.retry(now) {
		t.absent.start(now)
	}
	if at := t.unanswered.load(); at != 0 && now.since(at) > silenceTimeout+jitter() {
		t.unanswered.stop()
		p.anywhere()
		p.ask(now)
	}
	if at := t.unheard.load(); at != 0 && now.since(at) > keepaliveTimeout {
		again := t.data.load() > at
		p.sendKeepalive(now)
		if again {
			t.unheard.start(now)
		}
	}
	if every := time.Duration(p.keepalive.Load()); every > 0 && p.endpoint.Load() != nil {
		if at := t.passed.load(); at == 0 || now.since(at) >= every {
			p.keep(now)
		}
	}
	return p.busy()
}

// wipeOld drops keys that have had no successor for too long.
func (p *Peer) wipeOld(now instant) {
	old := func() bool { at := p.timers.derived.load(); return at != 0 && now.since(at) > keysTimeout }
	if !old() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old() { // no handshake was ended meanwhile
		p.timers.derived.stop()
		p.wipe()
	}
}

// keep sends the persistent keepalive. Where there is no session, that means a
// handshake; for one who does not answer, seldom.
func (p *Peer) keep(now instant) {
	if at := p.timers.absent.load(); at != 0 {
		if now.since(at) < absentTimeout {
			return
		}
		p.timers.absent.store(now)
	}
	p.timers.passed.store(now)
	if p.current.Load().usable(now) {
		p.sendKeepalive(now)
	} else if !p.trying() { // or else retry sees to it, and gives up in the end
		p.enqueue()
	}
}

// retry repeats an initiation that was not answered, or that something still
// waits for. It reports whether it has given up.
func (p *Peer) retry(now instant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.timers.greeted.load()
	if p.pending == nil && len(p.waiting) == 0 || at != 0 && now.since(at) < rekeyTimeout+jitter() {
		return false
	}
	if p.attempts > rekeyAttempts || p.timers.absent.load() != 0 {
		p.abandon()
		p.drop()
		return true
	}
	p.anywhere()
	p.enqueue()
	return false
}

// trying reports whether a handshake is being tried.
func (p *Peer) trying() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending != nil || len(p.waiting) > 0
}

func jitter() time.Duration { return rand.N(maxJitter) }
