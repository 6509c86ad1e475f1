// Package relay is a network that misbehaves: a UDP relay between WireGuard
// peers and their server that delays, loses, reorders, duplicates and corrupts
// datagrams, limits their rate, goes dark, and changes its address as a NAT
// does.
//
// Every client gets a socket of its own towards the server, so that each of
// them has an endpoint of its own there. The relay looks at nothing but the
// first byte of a datagram. Only tests import it, and it imports nothing of
// ours.
package relay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// maxClients bounds the sockets towards the server.
	maxClients = 256

	// maxDatagram is the largest that UDP carries, and a byte.
	maxDatagram = 1 << 16

	// socketBuffer, in bytes, takes a burst of segmentation offload while this
	// relay does something else. The kernel may grant less.
	socketBuffer = 4 << 20
)

// Options are what a Relay is from the beginning.
type Options struct {
	Up   Path // from the clients to the server
	Down Path // from the server to the clients

	Seed uint64 // of every decision; 0 is a random one, which goes to the log
	Addr string // where clients find the relay; "" is a free port of loopback

	// Listen opens a UDP socket, *net.UDPConn, on a host and port. Nil opens it on
	// this host; the method ListenPacket of a network namespace, in there.
	Listen func(addr string) (net.PacketConn, error)
}

// Both returns options with the same path in both directions.
func Both(p Path) Options { return Options{Up: p, Down: p} }

// Relay passes datagrams on, more or less. Its methods may be called from
// several goroutines.
type Relay struct {
	server   netip.AddrPort
	listen   func(addr string) (net.PacketConn, error)
	socket   *net.UDPConn
	up, down *line

	stop   chan struct{}
	owned  sync.WaitGroup // two lines, the reader of socket, a reader for each client
	closed sync.Once

	mu      sync.Mutex
	ending  bool
	from    netip.Addr // of the sockets towards the server
	clients map[netip.AddrPort]*client
}

// client is one address that datagrams came from.
type client struct {
	addr   netip.AddrPort
	socket atomic.Pointer[net.UDPConn] // towards the server
}

// New starts a relay to server that ends with t.
func New(t testing.TB, server netip.AddrPort, o Options) *Relay {
	t.Helper()
	for _, p := range []Path{o.Up, o.Down} {
		if err := p.check(); err != nil {
			t.Fatalf("relay: %v", err)
		}
	}
	server = netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	loopback, from := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv4Unspecified()
	if server.Addr().Is6() {
		loopback, from = netip.IPv6Loopback(), netip.IPv6Unspecified()
	}
	if server.Addr().IsLoopback() {
		from = loopback
	}
	if o.Addr == "" {
		o.Addr = netip.AddrPortFrom(loopback, 0).String()
	}
	if o.Listen == nil {
		o.Listen = func(addr string) (net.PacketConn, error) { return net.ListenPacket("udp", addr) }
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	t.Logf("relay to %s with seed %d", server, o.Seed)

	r := &Relay{
		server: server, listen: o.Listen, from: from,
		stop: make(chan struct{}), clients: make(map[netip.AddrPort]*client),
	}
	var err error
	if r.socket, err = r.open(o.Addr); err != nil {
		t.Fatalf("relay: %v", err)
	}
	started := time.Now()
	r.up = newLine(started, o.Up, o.Seed, 0, func(c *client, b []byte) error {
		_, err := c.socket.Load().WriteToUDPAddrPort(b, r.server)
		return err
	})
	r.down = newLine(started, o.Down, o.Seed, 1, func(c *client, b []byte) error {
		_, err := r.socket.WriteToUDPAddrPort(b, c.addr)
		return err
	})
	r.owned.Go(func() { r.up.run(r.stop) })
	r.owned.Go(func() { r.down.run(r.stop) })
	r.owned.Go(r.readClients)
	t.Cleanup(r.Close)
	return r
}

// Addr is where clients find the relay.
func (r *Relay) Addr() netip.AddrPort { return r.socket.LocalAddr().(*net.UDPAddr).AddrPort() }

// Set changes the paths for what comes from now on.
func (r *Relay) Set(up, down Path) error {
	for _, p := range []Path{up, down} {
		if err := p.check(); err != nil {
			return err
		}
	}
	r.up.set(up)
	r.down.set(down)
	return nil
}

// Blackhole drops everything that comes, or ends that. What is already on its
// way arrives.
func (r *Relay) Blackhole(on bool) {
	r.up.darken(on)
	r.down.darken(on)
}

// Counts returns what became of the datagrams of each direction.
func (r *Relay) Counts() (up, down Counts) { return r.up.read(), r.down.read() }

// Rebind gives every client another port towards the server, and from as its
// address unless that is zero. What the server sends to the old one is lost.
func (r *Relay) Rebind(from netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from.IsValid() {
		r.from = from
	}
	for _, c := range r.clients {
		old := c.socket.Load()
		if err := r.connectLocked(c); err != nil {
			return err
		}
		_ = old.Close() // ends its reader
	}
	return nil
}

// Endpoints returns where the server sees the clients.
func (r *Relay) Endpoints() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []netip.AddrPort
	for _, c := range r.clients {
		list = append(list, c.socket.Load().LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return list
}

// Close ends the relay and waits for its goroutines. It may be called again.
func (r *Relay) Close() {
	r.closed.Do(func() {
		close(r.stop)
		_ = r.socket.Close()
		r.mu.Lock()
		r.ending = true
		for _, c := range r.clients {
			_ = c.socket.Load().Close()
		}
		r.mu.Unlock()
	})
	r.owned.Wait()
}

// readClients takes in what the clients send, until the relay ends.
func (r *Relay) readClients() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := r.socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if c := r.client(from); c != nil {
			r.up.put(c, buf[:n])
		} else {
			r.up.refuse()
		}
	}
}

// readServer takes in what the server sends to a client, until socket is closed.
func (r *Relay) readServer(c *client, socket *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) == r.server {
			r.down.put(c, buf[:n])
		}
	}
}

// client returns the client at an address, a new one if need be, or nil if there
// are too many.
func (r *Relay) client(addr netip.AddrPort) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[addr]; c != nil {
		return c
	}
	if len(r.clients) >= maxClients {
		return nil
	}
	c := &client{addr: addr}
	if err := r.connectLocked(c); err != nil {
		return nil
	}
	r.clients[addr] = c
	return c
}

// connectLocked gives c a new socket towards the server.
func (r *Relay) connectLocked(c *client) error {
	if r.ending {
		return net.ErrClosed
	}
	socket, err := r.open(netip.AddrPortFrom(r.from, 0).String())
	if err != nil {
		return err
	}
	c.socket.Store(socket)
	r.owned.Go(func() { r.readServer(c, socket) })
	return nil
}

func (r *Relay) open(addr string) (*net.UDPConn, error) {
	pc, err := r.listen(addr)
	if err != nil {
		return nil, err
	}
	socket, ok := pc.(*net.UDPConn)
	if !ok {
		_ = pc.Close()
		return nil, fmt.Errorf("%T is not a UDP socket", pc)
	}
	_ = socket.SetReadBuffer(socketBuffer)
	_ = socket.SetWriteBuffer(socketBuffer)
	return socket, nil
}
