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
	own    []uint16 // ports of this host that this process serves
}

func newDialer(tunnel *netstack.Device, own []uint16) *dialer {
	d := &dialer{tunnel: tunnel, own: own, host: net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4},
	}}
	d.host.SetMultipathTCP(false) // such sockets cannot be spliced, and cost more to open
	return d
}

func (d *dialer) dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	if d.tunnel.Owns(addr.Addr()) {
		return d.tunnel.Dial(ctx, network, addr)
	}
	if slices.Contains(d.own, addr.Port()) && isHost(addr.Addr().Unmap()) {
		return nil, model.Failure(model.KindUnavailable, "%s is a port of this server itself", addr)
	}
	return d.host.DialContext(ctx, network, addr.String())
}

func isHost(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || slices.Contains(hostAddrs(), a)
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
