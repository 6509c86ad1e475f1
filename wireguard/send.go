package wireguard

import (
	"math"
	"sync"
)

// Overhead is how much larger a message is than its padded packet, in bytes.
const Overhead = overhead

// MaxBurst is how many bytes of messages leave in one call of the system, and
// so what one Burst is for.
const MaxBurst = maxSendBytes

const (
	// burstSize is the size of a large burst and of the largest message, burstPackets how many packets any
	// burst has at most.
	burstSize    = math.MaxUint16
	burstPackets = maxSegments

	// smallBurst is for a single packet of the usual size. Most of what is small
	// travels alone, and a few of these fit where one large buffer is.
	smallBurst = 2 << 10

	// What waits for a handshake: bursts of one peer, which are mostly single
	// packets that open connections, and bytes of all peers together. Beyond the
	// first the oldest are lost, as on any router, beyond the second the newest.
	maxWaiting      = 64
	maxWaitingBytes = 8 << 20
)

var (
	largeBursts = sync.Pool{New: func() any { return &Burst{buf: make([]byte, burstSize)} }}
	smallBursts = sync.Pool{New: func() any { return &Burst{buf: make([]byte, smallBurst)} }}
)

// Burst is a buffer for packets to one peer, which are sealed and sent
// together. It is for one goroutine, and must not be used after Send.
type Burst struct {
	peer  *Peer
	buf   []byte
	used  int                  // bytes of buf
	sizes [burstPackets]uint16 // of the messages in buf
	marks [burstPackets]uint8  // for congestion, once sealed
	count int
}

// NewBurst returns an empty burst with room for one packet of size bytes, or, if
// size is MaxBurst, for as many as leave together.
func (p *Peer) NewBurst(size int) *Burst {
	var b *Burst
	if size+overhead+padding <= smallBurst {
		b = smallBursts.Get().(*Burst)
	} else {
		b = largeBursts.Get().(*Burst)
	}
	b.peer, b.used, b.count = p, 0, 0
	return b
}

func (b *Burst) free() {
	b.peer = nil
	if len(b.buf) == smallBurst {
		smallBursts.Put(b)
	} else {
		largeBursts.Put(b)
	}
}

// shrunk returns b or, if all of it fits into a small one, that instead.
func (b *Burst) shrunk() *Burst {
	if len(b.buf) == smallBurst || b.used > smallBurst {
		return b
	}
	small := smallBursts.Get().(*Burst)
	small.peer, small.used, small.sizes, small.count = b.peer, b.used, b.sizes, b.count // not sealed yet
	copy(small.buf, b.buf[:b.used])
	b.free()
	return small
}

// Peer returns whom the burst is for.
func (b *Burst) Peer() *Peer { return b.peer }

// Next returns room for a packet of size bytes, to be filled before the next
// call. It returns nil if the burst has no room for it.
func (b *Burst) Next(size int) []byte {
	padded := b.peer.device.padded(size)
	if b.count == burstPackets || b.used+padded+overhead > len(b.buf) {
		return nil
	}
	packet := b.buf[b.used+headerSize:][:padded]
	clear(packet[size:])
	b.sizes[b.count] = uint16(padded + overhead)
	b.count++
	b.used += padded + overhead
	return packet[:size:size]
}

// Undo takes the packet of the last Next back.
func (b *Burst) Undo() {
	if b.count > 0 {
		b.count--
		b.used -= int(b.sizes[b.count])
	}
}

// padded returns the size of a packet with its padding: a multiple of 16 bytes
// that is not larger than the MTU (paper, section 5.4.6).
func (d *Device) padded(size int) int {
	return max(size, min((size+padding-1)&^(padding-1), d.mtu))
}

// Send seals the packets and sends them, or keeps them for a moment where the
// peer has to be greeted first. What cannot be sent is lost, as on any network.
// It waits while the socket has no room.
func (b *Burst) Send() {
	if b.peer.gather.some.Load() {
		b.peer.sendGathered() // which may hold packets of the same flow
	}
	b.send()
}

func (b *Burst) send() {
	p := b.peer
	if b.count == 0 || p.removed.Load() {
		b.free()
		return
	}
	now := p.device.now()
	s := p.current.Load()
	if !s.usable(now) {
		p.wait(b, now)
		return
	}
	b.seal(s, now)
	b.free()
}

