package netstack

import (
	"net/netip"
	"slices"

	"gatecontrol/model"
)

// Config is what the tunnel is to be: who may join it and what they may reach.
// It is not written after Prepare has taken it.
type Config struct {
	Peers []Peer
	Exit  Exit
}

// Peer is one device that may join the tunnel.
type Peer struct {
	Name         string           // for messages and the log
	PublicKey    model.PublicKey  // unique
	PresharedKey model.PrivateKey // zero: none
	AllowedIPs   []netip.Prefix   // masked; disjoint from those of every other peer
	Keepalive    uint16           // seconds between empty packets, 0 is off
	Endpoint     netip.AddrPort   // zero: learned from the peer's first handshake

	ReceiveLimit, SendLimit uint64 // bytes per second from and to the peer, 0 is none

	Isolated bool // neither reaches other peers nor is reached by them
	NoExit   bool // does not reach the internet through this server

	// ServerPorts are the ports of a home gateway that only this server may
	// open. Packets of other peers to them are dropped, unless the sender is
	// Trusted.
	ServerPorts []uint16
	Trusted     bool
}

// Exit says what peers may reach through this server's own connection.
type Exit struct {
	Enabled bool
	Private []netip.Prefix // private ranges that the operator allows; none by default

	// RedirectDNS has questions to resolvers out there answered by what listens on
	// port 53 of the tunnel address, also for who has no exit.
	RedirectDNS bool
}

// Equal reports whether c and other ask for the same, peers in the same order.
func (c Config) Equal(other Config) bool {
	return slices.EqualFunc(c.Peers, other.Peers, Peer.equal) && c.Exit.equal(other.Exit)
}

func (p Peer) equal(o Peer) bool { return p.same(&o) }

func (p *Peer) same(o *Peer) bool {
	return p.Name == o.Name && p.PublicKey == o.PublicKey && p.PresharedKey == o.PresharedKey &&
		p.Keepalive == o.Keepalive && p.Endpoint == o.Endpoint &&
		p.ReceiveLimit == o.ReceiveLimit && p.SendLimit == o.SendLimit &&
		p.Isolated == o.Isolated && p.NoExit == o.NoExit && p.Trusted == o.Trusted &&
		slices.Equal(p.AllowedIPs, o.AllowedIPs) && slices.Equal(p.ServerPorts, o.ServerPorts)
}

func (e Exit) equal(o Exit) bool {
	return e.Enabled == o.Enabled && e.RedirectDNS == o.RedirectDNS && slices.Equal(e.Private, o.Private)
}

// check refuses what a peer of server cannot be, whatever the others are.
func (p *Peer) check(server *self) error {
	switch {
	case p.PublicKey.IsZero():
		return model.Invalid("publicKey", "peer %q has no public key", p.Name)
	case p.PublicKey == server.key:
		return model.Invalid("publicKey", "peer %q has the key of this server", p.Name)
	case p.Endpoint != (netip.AddrPort{}) && (!p.Endpoint.IsValid() || p.Endpoint.Port() == 0):
		return model.Invalid("endpoint", "peer %q has an endpoint without address or port", p.Name)
	}
	for _, prefix := range p.AllowedIPs {
		if !prefix.IsValid() || prefix.Masked() != prefix || prefix.Addr().Is4In6() {
			return model.Invalid("allowedIps", "peer %q: %s is not a network address", p.Name, prefix)
		}
		for _, addr := range server.own() {
			if prefix.Contains(addr) {
				return model.Invalid("allowedIps", "peer %q: %s holds the address of this server, %s", p.Name, prefix, addr)
			}
		}
	}
	return nil
}

func (e Exit) check() error {
	for _, prefix := range e.Private {
		if !prefix.IsValid() {
			return model.Invalid("exitPrivateNetworks", "%s is not a network", prefix)
		}
	}
	return nil
}
