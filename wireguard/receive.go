package wireguard

import (
	"errors"
	"net"
	"runtime"
	"slices"
)

const (
	// readSize is what one read of the socket brings at most: the largest
	// datagram, or several that the system has joined.
	readSize = 64 << 10

	// maxReads is how many reads, and readBuffer how many bytes, are delivered
	// together while more is there. Where many flows share a tunnel, one read has a
	// few packets of one of them; only hundreds have enough of each to be joined, and
	// to be acknowledged together. That delays the first by a millisecond or two, and
	// only where a queue that takes longer is behind it.
	maxReads   = 256
	readBuffer = 16 * readSize

	// minHeldRows and minHeldPackets are how many of a peer make it worth holding
	// the acknowledgements that they cause: as many as bulk brings, and requests and
	// answers, which would have to wait, do not. maxHeld is for how many peers at a
	// time.
	minHeldRows    = 2
	minHeldPackets = 32
	maxHeld        = 8
)

// receive reads one socket until it is closed. If it fails, so that there is
// nothing to read any more, others take its place.
func (d *Device) receive(s *socket) {
	r := reader{device: d}
	buf := make([]byte, readBuffer)
	for {
		n, segment, from, err := s.receive(buf[:readSize])
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.reopen(s, err)
			}
			return
		}
		d.gate.RLock()
		r.split(buf[:n], segment, &from, s.mark())
		rest := buf[n:]
		for i := 1; i < maxReads && len(rest) >= readSize && s.busy(); i++ {
			if n, segment, from = s.more(rest[:readSize]); n == 0 {
				break
			}
			r.split(rest[:n], segment, &from, s.mark())
			rest = rest[n:]
		}
		r.flush()
		d.gate.RUnlock()
		r.release()
	}
}

// reader is the state of one receiving goroutine: packets of one peer that are
// to be delivered together.
type reader struct {
	device  *Device
	owner   *Peer
	packets [][]byte
	rows    int     // that are in packets, mostly of one flow each
	held    []*Peer // whose acknowledgements are held
}

// release sends the acknowledgements that were held, once those had their turn
// who make them.
func (r *reader) release() {
	if len(r.held) == 0 {
		return
	}
	runtime.Gosched()
	for _, p := range r.held {
		p.releaseGathered()
	}
	clear(r.held)
	r.held = r.held[:0]
}

// flush delivers what was collected.
func (r *reader) flush() {
	defer r.device.survive()
	packets, owner, rows := r.packets, r.owner, r.rows
	r.packets, r.owner, r.rows = packets[:0], nil, 0
	if len(packets) > 0 {
		owner.rxPackets.Add(uint64(len(packets)))
		if rows >= minHeldRows && len(packets) >= minHeldPackets && len(r.held) < maxHeld && !slices.Contains(r.held, owner) {
			owner.gather.hold()
			r.held = append(r.held, owner)
		}
		r.device.deliver(owner, packets)
	}
}

// split handles messages of one sender, which came with this mark. Data
// messages of one session, which mostly come in a row, are handled together.
func (r *reader) split(messages []byte, segment int, from *endpoint, mark uint8) {
	d := r.device
	defer d.survive()
	now := d.now()
	var (
		session *session
		first   int // of the row that is being collected
	)
	flush := func(end int) {
		if session != nil {
			r.open(session, messages[first:end], segment, from, mark, now)
		}
		session = nil
	}
	for start := 0; start < len(messages); start += segment {
		m := messages[start:min(start+segment, len(messages))]
		switch messageType(m) {
		case typeData:
			n := receiver(m)
			if session != nil && session.local == n {
				continue
			}
			flush(start)
			if e := d.index.lookup(n); e.session.opens(now) {
				session, first = e.session, start
			}
		case typeInitiation, typeResponse, typeCookie:
			flush(start)
			d.jobs.put(m, from)
		default:
			flush(start)
		}
	}
	flush(len(messages))
}

// open decrypts data messages of one session and collects what is in them.
func (r *reader) open(s *session, messages []byte, segment int, from *endpoint, mark uint8, now instant) {
	p := s.peer
	if r.owner != p {
		r.flush()
		r.owner = p
	}
	r.rows++
	had := len(r.packets)
	size := r.decrypt(s, messages, segment)
	if size == 0 || p.removed.Load() {
		r.packets = r.packets[:had]
		return
	}
	if mark != notECT {
		p.marked(mark, r.packets[had:])
	}
	p.heard(from)
	p.rxBytes.Add(uint64(size))
	p.timers.received(now, len(r.packets) > had)
	if p.current.Load() != s {
		p.confirm(s, now)
	} else if s.initiator && now.since(s.born) > lastMinuteTime && p.timers.lastMinute.CompareAndSwap(false, true) {
		p.ask(now)
	}
}

// decrypt adds the packets in messages to r.packets, and returns the size of the
// messages that are authentic and new.
func (r *reader) decrypt(s *session, messages []byte, segment int) (size int) {
	s.seenMu.Lock()
	defer s.seenMu.Unlock()
	for start := 0; start < len(messages); start += segment {
		m := messages[start:min(start+segment, len(messages))]
		packet, ok := s.open(m)
		if !ok {
			continue
		}
		size += len(m)
		if len(packet) > 0 {
			r.packets = append(r.packets, packet)
		}
	}
	return size
}