// seal sends the packets of b with the keys of s.
func (b *Burst) seal(s *session, now instant) {
	p := b.peer
	counter, ok := s.reserve(b.count)
	if !ok {
		return
	}
	start, marks, marked := 0, p.marks.Load(), uint8(notECT)
	for i, size := range b.sizes[:b.count] {
		m := b.buf[start : start+int(size)]
		b.marks[i] = notECT
		if marks {
			b.marks[i] = markOf(m[headerSize : len(m)-tagSize])
			marked |= b.marks[i]
		}
		s.seal(m, counter+uint64(i))
		start += int(size)
	}
	// Before the packets, so that an answer finds the clocks set.
	keepalive := b.count == 1 && b.sizes[0] == overhead
	p.timers.sent(now, !keepalive)
	if !keepalive {
		p.txPackets.Add(uint64(b.count))
	}
	b.transmit(marked != notECT)
	if s.stale(now) {
		p.ask(now)
	}
}

// transmit sends the messages of b, as many as are of one size, and of one mark
// if any has one, in one call.
func (b *Burst) transmit(marked bool) {
	sizes, marks, buf := b.sizes[:b.count], b.marks[:b.count], b.buf
	for len(sizes) > 0 {
		alike := len(sizes)
		if marked {
			alike = equal(marks)
		}
		n := run(sizes[:alike])
		end := 0
		for _, size := range sizes[:n] {
			end += int(size)
		}
		b.peer.transmit(buf[:end], int(sizes[0]), marks[0])
		buf, sizes, marks = buf[end:], sizes[n:], marks[n:]
	}
}

// equal returns how many of marks are the same.
func equal(marks []uint8) int {
	n := 1
	for n < len(marks) && marks[n] == marks[0] {
		n++
	}
	return n
}

// run returns how many of sizes are the same, counting one behind them that is
// smaller.
func run(sizes []uint16) int {
	n := 1
	for n < len(sizes) && sizes[n] == sizes[0] {
		n++
	}
	if n < len(sizes) && sizes[n] < sizes[0] {
		n++
	}
	return n
}

// transmit sends messages of segment bytes each, the last perhaps shorter, to
// where p was heard last.
func (p *Peer) transmit(messages []byte, segment int, mark uint8) {
	s, to := p.device.sockets.Load(), p.endpoint.Load()
	if s == nil || to == nil {
		return
	}
	if err := s.sendMarked(messages, segment, to, mark); err != nil {
		p.lost(err)
		return
	}
	p.txBytes.Add(uint64(len(messages)))
}

// sendKeepalive sends an empty packet, or begins a handshake, which is as good.
func (p *Peer) sendKeepalive(now instant) {
	s := p.current.Load()
	if !s.usable(now) {
		p.ask(now)
		return
	}
	b := p.NewBurst(0)
	b.Next(0)
	b.seal(s, now)
	b.free()
}

// wait keeps a burst until there is a session, and asks for one.
func (p *Peer) wait(b *Burst, now instant) {
	d := p.device
	if p.endpoint.Load() == nil {
		b.free() // the peer was never here: only it can begin
		return
	}
	b = b.shrunk()
	p.mu.Lock()
	switch s := p.current.Load(); {
	case s.usable(now): // meanwhile
		p.mu.Unlock()
		b.Send()
		return
	case p.removed.Load():
		b.free()
	case d.staged.Add(int64(len(b.buf))) > maxWaitingBytes:
		d.staged.Add(-int64(len(b.buf)))
		b.free()
	default:
		if len(p.waiting) == maxWaiting {
			d.staged.Add(-int64(len(p.waiting[0].buf)))
			p.waiting[0].free()
			p.waiting = append(p.waiting[:0], p.waiting[1:]...)
		}
		p.waiting = append(p.waiting, b)
		p.watchNow()
	}
	p.mu.Unlock()
	p.timers.absent.stop()
	p.ask(now)
}

// take returns what waits for a session. mu is held.
func (p *Peer) take() []*Burst {
	waiting := p.waiting
	p.waiting = nil
	for _, b := range waiting {
		p.device.staged.Add(-int64(len(b.buf)))
	}
	return waiting
}

// drop loses what waits for a session. mu is held.
func (p *Peer) drop() {
	for _, b := range p.take() {
		b.free()
	}
}

// release sends what has waited. It reports whether there was anything.
func (p *Peer) release(waiting []*Burst) bool {
	for _, b := range waiting {
		b.Send()
	}
	return len(waiting) > 0
}
