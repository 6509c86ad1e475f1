package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

// Sizes that hold for every connection. A request head must fit the buffer of
// its connection whole, so the sum of the first two bounds that buffer.
const (
	maxRequestLine = 8 << 10   // beyond it 414; longer targets are an attack or a bug
	maxFieldBlock  = 32 << 10  // all field lines of a head; beyond it 431
	maxFields      = 128       // beyond it 431; browsers send about 20
	maxAnswerHead  = 64 << 10  // backends set more and longer fields than clients do
	maxInterim     = 16        // 1xx answers to one request; a backend that hints and reports needs a few
	maxTrailerSize = 8 << 10   // trailer section of a chunked body
	maxChunkLine   = 1 << 10   // chunk size with its extensions, which nobody uses
	maxDiscard     = 256 << 10 // unread request body that is thrown away to keep a connection
	firstBuffer    = 4 << 10   // buffer of a connection; most heads fit
	pieceSize      = 32 << 10  // bytes moved at once, per direction
	maxUnsent      = 96 << 10  // of an answer in the socket, behind what is under way: enough until more is there
	idlePiece      = 1 << 10   // buffer of a direction on which little happens
	maxInlineBody  = 16 << 10  // request body that travels in one write with its head
	maxIdle        = 256       // kept connections per target: one per busy client on a large page
	maxUpgrades    = 16 << 10  // open WebSockets; each holds two connections and two goroutines
)

// writeBuffer holds one piece and its chunk frame, so that a chunk leaves in
// one write.
const writeBuffer = pieceSize + 64

// limits are the times and counts that tests shorten.
type limits struct {
	handshake   time.Duration // TLS handshake, and the ClientHello within it
	head        time.Duration // a request head, from its first byte, absolute
	idle        time.Duration // between requests, and before the first one
	stall       time.Duration // a client that sends nothing of a body, or takes nothing of an answer
	discard     time.Duration // throwing away the rest of a request body
	dial        time.Duration // connecting to a backend
	patience    time.Duration // silence of a backend after which the client is watched for leaving
	backendIdle time.Duration // an unused backend connection
	rest        time.Duration // one of several backends is passed by after it could not be connected to
	retryPause  time.Duration // between two attempts: a backend that restarts needs a moment
	copying     time.Duration // a copy of a request, from its connection to its answer
	upgradeIdle time.Duration // an upgraded connection on which the client sends nothing
	tarpit      time.Duration // an answer to a bot
	grace       time.Duration // upgrades of a route that is gone
	quicIdle    time.Duration // a QUIC connection from which nothing comes, not even a ping
	goodbye     time.Duration // an HTTP/3 connection that drains, after its last request
	perAddress  int           // connections per client address (IPv6: per /64), and requests in their streams
}

func defaultLimits() limits {
	return limits{
		handshake:   10 * time.Second,
		head:        10 * time.Second,
		idle:        120 * time.Second,
		stall:       60 * time.Second,
		discard:     5 * time.Second,
		dial:        3 * time.Second,
		patience:    time.Second,
		backendIdle: 2 * time.Minute,
		rest:        5 * time.Second,
		retryPause:  250 * time.Millisecond,
		copying:     10 * time.Second,
		upgradeIdle: 24 * time.Hour,
		tarpit:      tarpitTime,
		grace:       30 * time.Second,
		quicIdle:    time.Minute,
		goodbye:     time.Second,
		perAddress:  4096,
	}
}

// census counts open connections: per client address, and in all. Connections
// to backends count towards the total but are never refused here, so a full
// house sheds the newest client rather than the requests of those inside.
type census struct {
	addresses model.Clients
	room      *model.Room

	mu      sync.Mutex
	total   int
	clients map[netip.Addr]*tally
}

// tally is what one client address has open.
type tally struct {
	conns    int          // guarded by census.mu
	requests atomic.Int32 // in streams: HTTP/1.1 has one to a connection

	// What its requests hold of the budgets of those names.
	heldBodies, copiedBodies, encoders, eventEncoders, bodies atomic.Int64

	key netip.Addr
}

// enter admits a connection of addr. It returns nil if there is no room.
func (c *census) enter(addr netip.Addr, l *limits) *tally {
	key := c.addresses.Key(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.clients[key]
	if t != nil && t.conns >= l.perAddress || !c.room.Take(1) {
		return nil
	}
	if t == nil {
		if c.clients == nil {
			c.clients = make(map[netip.Addr]*tally)
		}
		t = &tally{key: key}
		c.clients[key] = t
	}
	c.total++
	t.conns++
	return t
}

// ask admits a request in a stream, which answered counts out again. An address may
// have as many as it may have connections: each can hold a connection to a backend,
// and there are a hundred to a connection of HTTP/2 or HTTP/3.
func (t *tally) ask(l *limits) bool {
	if int(t.requests.Add(1)) <= l.perAddress {
		return true
	}
	t.requests.Add(-1)
	return false
}

func (t *tally) answered() { t.requests.Add(-1) }

func (c *census) leave(addr netip.Addr) {
	key := c.addresses.Key(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	c.room.Give(1)
	t := c.clients[key]
	t.conns--
	c.forgetLocked(t)
}

// forget has a tally go of which nothing is open any more. Copies of requests outlive
// connections, and are the client's until they have gone.
func (c *census) forget(t *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(t)
}

func (c *census) forgetLocked(t *tally) {
	if t.conns == 0 && t.copiedBodies.Load() == 0 && c.clients[t.key] == t {
		delete(c.clients, t.key)
	}
}

// backend adds n connections to backends, or removes them if n is negative.
func (c *census) backend(n int) {
	c.room.Add(n)
	c.mu.Lock()
	c.total += n
	c.mu.Unlock()
}
