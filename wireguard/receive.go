package wireguard

import (
	"errors"
	"net"
)

// readSize is what one read of the socket brings at most: the largest datagram,
// or several that the system has joined.
const readSize = 64 << 10

// receive reads one socket until it is closed.
func (d *Device) receive(s *socket) {
	r := reader{device: d, buf: make([]byte, readSize)}
	for {
		n, segment, from, err := s.receive(r.buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.log.Error("the UDP socket of the tunnel failed", "err", err)
			}
			return
		}
		d.gate.RLock()
		r.split(r.buf[:n], segment, &from)
		d.gate.RUnlock()
	}
}

// reader is the state of one receiving goroutine.
type reader struct {
	device  *Device
	buf     []byte
	packets [][]byte // of one session
}

// split handles messages of one sender. Data messages of one session, which
// mostly come in a row, are handled together.
func (r *reader) split(messages []byte, segment int, from *endpoint) {
	d := r.device
	defer d.survive()
	now := d.now()
	var (
		session *session
		first   int // of the row that is being collected
	)
	flush := func(end int) {
		if session != nil {
			r.open(session, messages[first:end], segment, from, now)
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

// open decrypts data messages of one session and delivers what is in them.
func (r *reader) open(s *session, messages []byte, segment int, from *endpoint, now instant) {
	p := s.peer
	size := r.decrypt(s, messages, segment)
	if size == 0 || p.removed.Load() {
		return
	}
	p.heard(from)
	p.rxBytes.Add(uint64(size))
	p.timers.received(now, len(r.packets) > 0)
	if p.current.Load() != s {
		p.confirm(s)
	} else if s.initiator && now.since(s.born) > lastMinuteTime && p.timers.lastMinute.CompareAndSwap(false, true) {
		p.ask(now)
	}
	if len(r.packets) > 0 {
		p.rxPackets.Add(uint64(len(r.packets)))
		r.device.deliver(p, r.packets)
	}
}

// decrypt puts the packets in messages into r.packets, and returns the size of
// the messages that are authentic and new.
func (r *reader) decrypt(s *session, messages []byte, segment int) (size int) {
	s.seenMu.Lock()
	defer s.seenMu.Unlock()
	r.packets = r.packets[:0]
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
