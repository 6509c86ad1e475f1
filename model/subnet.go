package model

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// Subnets are the networks of the tunnel, masked.
type Subnets struct {
	V4 netip.Prefix
	V6 netip.Prefix // zero: none
}

// Pair returns the IPv6 address that goes with an IPv4 address of the tunnel:
// the host of the same number, so fd00::105 with 10.8.1.5 where the networks are
// fd00::/64 and 10.8.0.0/16. One lease is for both. It is invalid without an
// IPv6 network, and for an address outside of the IPv4 network.
func (s Subnets) Pair(addr netip.Addr) netip.Addr {
	if !s.V6.IsValid() || !s.V4.Contains(addr) {
		return netip.Addr{}
	}
	base, host, pair := s.V4.Addr().As4(), addr.As4(), s.V6.Addr().As16()
	number := binary.BigEndian.Uint32(host[:]) - binary.BigEndian.Uint32(base[:])
	low := binary.BigEndian.Uint32(pair[12:])
	binary.BigEndian.PutUint32(pair[12:], low|number)
	return netip.AddrFrom16(pair)
}

// Prefixes lists those that are there.
func (s Subnets) Prefixes() (list []netip.Prefix) {
	for _, p := range [...]netip.Prefix{s.V4, s.V6} {
		if p.IsValid() {
			list = append(list, p)
		}
	}
	return list
}

// ParseSubnet6 reads the IPv6 network that stands beside v4 in the tunnel: a
// unique local one (RFC 4193) from /48 on that has room for every host of v4.
// "auto" is one that is made from a key, always the same.
func ParseSubnet6(field, s string, v4 netip.Prefix, key PublicKey) (netip.Prefix, error) {
	if s == "auto" {
		return uniqueLocal(key), nil
	}
	p, err := netip.ParsePrefix(s)
	longest := 128 - (32 - v4.Bits())
	if err != nil || p.Addr().Is4() || p.Addr().As16()[0] != 0xfd || p.Bits() < 48 || p.Bits() > longest {
		return netip.Prefix{}, Invalid(field, "must be auto or a unique local network from /48 to /%d, such as fd12:3456:789a::/64", longest)
	}
	return p.Masked(), nil
}

// uniqueLocal makes a network out of a hash, which is as good as by chance: two
// servers that are joined one day will have different ones (RFC 4193 section 3.2).
func uniqueLocal(key PublicKey) netip.Prefix {
	sum := sha256.Sum256(key[:])
	addr := [16]byte{0: 0xfd}
	copy(addr[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(addr), 64)
}
