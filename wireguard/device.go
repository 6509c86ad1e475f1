// Package wireguard is one end of WireGuard tunnels, in this process: the
// protocol over UDP sockets of this host. It knows peers by their keys and
// moves packets; what is in a packet and who may send it where is not its
// business. It imports only model of ours.
//
// A packet passes without a queue and without another goroutine. Who sends one
// writes it into a Burst, where it is sealed in place and leaves with its
// neighbours in one system call. Who reads the socket opens what came in place
// and hands it on. Peers cost no goroutine, and an idle one no timer.
//
// The protocol is that of J. Donenfeld, "WireGuard: Next Generation Kernel
// Network Tunnel" (NDSS 2017, revised 2020), called the paper below. Cookies,
// the replay window and the limit per address are wireguard-go's.
package wireguard

import (
	"crypto/ecdh"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ratelimiter"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// Options are what a Device is for as long as it lives.
type Options struct {
	Log        *slog.Logger // nil: none
	PrivateKey model.PrivateKey
	MTU        int // of packets, bytes: they are padded up to it

	// Receive takes packets that a peer has sent, in the order in which they
	// came. They are authentic; whether the peer may use their source address
	// is not checked. There may be padding behind a packet. packets and what is
	// in them are the caller's again after the return, and may be changed before. It
	// is called from one goroutine per socket, and may send; it must not add or
	// remove peers.
	Receive func(from *Peer, packets [][]byte)

	wall   func() time.Time     // the time of day; nil: the system's
	asleep func() time.Duration // that the system has slept; nil: as it says
}

// Device is this end of the tunnels to all peers. Its methods may be called
// from several goroutines.
type Device struct {
	log     *slog.Logger
	private *ecdh.PrivateKey
	mtu     int
	deliver func(*Peer, [][]byte)
	timeline

	cookies wgdevice.CookieChecker
	limiter ratelimiter.Ratelimiter
	index   index
	jobs    jobs
	clock   clock
	staged  atomic.Int64                     // bytes that wait for a handshake, of all peers
	floor   atomic.Pointer[tai64n.Timestamp] // stamps of initiations are later; nil: none yet
	panics  atomic.Uint64

	complained moment

	// gate is held for reading while packets are delivered, and taken once by
	// Remove: what was under way has passed then.
	gate sync.RWMutex

	mu      sync.RWMutex
	peers   map[model.PublicKey]*Peer
	closed  bool
	opened  instant                 // when the sockets were
	sockets atomic.Pointer[sockets] // nil until Open, and while failed is not
	failed  atomic.Pointer[failure]
	pause   time.Duration  // before the sockets are opened again; for whoever does that
	running sync.WaitGroup // the goroutines of this device
}

// New makes a device without peers and without sockets. Close has to be called
// even if Open is not.
func New(o Options) (*Device, error) {
	private, err := ecdh.X25519().NewPrivateKey(o.PrivateKey[:])
	if err != nil || o.PrivateKey.IsZero() {
		return nil, model.Invalid("privateKey", "the server has no private key")
	}
	d := &Device{
		log: o.Log, private: private, mtu: o.MTU, deliver: o.Receive,
		index: newIndex(), jobs: newJobs(), clock: newClock(),
		pause: firstReopen, peers: make(map[model.PublicKey]*Peer),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.timeline.init(o.wall, o.asleep)
	d.cookies.Init(wgdevice.NoisePublicKey(private.PublicKey().Bytes()))
	d.limiter.Init()
	for range max(1, runtime.GOMAXPROCS(0)/2) { // the other half is for packets
		d.running.Go(d.work)
	}
	d.running.Go(d.tick)
	return d, nil
}

// Open binds the UDP port, any free one if port is 0, on IPv4 and IPv6, and
// lets peers in. Its errors hold that of the system, such as EADDRINUSE, and
// leave the device as it was.
func (d *Device) Open(port uint16) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sockets.Load() != nil || d.failed.Load() != nil {
		return fmt.Errorf("the UDP port is open already")
	}
	return d.openLocked(port)
}

// Port returns the UDP port, 0 while it is not open.
func (d *Device) Port() uint16 {
	if s := d.sockets.Load(); s != nil {
		return s.port()
	}
	return 0
}

// Close ends every session and every goroutine of the device, and waits for
// them. It may be called more than once. It must not be called by Receive.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		d.running.Wait()
		return nil
	}
	d.closed = true
	peers := slices.Collect(maps.Values(d.peers))
	for _, p := range peers {
		p.removed.Store(true) // so that nothing is kept for it from here on
	}
	clear(d.peers)
	s := d.sockets.Load()
	d.mu.Unlock()

	var err error
	if s != nil {
		err = s.close()
	}
	d.jobs.stop()
	d.clock.stop()
	d.running.Wait()
	for _, p := range peers {
		p.forget()
	}
	d.limiter.Close()
	return err
}

// Panics counts packets and handshakes that were lost because their handler
// failed.
func (d *Device) Panics() uint64 { return d.panics.Load() }

// survive is deferred where what a stranger has sent is handled: a failure
// there is counted and reported once, and costs only what it came with.
func (d *Device) survive() {
	if r := recover(); r != nil && d.panics.Add(1) == 1 {
		d.log.Error("a message made the tunnel fail", "panic", r, "stack", stack())
	}
}

// PeerConfig is what a peer begins with.
type PeerConfig struct {
	PublicKey    model.PublicKey
	PresharedKey model.PrivateKey // zero: none
	Endpoint     netip.AddrPort   // zero: learned from the peer
	Keepalive    time.Duration    // between empty packets, 0 is off
}

// Add lets a peer in. One of the same key has to be removed before.
func (d *Device) Add(c PeerConfig) (*Peer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, net.ErrClosed
	case d.peers[c.PublicKey] != nil:
		return nil, model.Conflict("publicKey", "a peer with the key %s is there already", c.PublicKey)
	}
	p := &Peer{device: d, key: c.PublicKey, psk: c.PresharedKey}
	p.keepalive.Store(int64(c.Keepalive))
	if c.Endpoint.IsValid() {
		p.endpoint.Store(&endpoint{addr: netip.AddrPortFrom(c.Endpoint.Addr().Unmap(), c.Endpoint.Port())})
	}
	d.peers[c.PublicKey] = p
	p.watch()
	return p, nil
}

// Remove puts peers out. When it returns, nothing that they have sent is being
// delivered any more, and their sessions are gone.
func (d *Device) Remove(peers ...*Peer) {
	d.mu.Lock()
	for _, p := range peers {
		if d.peers[p.key] == p {
			delete(d.peers, p.key)
		}
		p.removed.Store(true)
	}
	d.mu.Unlock()
	d.Settle()
	for _, p := range peers {
		p.forget() // but not what the other side remembers, should p come back
		d.unwatch(p)
	}
}

// Settle waits until the packets that are being delivered have been. It must
// not be called by Receive.
func (d *Device) Settle() {
	d.gate.Lock()
	//lint:ignore SA2001 only to wait for those who hold it
	d.gate.Unlock()
}

// Lookup returns the peer of a key, nil if there is none.
func (d *Device) Lookup(key model.PublicKey) *Peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peers[key]
}

// Peers returns all peers, in no order.
func (d *Device) Peers() []*Peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.peers))
}
