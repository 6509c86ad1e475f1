package model

import "net/netip"

// Clients tells whom the address of a client stands for, where something is
// counted by it. The zero value knows of no tunnel.
type Clients struct {
	Tunnel netip.Prefix // IPv6 network in which every peer has one address
}

// Key returns the address that stands for all of a client's: itself or, in IPv6,
// the /64 that one subscriber usually has to himself. In the tunnel that would
// be all peers.
func (c Clients) Key(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() || c.Tunnel.Contains(a) {
		return a
	}
	p, _ := a.Prefix(64) // 64 fits an IPv6 address
	return p.Addr()
}
