package model

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// The kinds of a Target, as the API spells them.
const (
	TargetPeer    = "peer"    // a peer, or an address
	TargetGateway = "gateway" // behind a home gateway
)

// DefaultProxyPort is where a home gateway takes requests if nothing else is known.
const DefaultProxyPort = 8080

// GatewayTarget is a service in the network behind a home gateway. The gateway
// finds it and connects to it; this server does neither.
type GatewayTarget struct {
	Peer PeerID `json:"peer,omitempty"` // the gateway; 0: it was deleted
	Host string `json:"host"`           // name or address; loopback is the gateway itself
	Port uint16 `json:"port"`
}

// String is host:port, with an IPv6 address in brackets.
func (g *GatewayTarget) String() string { return net.JoinHostPort(g.Host, strconv.Itoa(int(g.Port))) }

// Kind is TargetPeer or TargetGateway.
func (t *Target) Kind() string {
	if t.Gateway != nil {
		return TargetGateway
	}
	return TargetPeer
}

// gatewayPlaceholder is what GateControl has for the address of a target behind a
// home gateway. It is shown and written to backups, and never stored or dialed.
var gatewayPlaceholder = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// ShownAddr is the address of t as the API has it.
func (t *Target) ShownAddr() netip.Addr {
	if t.Gateway != nil {
		return gatewayPlaceholder
	}
	return t.Addr
}

var lanHost = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,253}$`)

// ParseLANHost trims s and checks that it can be a host in the network behind a
// home gateway: a name, or an address without a zone.
func ParseLANHost(s string) (string, error) {
	s = strings.TrimSpace(s)
	ok := lanHost.MatchString(s)
	if ok && strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		ok = err == nil
	}
	if !ok {
		return "", Invalid("target_lan_host", "must be a host name or an IP address, at most 253 characters, without a port")
	}
	return s, nil
}

// ProxyPort is where p, a home gateway, takes requests.
func (p *Peer) ProxyPort() uint16 {
	if p.Gateway == nil || p.Gateway.ProxyPort == 0 {
		return DefaultProxyPort
	}
	return p.Gateway.ProxyPort
}
