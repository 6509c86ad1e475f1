// Package netstack is the tunnel plane: a WireGuard device and a TCP/IP stack
// in this process, without a kernel interface and without privileges.
//
// It owns the WireGuard device, the network stack on the tunnel address
// (gVisor), the hub between the two, and the exit, through which peers reach the
// internet by connections that this host dials. It knows nothing of routes,
// users or HTTP, and imports only model and wireguard of ours.
//
// A packet that a peer sent goes one of three ways, see classify: to this
// server, to another peer, or to the exit. What nobody may send is dropped
// there; what a peer may not reach is refused by the exit.
//
// Configuration changes through Prepare and Commit. Readers on the packet path
// load one immutable table; counts that outlive it hang on a peer's identity.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/model"
	"gatecontrol/wireguard"
)

// MTU bounds: the smallest that every IPv4 host must take (RFC 791 section
// 3.2), that every IPv6 link must have (RFC 8200 section 5), and jumbo frames.
const (
	minMTU  = 576
	minMTU6 = 1280
	maxMTU  = 9000
)

// Options are what a Device is for as long as it lives.
type Options struct {
	Log        *slog.Logger
	PrivateKey model.PrivateKey
	ListenPort uint16       // UDP, 0 is any free one
	Addr       netip.Addr   // this server's tunnel address, IPv4
	Subnet     netip.Prefix // the tunnel subnet, which holds Addr
	MTU        int          // bytes, 576 to 9000; from 1280 on with Addr6

	// Addr6 and Subnet6 are the same for IPv6. Where they are zero, this server
	// has no IPv6 address in the tunnel, and the exit does not carry IPv6.
	Addr6   netip.Addr
	Subnet6 netip.Prefix

	// PublicAddrs are addresses under which this host is reached although no
	// interface has them, such as that of the router before it. They count as
	// addresses of this host.
	PublicAddrs []netip.Addr

	// DialExit opens the connections of the exit, network "tcp", "udp" or "icmp".
	// Every address is judged before it is asked. Nil dials from this host. All but
	// "tcp" are opened, and written to, without waiting. What it returns for "icmp" carries whole
	// ICMP echo messages in datagrams, whose identifier is its local port.
	DialExit func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

	// Room bounds the sockets of the exit together with those of others; nil does not.
	Room *model.Room

	// OnCut, if set, is told by Commit of addresses that their peer has lost, for
	// what users of ListenPacket keep about its sender: a socket that is not
	// connected cannot be cut. It must not call the Device.
	OnCut func(lost func(netip.Addr) bool)
}

// Device is the tunnel of this server. Its methods may be called from several
// goroutines.
type Device struct {
	log *slog.Logger
	self
	port  uint16 // as asked for
	onCut func(lost func(netip.Addr) bool)

	table atomic.Pointer[table]
	hub   *hub
	stack *stack.Stack
	exit  *exit
	wg    *wireguard.Device

	flights flights

	// preparing is set while a Pending is outstanding.
	preparing atomic.Bool

	running atomic.Bool // written under lifeMu

	lifeMu    sync.Mutex // of Start, Commit and Close, one at a time
	closed    bool
	farewells farewells

	listenersMu     sync.RWMutex
	listeners       map[uint16]*listener       // by TCP port
	packetListeners map[uint16]*packetListener // by UDP port
}

