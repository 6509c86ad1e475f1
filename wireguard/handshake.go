package wireguard

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
)

const (
	// rekeyTimeout is the time between two initiations, rekeyAttempts how many
	// go without an answer before this side gives up (paper, section 6.4).
	rekeyTimeout  = 5 * time.Second
	rekeyAttempts = 18

	// initiationGap is how far two initiations of one peer are apart at least.
	initiationGap = 20 * time.Millisecond

	// maxMessages bounds the handshake messages that wait. From loadedMessages
	// on, and for loadedTime after it, strangers have to prove their address
	// before they cost more than a hash (paper, section 5.3).
	maxMessages    = 1024
	loadedMessages = maxMessages / 8
	loadedTime     = time.Second

	// maxFromOne is how many of them may be from one address, so that it takes
	// more than a few to keep all others out.
	maxFromOne = loadedMessages

	// maxJobs bounds the handshakes that this side has yet to begin. One that
	// finds no room is asked for again by the next packet or tick.
	maxJobs = 1024
)

// jobs are what costs too much for a goroutine that moves packets: handshakes.
type jobs struct {
	messages chan message
	peers    chan *Peer // to begin a handshake with
	done     chan struct{}
	loaded   moment // when too many messages waited

	// waiting counts the messages by a hash of whom they are from.
	waiting [1024]atomic.Int32
	seed    maphash.Seed
}

// message is a handshake message of a stranger.
type message struct {
	from endpoint
	size int
	slot uint64               // of jobs.waiting
	data [initiationSize]byte // which is the largest
}

func newJobs() jobs {
	return jobs{
		messages: make(chan message, maxMessages), peers: make(chan *Peer, maxJobs), done: make(chan struct{}),
		seed: maphash.MakeSeed(),
	}
}

func (j *jobs) stop() { close(j.done) }

// put queues a message, or loses it if too many wait.
func (j *jobs) put(m []byte, from *endpoint) {
	who := holder(from.addr.Addr()).As16()
	c := message{from: *from, size: len(m), slot: maphash.Bytes(j.seed, who[:]) % uint64(len(j.waiting))}
	waiting := &j.waiting[c.slot]
	if waiting.Add(1) > maxFromOne {
		waiting.Add(-1)
		return
	}
	copy(c.data[:], m)
	select {
	case j.messages <- c:
	default:
		waiting.Add(-1)
	}
}

// work does jobs until the device is closed, its own before those of strangers.
func (d *Device) work() {
	for {
		select {
		case p := <-d.jobs.peers:
			d.begin(p)
			continue
		default:
		}
		select {
		case <-d.jobs.done:
			return
		case p := <-d.jobs.peers:
			d.begin(p)
		case m := <-d.jobs.messages:
			d.jobs.waiting[m.slot].Add(-1)
			d.handle(m.data[:m.size], &m.from)
		}
	}
}

// underLoad reports whether handshakes come faster than they are done.
func (d *Device) underLoad(now instant) bool {
	if len(d.jobs.messages) >= loadedMessages {
		d.jobs.loaded.store(now)
		return true
	}
	at := d.jobs.loaded.load()
	return at != 0 && now.since(at) < loadedTime
}

// handle takes one handshake message.
func (d *Device) handle(m []byte, from *endpoint) {
	defer d.survive()
	kind := messageType(m)
	if kind == typeCookie {
		d.takeCookie(m)
		return
	}
	if !d.cookies.CheckMAC1(m) {
		return
	}
	if d.underLoad(d.now()) {
		where := appendAddress(from)
		if !d.cookies.CheckMAC2(m, where) {
			d.sendCookie(m, where, from)
			return
		}
		if !d.limiter.Allow(holder(from.addr.Addr())) {
			return
		}
	}
	now := d.wake()
	if kind == typeInitiation {
		d.takeInitiation(m, from, now)
	} else {
		d.takeResponse(m, from, now)
	}
}

// appendAddress is what a cookie is good for.
func appendAddress(e *endpoint) []byte {
	return binary.BigEndian.AppendUint16(e.addr.Addr().AsSlice(), e.addr.Port())
}

