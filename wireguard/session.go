package wireguard

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/replay"
)

// How long and for how much a session is good (WireGuard paper, section 6.1).
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = 1<<64 - 1<<13 - 1
	rekeyAfterTime      = 120 * time.Second
	rejectAfterTime     = 180 * time.Second

	// lastMinuteTime is the age of a session at which the side that began it
	// begins the next even if it only listens: later there would be no time for
	// another try.
	lastMinuteTime = rejectAfterTime - keepaliveTimeout - rekeyTimeout
)

// session is one pair of keys. It is derived by a handshake and never renewed:
// the next handshake makes another.
type session struct {
	peer          *Peer
	local, remote uint32 // numbers of the session on this side and on the peer's
	initiator     bool   // this side began the handshake
	born          instant
	sealer        cipher.AEAD
	opener        cipher.AEAD
	sent          atomic.Uint64 // messages sealed so far: the next counter

	// seen is locked by whoever opens messages.
	seenMu sync.Mutex
	seen   replay.Filter
}

// opens reports whether messages may be opened with s.
func (s *session) opens(now instant) bool {
	return s != nil && now.since(s.born) < rejectAfterTime
}

// usable reports whether packets may be sealed with s.
func (s *session) usable(now instant) bool {
	return s.opens(now) && s.sent.Load() < rejectAfterMessages
}

// stale reports whether it is time for the next handshake. Only the side that
// began the last one looks at the clock, so that not both begin the next.
func (s *session) stale(now instant) bool {
	return s.sent.Load() > rekeyAfterMessages || s.initiator && now.since(s.born) > rekeyAfterTime
}

// reserve takes n counters in a row and returns the first.
func (s *session) reserve(n int) (uint64, bool) {
	first := s.sent.Add(uint64(n)) - uint64(n)
	return first, first+uint64(n) < rejectAfterMessages
}

// seal encrypts a message in place. m is the whole message: room for the
// header, the padded packet, and room for the tag.
func (s *session) seal(m []byte, counter uint64) {
	binary.LittleEndian.PutUint32(m, typeData)
	binary.LittleEndian.PutUint64(m[8:], counter)
	packet := m[headerSize : len(m)-tagSize]
	s.sealer.Seal(packet[:0], nonce(m), packet, nil)
	binary.LittleEndian.PutUint32(m[4:], s.remote)
}

// nonce makes the nonce of a data message where it is: four bytes of zeros,
// which take the place of the receiver, and the counter. One beside the message
// would be allocated for each.
func nonce(m []byte) []byte {
	n := m[4:headerSize]
	clear(n[:4])
	return n
}

// open decrypts a message in place and returns its packet; the header is spoilt.
// It reports false if the message is forged or was here before. seenMu is held.
func (s *session) open(m []byte) ([]byte, bool) {
	counter := binary.LittleEndian.Uint64(m[8:])
	sealed := m[headerSize:]
	packet, err := s.opener.Open(sealed[:0], nonce(m), sealed, nil)
	return packet, err == nil && s.seen.ValidateCounter(counter, rejectAfterMessages)
}

// instant is a reading of the clock of a device, in nanoseconds since it was
// made; 0 is never.
type instant int64

func (t instant) since(earlier instant) time.Duration { return time.Duration(t - earlier) }

// moment is an instant that several goroutines read and write.
type moment struct{ v atomic.Int64 }

func (m *moment) load() instant   { return instant(m.v.Load()) }
func (m *moment) store(t instant) { m.v.Store(int64(t)) }

// start sets m unless it is set.
func (m *moment) start(t instant) {
	if m.v.Load() == 0 {
		m.v.Store(int64(t))
	}
}

// stop sets m to never.
func (m *moment) stop() {
	if m.v.Load() != 0 {
		m.v.Store(0)
	}
}