// New checks o and builds the device in memory, without peers and without a
// UDP port. Close has to be called even if Start is not.
func New(o Options) (*Device, error) {
	switch {
	case o.PrivateKey.IsZero():
		return nil, model.Invalid("privateKey", "the server has no private key")
	case !o.Addr.Is4():
		return nil, model.Invalid("address", "the tunnel address is not an IPv4 address")
	case !o.Subnet.IsValid() || !o.Subnet.Contains(o.Addr):
		return nil, model.Invalid("subnet", "the tunnel subnet %s does not hold the address %s", o.Subnet, o.Addr)
	case !unicast4(word(o.Addr)):
		return nil, model.Invalid("address", "%s cannot be the address of a host", o.Addr)
	case o.MTU < minMTU || o.MTU > maxMTU:
		return nil, model.Invalid("mtu", "the MTU is to be %d to %d bytes", minMTU, maxMTU)
	}
	if o.Addr6.IsValid() || o.Subnet6.IsValid() {
		switch {
		case !o.Subnet6.IsValid() || !o.Subnet6.Contains(o.Addr6) || !o.Addr6.Is6() || !unicast6(o.Addr6):
			return nil, model.Invalid("subnet6", "the tunnel subnet %s does not hold the IPv6 address %s", o.Subnet6, o.Addr6)
		case o.MTU < minMTU6:
			return nil, model.Invalid("mtu", "IPv6 needs an MTU of at least %d bytes", minMTU6)
		}
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Device{
		log: log, self: self{o.PrivateKey.Public(), o.Addr, o.Addr6, o.Subnet.Masked(), o.Subnet6.Masked()}, port: o.ListenPort,
		onCut: o.OnCut, listeners: make(map[uint16]*listener), packetListeners: make(map[uint16]*packetListener),
		farewells: make(farewells),
	}
	empty, err := newTable(Config{}, d.self, nil)
	if err != nil {
		return nil, err
	}
	d.table.Store(empty)
	d.hub = newHub(log, &d.table, o.MTU)
	if d.stack, err = newStack(d.hub, d.own(), o.MTU); err != nil {
		return nil, fmt.Errorf("set up network stack: %w", err)
	}
	d.flights.writeSize = superPayload(o.MTU)
	d.exit = newExit(d, o.PublicAddrs, o.DialExit)
	d.exit.room = o.Room
	d.hub.echo6, d.hub.datagram = d.exit.handleEcho6, d.exit.takeDatagram
	d.wg, err = wireguard.New(wireguard.Options{Log: log, PrivateKey: o.PrivateKey, MTU: o.MTU, Receive: d.hub.receive})
	if err != nil {
		d.stack.Destroy()
		return nil, err
	}
	return d, nil
}

// Start binds the UDP port and lets peers in. A taken port is a KindConflict
// error, after which Start may be called again.
func (d *Device) Start() error {
	d.lifeMu.Lock()
	defer d.lifeMu.Unlock()
	switch {
	case d.closed:
		return net.ErrClosed
	case d.running.Load():
		return nil
	}
	err := d.wg.Open(d.port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return model.Conflict("port", "UDP port %d is in use by another program", d.port)
	case errors.Is(err, syscall.EACCES):
		return model.Failure(model.KindForbidden, "this user may not open UDP port %d", d.port)
	case err != nil:
		return fmt.Errorf("open UDP port %d: %w", d.port, err)
	}
	d.running.Store(true)
	return nil
}

// Close ends the tunnel, every connection in it and every goroutine of this
// package and of the stack, and waits for them. It may be called more than once.
func (d *Device) Close() error {
	d.lifeMu.Lock()
	defer d.lifeMu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.running.Store(false)
	_ = d.wg.Close() // from here on nothing comes in or goes out
	d.exit.stop()
	d.listenersMu.RLock()
	open := make([]io.Closer, 0, len(d.listeners)+len(d.packetListeners))
	for _, l := range d.listeners {
		open = append(open, l)
	}
	for _, l := range d.packetListeners {
		open = append(open, l)
	}
	d.listenersMu.RUnlock()
	for _, l := range open {
		_ = l.Close()
	}
	d.exit.wait(func() {
		for _, ep := range d.stack.RegisteredEndpoints() {
			ep.Abort()
		}
	})
	d.flights.close()
	d.stack.Destroy()
	return nil
}

// Dial connects to a peer from the tunnel address; network is "tcp" or "udp".
// An address that no peer owns is a KindUnavailable error.
func (d *Device) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	owner := d.table.Load().lookup(addr.Addr())
	switch {
	case owner == nil:
		return nil, model.Failure(model.KindUnavailable, "no peer has the address %s", addr.Addr())
	case addr.Addr().Is6() && !d.addr6.IsValid():
		return nil, model.Failure(model.KindUnavailable, "%s: the server has no IPv6 address in the tunnel", addr.Addr())
	}
	var c net.Conn
	switch network {
	case "tcp", "tcp4", "tcp6":
		tc, err := d.dialTCP(ctx, owner.identity, addr)
		if err != nil {
			return nil, err
		}
		c = tc
	case "udp", "udp4", "udp6":
		local := d.addr
		if addr.Addr().Is6() {
			local = d.addr6
		}
		uc, err := dialUDP(d.stack, local, addr)
		if err != nil {
			return nil, err
		}
		c = uc
	default:
		return nil, net.UnknownNetworkError(network)
	}
	// A change that took the address away before the connection was there did
	// not see it.
	if now := d.table.Load().lookup(addr.Addr()); now == nil || now.identity != owner.identity {
		_ = c.Close()
		return nil, model.Failure(model.KindUnavailable, "no peer has the address %s any more", addr.Addr())
	}
	return c, nil
}

// Owns reports whether addr is in the tunnel: in its subnet, or among some
// peer's allowed IPs.
func (d *Device) Owns(addr netip.Addr) bool {
	return d.inside(addr.Unmap()) || d.table.Load().lookup(addr) != nil
}
