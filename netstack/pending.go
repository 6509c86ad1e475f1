package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"gatecontrol/model"
)

// Pending is a change that is ready to be made. Exactly one of Commit and
// Abort ends it; what is called after that does nothing.
type Pending struct {
	d      *Device
	next   *table
	change change
}

// Prepare checks config and works out what has to change. It may be called
// before Start. Errors are of KindInvalid, KindConflict or KindLimited and name
// the peer; KindUnavailable means that another Pending is outstanding.
func (d *Device) Prepare(config Config) (*Pending, error) {
	if !d.preparing.CompareAndSwap(false, true) {
		return nil, model.Failure(model.KindUnavailable, "another change of the tunnel is being made")
	}
	old := d.table.Load()
	next, err := newTable(config, d.self, old)
	if err != nil {
		d.preparing.Store(false)
		return nil, err
	}
	return &Pending{d: d, next: next, change: diff(old, next)}, nil
}

// Abort gives the change up.
func (p *Pending) Abort() {
	if d := p.d; d != nil {
		p.d = nil
		d.preparing.Store(false)
	}
}

// Commit makes the change. Peers that it does not concern are not touched.
// When it returns, removed peers are gone and the flows of lost addresses cut.
// On a closed device it does nothing.
func (p *Pending) Commit() {
	d := p.d
	if d == nil {
		return
	}
	defer p.Abort()
	d.lifeMu.Lock()
	defer d.lifeMu.Unlock()
	if d.closed {
		return
	}
	old := d.table.Load()
	p.change.apply(d)
	d.table.Store(p.next)
	d.wg.Settle() // from here on no packet is under way that was judged before
	if p.change.cut {
		d.cut(old, p.next)
	}
	d.exit.review(p.next)
}

// cut aborts every connection between this server and an address that has
// changed hands, so that whoever reads from it gets an error.
func (d *Device) cut(old, next *table) {
	lost := func(addr netip.Addr) bool {
		was, now := old.lookup(addr), next.lookup(addr)
		return was != nil && (now == nil || now.identity != was.identity)
	}
	for _, ep := range d.stack.RegisteredEndpoints() {
		if remote, ok := remoteAddress(ep); ok && lost(fromStack(remote)) {
			ep.Abort()
		}
	}
	if d.onCut != nil {
		d.onCut(lost)
	}
}

// remoteAddress returns the other side of an endpoint, if it has one.
func remoteAddress(ep stack.TransportEndpoint) (tcpip.Address, bool) {
	e, ok := ep.(interface{ Info() tcpip.EndpointInfo })
	if !ok {
		return tcpip.Address{}, false
	}
	info, ok := e.Info().(*stack.TransportEndpointInfo)
	if !ok || info.ID.RemoteAddress.Len() == 0 {
		return tcpip.Address{}, false
	}
	return info.ID.RemoteAddress, true
}