// holder returns what one stranger has of addresses: on IPv6 a network of 64
// bits, in which each may take any number.
func holder(a netip.Addr) netip.Addr {
	if a.Is6() {
		if network, err := a.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return a
}

func (d *Device) sendCookie(m, where []byte, to *endpoint) {
	reply, err := d.cookies.CreateReply(m, sender(m), where)
	if err != nil {
		return
	}
	b := make([]byte, 0, cookieSize)
	b = binary.LittleEndian.AppendUint32(b, typeCookie)
	b = binary.LittleEndian.AppendUint32(b, reply.Receiver)
	b = append(append(b, reply.Nonce[:]...), reply.Cookie[:]...)
	if s := d.sockets.Load(); s != nil {
		_ = s.send(b, len(b), to) // a stranger that cannot be reached is no news
	}
}

func (d *Device) takeCookie(m []byte) {
	p := d.index.lookup(receiver(m)).peer
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.macs == nil {
		return
	}
	reply := wgdevice.MessageCookieReply{Type: typeCookie, Receiver: receiver(m)}
	copy(reply.Nonce[:], m[8:])
	copy(reply.Cookie[:], m[8+len(reply.Nonce):])
	p.macs.ConsumeReply(&reply)
}

// takeInitiation answers a peer that begins a handshake.
func (d *Device) takeInitiation(m []byte, from *endpoint, now instant) {
	key, i, err := readStatic(d.private, m[initiationNoise:])
	if err != nil {
		return
	}
	p := d.Lookup(key)
	if p == nil {
		return
	}
	answer := p.answer(m, i, now)
	if answer == nil {
		return
	}
	p.heard(from)
	p.rxBytes.Add(uint64(len(m)))
	p.timers.received(now, false)
	p.timers.sent(now, false)
	p.transmit(answer, len(answer), notECT)
}

// answer makes the session and the answer to an initiation. It returns nil if
// the initiation is not to be answered.
func (p *Peer) answer(m []byte, i *initiation, now instant) []byte {
	d := p.device
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed.Load() || p.prepare() != nil {
		return nil
	}
	at, err := i.readTime(p.shared, m[initiationNoise:])
	if err != nil {
		return nil
	}
	if !at.After(p.latest) {
		p.refuse(at, now)
		return nil
	}
	if p.consumed != 0 && now.since(p.consumed) < initiationGap {
		return nil
	}
	s := &session{peer: p, remote: sender(m), born: now}
	b := make([]byte, responseNoise, responseSize)
	if b, s.sealer, s.opener, err = i.respond(b, p.key, &p.psk); err != nil {
		return nil
	}
	p.latest, p.consumed = at, now
	s.local = d.index.add(entry{p, s})
	binary.LittleEndian.PutUint32(b, typeResponse)
	binary.LittleEndian.PutUint32(b[4:], s.local)
	binary.LittleEndian.PutUint32(b[8:], s.remote)
	b = b[:responseSize]
	p.macs.AddMacs(b)
	if p.next != nil {
		p.sign(unconfirmed, now)
	}
	p.install(s)
	p.timers.greeted.store(now)
	p.timers.derived.store(now)
	p.watchNow()
	return b
}

// prepare computes what handshakes with p need, once. mu is held.
func (p *Peer) prepare() (err error) {
	if p.shared == nil {
		p.shared, err = sharedSecret(p.device.private, p.key[:])
	}
	if p.macs == nil {
		p.macs = new(wgdevice.CookieGenerator)
		p.macs.Init(wgdevice.NoisePublicKey(p.key))
	}
	return err
}

// takeResponse ends a handshake that this side began.
func (d *Device) takeResponse(m []byte, from *endpoint, now instant) {
	e := d.index.lookup(receiver(m))
	if e.peer == nil || e.session != nil {
		return
	}
	p := e.peer
	waiting, ok := p.established(m, now)
	if !ok {
		return
	}
	p.heard(from)
	p.rxBytes.Add(uint64(len(m)))
	p.timers.received(now, false)
	if !p.release(waiting) {
		p.sendKeepalive(now) // so that the peer may use the session
	}
}

// established takes the answer to the initiation that waits for one. It
// returns what is to be sent now.
func (p *Peer) established(m []byte, now instant) ([]*Burst, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed.Load() || p.pending == nil || p.pending.local != receiver(m) {
		return nil, false
	}
	s := &session{peer: p, initiator: true, local: p.pending.local, remote: sender(m), born: now}
	var err error
	if s.sealer, s.opener, err = p.pending.finish(p.device.private, &p.psk, m[responseNoise:]); err != nil {
		if !p.pending.forged { // or else one stranger would count for many
			p.pending.forged = true
			p.sign(forged, now)
		}
		return nil, false
	}
	p.device.index.set(s.local, entry{p, s})
	p.pending = nil
	p.install(s)
	p.timers.derived.store(now)
	p.complete(now)
	return p.take(), true
}

// complete notes that a handshake was carried through. One that this side has
// begun as well is not needed then. mu is held.
func (p *Peer) complete(now instant) {
	p.abandon()
	p.attempts = 0
	p.troubles = nil
	p.timers.lastMinute.Store(false)
	p.handshook.store(now)
}

// ask has a handshake begun, unless one was a moment ago.
func (p *Peer) ask(now instant) {
	if at := p.timers.greeted.load(); at != 0 && now.since(at) < rekeyTimeout {
		return
	}
	p.mu.Lock()
	p.attempts = 0
	p.mu.Unlock()
	p.enqueue()
}

func (p *Peer) enqueue() {
	if !p.timers.asked.CompareAndSwap(false, true) {
		return
	}
	select {
	case p.device.jobs.peers <- p:
	default:
		p.timers.asked.Store(false)
	}
}

// begin sends an initiation.
func (d *Device) begin(p *Peer) {
	defer d.survive()
	p.timers.asked.Store(false)
	now := d.wake()
	b, err := p.initiation(now)
	if err != nil {
		d.complain(p, err)
	}
	if b == nil {
		return
	}
	p.timers.sent(now, false)
	p.transmit(b, len(b), notECT)
}

// initiation makes the first message of a handshake. It returns nil if it is
// not the time for one.
func (p *Peer) initiation(now instant) ([]byte, error) {
	d := p.device
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := p.timers.greeted.load(); p.removed.Load() || p.endpoint.Load() == nil || at != 0 && now.since(at) < rekeyTimeout {
		return nil, nil
	}
	p.timers.greeted.store(now)
	p.attempts++
	if err := p.prepare(); err != nil {
		return nil, err
	}
	b := make([]byte, initiationNoise, initiationSize)
	p.stamped = p.nextStamp()
	b, i, err := initiate(b, d.private, p.key, p.shared, p.stamped)
	if err != nil {
		return nil, err
	}
	p.abandon()
	p.pending = &outgoing{initiation: i, local: d.index.add(entry{peer: p})}
	binary.LittleEndian.PutUint32(b, typeInitiation)
	binary.LittleEndian.PutUint32(b[4:], p.pending.local)
	b = b[:initiationSize]
	p.macs.AddMacs(b)
	p.watchNow()
	return b, nil
}
