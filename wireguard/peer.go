package wireguard

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// Peer is the other end of one tunnel. Its methods may be called from several
// goroutines.
type Peer struct {
	device *Device
	key    model.PublicKey
	psk    model.PrivateKey

	keepalive atomic.Int64 // time.Duration between empty packets, 0 is off
	endpoint  atomic.Pointer[endpoint]
	current   atomic.Pointer[session] // for sending
	handshook moment                  // when the last handshake was complete

	rxBytes, txBytes, rxPackets, txPackets atomic.Uint64

	timers timers
	gather gather

	removed atomic.Bool
	marks   atomic.Bool // its messages have the marks of their packets, and so it knows of them

	// mu guards what a handshake changes. It is held for handshakes, and not for
	// packets, but for those that the system refuses to send.
	mu       sync.Mutex
	attempts int32            // initiations in a row without an answer
	shared   []byte           // the secret of both static keys, nil until it is needed
	previous *session         // still good for what is under way
	next     *session         // the peer has not confirmed it yet
	pending  *outgoing        // the initiation that waits for its answer
	latest   tai64n.Timestamp // of the peer's initiations
	stamped  tai64n.Timestamp // of this side's
	consumed instant          // when the last initiation was taken
	macs     *wgdevice.CookieGenerator
	waiting  []*Burst // for a session, oldest first
	troubles *troubles
}

// outgoing is a handshake that this side began.
type outgoing struct {
	*initiation
	local  uint32
	forged bool // an answer came that was not authentic
}

// Status is what is known of a peer. Counters are since Add.
type Status struct {
	Endpoint             netip.AddrPort // invalid: not heard yet
	LastHandshake        time.Time      // zero: none
	RxBytes, TxBytes     uint64         // with headers, as the peer's network sees them
	RxPackets, TxPackets uint64         // packets, without handshakes and keepalives
	Stamped              time.Time      // the latest time in initiations of this side; zero: none
	Trouble              model.Trouble  // what has been in the way since the last handshake
}

// Status reads the counters of p. It disturbs no traffic.
func (p *Peer) Status() Status {
	s := Status{
		RxBytes: p.rxBytes.Load(), TxBytes: p.txBytes.Load(),
		RxPackets: p.rxPackets.Load(), TxPackets: p.txPackets.Load(),
	}
	if e := p.endpoint.Load(); e != nil {
		s.Endpoint = e.addr
	}
	if at := p.handshook.load(); at != 0 {
		s.LastHandshake = p.device.date(at)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stamped != (tai64n.Timestamp{}) {
		s.Stamped = stampTime(p.stamped)
	}
	s.Trouble = p.trouble(p.device.now())
	return s
}

// Key returns the public key of p.
func (p *Peer) Key() model.PublicKey { return p.key }

// Keepalive returns the time between empty packets, 0 is off.
func (p *Peer) Keepalive() time.Duration { return time.Duration(p.keepalive.Load()) }

// SetKeepalive changes the time between empty packets, 0 is off.
func (p *Peer) SetKeepalive(every time.Duration) {
	p.keepalive.Store(int64(every))
	p.watch()
}

// SetEndpoint changes where p is reached, until p is heard from elsewhere.
func (p *Peer) SetEndpoint(addr netip.AddrPort) {
	p.endpoint.Store(&endpoint{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())})
	p.timers.absent.stop()
	p.watch()
}

// heard notes where an authentic message came from: that is where answers go.
func (p *Peer) heard(from *endpoint) {
	if e := p.endpoint.Load(); e == nil || *e != *from {
		moved := *from
		p.endpoint.Store(&moved)
	}
}

// anywhere forgets the address of this host that p is answered from: it may be
// the cause of the silence.
func (p *Peer) anywhere() {
	if e := p.endpoint.Load(); e != nil && e.local.IsValid() {
		p.endpoint.CompareAndSwap(e, &endpoint{addr: e.addr}) // unless it was heard meanwhile
	}
}

// forget drops everything that p and this side have agreed on.
func (p *Peer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	p.abandon()
	p.drop()
	p.device.stampAfter(p.stamped)
}

// wipe drops the keys of all sessions. mu is held.
func (p *Peer) wipe() {
	x := &p.device.index
	for _, s := range []*session{p.previous, p.current.Load(), p.next} {
		if s != nil {
			x.remove(s.local)
		}
	}
	p.previous, p.next = nil, nil
	p.current.Store(nil)
}

// abandon gives up the handshake that waits for its answer. mu is held.
func (p *Peer) abandon() {
	if p.pending != nil {
		p.device.index.remove(p.pending.local)
		p.pending = nil
	}
}

// install makes a new session the one in use, if this side began it, or else
// the next, until the peer confirms it by using it. mu is held.
func (p *Peer) install(s *session) {
	x, current := &p.device.index, p.current.Load()
	drop := func(old *session) {
		if old != nil {
			x.remove(old.local)
		}
	}
	drop(p.previous)
	if !s.initiator {
		drop(p.next)
		p.previous, p.next = nil, s
		return
	}
	if p.previous = current; p.next != nil {
		drop(current)
		p.previous, p.next = p.next, nil
	}
	p.current.Store(s)
}

// confirm puts the next session into use, since the peer uses it.
func (p *Peer) confirm(s *session, now instant) {
	p.mu.Lock()
	if p.next != s {
		p.mu.Unlock()
		return
	}
	if p.previous != nil {
		p.device.index.remove(p.previous.local)
	}
	p.previous, p.next = p.current.Load(), nil
	p.current.Store(s)
	p.complete(now)
	flush := p.take()
	p.mu.Unlock()
	p.release(flush)
}
