package app

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"gatecontrol/model"
	"gatecontrol/netstack"
)

// dialer reaches targets: tunnel addresses through the hub, others from this
// host. It never leads back to our own listeners.
type dialer struct {
	tunnel *netstack.Device
	host   net.Dialer
	public []netip.Addr                           // addresses of this host that no interface has
	serves func(network string, port uint16) bool // whether this process listens there
}

func (a *App) newDialer() *dialer {
	own := a.ownPorts()
	d := &dialer{
		tunnel: a.tunnel, public: a.options.publicAddrs(),
		serves: func(network string, port uint16) bool {
			return slices.Contains(own, port) || a.forwarder.Listens(network, port)
		},
		host: net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4},
		},
	}
	d.host.SetMultipathTCP(false) // such sockets cannot be spliced, and cost more to open
	return d
}

func (d *dialer) dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if d.tunnel.Owns(addr.Addr()) {
		return d.tunnel.Dial(ctx, network, addr)
	}
	if d.serves(network, addr.Port()) && d.isHost(addr.Addr()) {
		return nil, model.Failure(model.KindUnavailable, "%s is a port of this server itself", addr)
	}
	c, err := d.host.DialContext(ctx, network, addr.String())
	if err == nil && d.serves(network, addr.Port()) && toItself(c) {
		_ = c.Close()
		return nil, model.Failure(model.KindUnavailable, "%s is a port of this server itself", addr)
	}
	return c, err
}

// toItself reports whether c leads to this host, at an address that no interface
// has: a whole network can be local. Then both ends have the same one.
func toItself(c net.Conn) bool {
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return false
	}
	remote, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && local.Addr().Unmap() == remote.Addr().Unmap()
}

// isHost reports whether a, IPv4 never mapped, is an address of this host.
func (d *dialer) isHost(a netip.Addr) bool {
	a = a.WithZone("") // the same address on whichever interface
	return a.IsLoopback() || a.IsUnspecified() || slices.Contains(d.public, a) || slices.Contains(hostAddrs(), a)
}

// dial connects to what accepts on l.
func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
