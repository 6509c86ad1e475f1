package netstack

import (
	"net/netip"
	"slices"
)

// ruling is what the exit says of a destination.
type ruling uint8

const (
	refused ruling = iota
	allowed
	ourselves // an address of this host, or redirected: refused, unless a listener in the tunnel serves the port
)

// exitRules are what a destination is judged by.
type exitRules struct {
	tunnel  func(netip.Addr) bool // the subnets of the tunnel
	private []netip.Prefix        // private ranges that the operator allows
	host    func(netip.Addr) bool // addresses of this host at this moment
	peers   func(netip.Addr) bool // addresses of peers, wherever they are
}

// judge decides about an address that is about to be dialed. IPv4 in any of
// its IPv6 disguises is judged as IPv4.
func (r exitRules) judge(addr netip.Addr) ruling {
	addr = addr.WithZone("")
	inner, ok := embedded(addr)
	if !ok {
		return refused
	}
	if inner != addr {
		if v := r.judge(inner); v != allowed || addr.Is4In6() {
			return v
		}
		// The disguise passes only if its own address does, too.
	}
	switch {
	case within(never, addr):
		return refused
	case r.host(addr):
		return ourselves
	case r.tunnel(addr), r.peers(addr):
		return refused
	case within(private, addr) && !within(r.private, addr):
		return refused
	}
	return allowed
}

func within(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// private ranges are open where the operator lists them.
var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10", // shared address space, RFC 6598
	"fc00::/7",      // unique local, RFC 4193
)

// never holds what the exit reaches under no setting: the special-purpose
// registries of IANA, and addresses under which clouds hand out credentials.
var never = prefixes(
	"0.0.0.0/8",       // this network, unspecified
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, most clouds' metadata
	"192.0.0.0/24",    // IETF protocols, with Oracle Cloud's metadata
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relay, deprecated by RFC 7526
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, broadcast

	"100.100.100.200/32", // Alibaba Cloud metadata
	"168.63.129.16/32",   // Azure's host agent

	"::/96",          // unspecified, loopback, IPv4-compatible
	"64:ff9b:1::/48", // local-use translation, RFC 8215
	"100::/64",       // discard
	"2001:2::/48",    // benchmarks
	"2001:10::/28",   // ORCHID, deprecated
	"2001:20::/28",   // ORCHIDv2
	"2001:db8::/32",  // documentation
	"3fff::/20",      // documentation
	"5f00::/16",      // segment routing
	"fe80::/10",      // link-local
	"fec0::/10",      // site-local, deprecated by RFC 3879
	"ff00::/8",       // multicast

	"fd00:ec2::254/128",      // AWS metadata
	"fd20:ce::254/128",       // Google Cloud metadata
	"fd00:42::42/128",        // Scaleway metadata
	"fd00:c1::a9fe:a9fe/128", // Oracle Cloud metadata
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// The ways to write IPv4 as IPv6.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 section 2.5.5.1
	translated = netip.MustParsePrefix("64:ff9b::/96")    // NAT64, RFC 6052
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
	siit       = netip.MustParsePrefix("::ffff:0:0:0/96") // SIIT, RFC 2765
)

// embedded returns the IPv4 address that addr stands for, or addr itself. It
// reports false for an address that is invalid.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.IsValid() {
		return addr, false
	}
	if addr.Is4() {
		return addr, true
	}
	b := addr.As16()
	switch {
	case addr.Is4In6():
		return addr.Unmap(), true
	case compatible.Contains(addr) && b[12]|b[13]|b[14] != 0,
		translated.Contains(addr), siit.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(addr): // the client's address, inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return addr, true
}
