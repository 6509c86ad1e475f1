package wireguard

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

const (
	// What goes wrong is a trouble once it has troubleCount times, over troubleTime:
	// a peer that tries does so every 5 s. Less is bad luck on a bad network, or an
	// old message or two that somebody repeats.
	troubleCount = 3
	troubleTime  = silenceTimeout

	// troubleMemory is how long a trouble lasts of which nothing is heard any more:
	// the peer has given up, or gone.
	troubleMemory = 10 * time.Minute
)

// The kinds of trouble, those first that explain the ones behind them.
const (
	unsent = iota
	forged
	refused
	unconfirmed
	troubleKinds
)

var troubleCodes = [troubleKinds]model.TroubleCode{
	unsent: model.TroubleUnsent, forged: model.TroubleForged, refused: model.TroubleClock, unconfirmed: model.TroubleUnconfirmed,
}

// troubles are what has gone wrong with a peer since its last handshake. Most
// peers have none.
type troubles struct {
	kinds  [troubleKinds]signs
	stamp  tai64n.Timestamp // the latest that was refused
	reason string           // why nothing was sent
}

// signs are of one kind, in a row: whatever shows that all is well begins anew.
type signs struct {
	count       int
	first, last instant
	passed      uint64 // what progress returned at the first
}

// progress grows when a kind of trouble has ended, besides with a handshake.
func (p *Peer) progress(kind int) uint64 {
	switch kind {
	case unsent:
		return p.txBytes.Load()
	case unconfirmed: // the peer is heard all the time
		return 0
	}
	return p.rxBytes.Load()
}

// sign notes that something went wrong, and returns how often in a row it has.
// mu is held.
func (p *Peer) sign(kind int, now instant) int {
	if p.troubles == nil {
		p.troubles = new(troubles)
	}
	s := &p.troubles.kinds[kind]
	if at := p.progress(kind); s.count == 0 || s.passed != at || now.since(s.last) > troubleMemory {
		*s = signs{first: now, passed: at}
	}
	s.count++
	s.last = now
	return s.count
}

// trouble returns what is in the way of p. mu is held.
func (p *Peer) trouble(now instant) (t model.Trouble) {
	if p.troubles == nil {
		return t
	}
	for kind := range p.troubles.kinds {
		s := &p.troubles.kinds[kind]
		if s.count < troubleCount || s.last.since(s.first) < troubleTime || now.since(s.last) > troubleMemory || s.passed != p.progress(kind) {
			continue
		}
		t.Code, t.Since = troubleCodes[kind], p.device.date(s.first)
		if kind == unsent {
			t.Detail = p.troubles.reason
		}
		break
	}
	return t
}

// refuse notes an initiation that is not later than the last one. It takes a
// later one each time to be a sign, for as long as a trouble is remembered, and
// another than the last one, which networks repeat: whoever repeats what p has
// sent runs out of them, until the next handshake. p may be there with a clock
// that was set back. It must not be believed, but believes this side, so after
// the second it is greeted where it was heard last. mu is held.
func (p *Peer) refuse(stamp tai64n.Timestamp, now instant) {
	if stamp == p.latest {
		return
	}
	if t := p.troubles; t != nil && !stamp.After(t.stamp) && now.since(t.kinds[refused].last) <= troubleMemory {
		return
	}
	n := p.sign(refused, now)
	p.troubles.stamp = stamp
	if n > 1 {
		p.enqueue()
	}
}

// lost notes that the system has not sent what was for p.
func (p *Peer) lost(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	p.device.complain(p, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sign(unsent, p.device.now())
	p.troubles.reason = reason(err)
}

// reason is what the system has said.
func reason(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return err.Error()
}
