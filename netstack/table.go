package netstack

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/time/rate"

	"gatecontrol/model"
	"gatecontrol/wireguard"
)

// maxPeers bounds the peers of one device: as many addresses as the largest
// usual subnet has.
const maxPeers = 1 << 16

// table is one immutable snapshot of who owns which address and may do what.
// The packet path reads it through one atomic pointer; lookups are a map
// access per distinct prefix length, and there are few of those.
type table struct {
	config Config
	self   self

	server4 uint32   // this server's tunnel address
	lowest4 uint32   // network address of the subnet, which is no host
	bcast4  uint32   // broadcast address of the subnet; both are server4 where there is none
	server6 [16]byte // this server's tunnel address, unspecified if it has none

	peers  []*peer // in the order of config
	byKey  map[model.PublicKey]*peer
	hosts  map[uint32]*peer   // IPv4 /32
	nets   []net4             // other IPv4 lengths, longest first
	hosts6 map[[16]byte]*peer // IPv6 /128
	nets6  []net6             // other IPv6 lengths, longest first
}

// self is what the table knows of this server.
type self struct {
	key             model.PublicKey
	addr, addr6     netip.Addr   // in the tunnel, IPv4 and IPv6; addr6 may be zero
	subnet, subnet6 netip.Prefix // of the tunnel, masked
}

// own lists the tunnel addresses of this server.
func (s *self) own() []netip.Addr {
	if s.addr6.IsValid() {
		return []netip.Addr{s.addr, s.addr6}
	}
	return []netip.Addr{s.addr}
}

// is reports whether addr is a tunnel address of this server.
func (s *self) is(addr netip.Addr) bool { return addr == s.addr || addr == s.addr6 }

// inside reports whether addr is in a subnet of the tunnel.
func (s *self) inside(addr netip.Addr) bool {
	return s.subnet.Contains(addr) || s.subnet6.Contains(addr)
}

// net4 holds the prefixes of one length.
type net4 struct {
	mask   uint32
	owners map[uint32]*peer
}

type net6 struct {
	bits   int
	owners map[netip.Prefix]*peer
}

// peer is a Peer in one snapshot, and what is kept about it across snapshots.
type peer struct {
	Peer
	ports []uint16 // ServerPorts, sorted

	receiving, sending *rate.Limiter // bytes from and to the peer; nil: no limit
	*identity
}

// identity is one peer under one pair of keys. It lives as long as some
// snapshot holds the peer, so that counts survive a change of configuration
// and flows can be told to belong to somebody else when their identity differs.
type identity struct {
	key     model.PublicKey
	wg      *wireguard.Peer // set when the change is made that brings the peer
	streams streams         // of the stack

	intakes   intakes
	moving    atomic.Int32 // connections of this server to it that are moving data
	halfOpen  atomic.Int32 // TCP flows through the exit that are being dialed
	tcpFlows  atomic.Int32 // TCP flows through the exit
	udpFlows  atomic.Int32 // UDP flows through the exit
	echoFlows atomic.Int32 // ICMP flows through the exit

	echoRate atomic.Pointer[rate.Limiter] // of echoes through the exit, nil before the first
}

// newTable checks config and builds its snapshot. Identities come from old
// where keys are unchanged, and whole peers where nothing is. It refuses
// prefixes that two peers claim.
//
// Peers before the first and after the last difference stay in the indexes,
// which are copied, so that one change among 10,000 peers costs little more.
func newTable(config Config, self self, old *table) (*table, error) {
	if len(config.Peers) > maxPeers {
		return nil, model.Failure(model.KindLimited, "at most %d peers are possible", maxPeers)
	}
	if err := config.Exit.check(); err != nil {
		return nil, err
	}
	if old == nil {
		old = new(table)
	}
	t := &table{
		config: config,
		self:   self, server4: word(self.addr),
		lowest4: word(self.addr), bcast4: word(self.addr),
		peers: make([]*peer, len(config.Peers)),
		byKey: cloneIndex(old.byKey), hosts: cloneIndex(old.hosts), hosts6: cloneIndex(old.hosts6),
	}
	if self.addr6.IsValid() {
		t.server6 = self.addr6.As16()
	}
	if self.subnet.Bits() < 31 { // RFC 3021: /31 and /32 have no broadcast address
		t.lowest4 = word(self.subnet.Addr())
		t.bcast4 = t.lowest4 | ^uint32(0)>>self.subnet.Bits()
	}
	for _, n := range old.nets {
		t.nets = append(t.nets, net4{n.mask, maps.Clone(n.owners)})
	}
	for _, n := range old.nets6 {
		t.nets6 = append(t.nets6, net6{n.bits, maps.Clone(n.owners)})
	}
	head, tail := common(len(old.peers), len(t.peers), func(i, j int) bool { return old.peers[i].same(&config.Peers[j]) })
	copy(t.peers, old.peers[:head])
	copy(t.peers[len(t.peers)-tail:], old.peers[len(old.peers)-tail:])
	for _, p := range old.peers[head : len(old.peers)-tail] {
		t.remove(p)
	}
	for i := head; i < len(t.peers)-tail; i++ {
		c := &config.Peers[i]
		p := old.byKey[c.PublicKey]
		if p == nil || !p.same(c) {
			if err := c.check(&self); err != nil {
				return nil, err
			}
			p = newPeer(c, p)
		}
		if other := t.byKey[c.PublicKey]; other != nil {
			return nil, model.Conflict("publicKey", "peers %q and %q have the same public key", other.Name, p.Name)
		}
		t.peers[i], t.byKey[c.PublicKey] = p, p
		for _, prefix := range p.AllowedIPs {
			if other := t.insert(prefix, p); other != nil {
				return nil, overlap(other, p, prefix)
			}
		}
	}
	t.nets = slices.DeleteFunc(t.nets, func(n net4) bool { return len(n.owners) == 0 })
	t.nets6 = slices.DeleteFunc(t.nets6, func(n net6) bool { return len(n.owners) == 0 })
	slices.SortFunc(t.nets, func(a, b net4) int { return cmp.Compare(b.mask, a.mask) })
	slices.SortFunc(t.nets6, func(a, b net6) int { return cmp.Compare(b.bits, a.bits) })
	return t, t.disjoint()
}

// common returns how many elements two lists of lengths a and b share at their
// head and, of the rest, at their tail.
func common(a, b int, same func(i, j int) bool) (head, tail int) {
	shorter := min(a, b)
	for head < shorter && same(head, head) {
		head++
	}
	for tail < shorter-head && same(a-1-tail, b-1-tail) {
		tail++
	}
	return head, tail
}

// cloneIndex is maps.Clone, but for nil.
func cloneIndex[K comparable](m map[K]*peer) map[K]*peer {
	if m == nil {
		return make(map[K]*peer)
	}
	return maps.Clone(m)
}

// newPeer takes over the identity of was, which has the same public key and
// may be nil, if the preshared key is the same too.
func newPeer(c *Peer, was *peer) *peer {
	p := &peer{Peer: *c, receiving: newLimiter(c.ReceiveLimit), sending: newLimiter(c.SendLimit)}
	if was != nil && was.ReceiveLimit == c.ReceiveLimit {
		p.receiving = was.receiving
	}
	if was != nil && was.SendLimit == c.SendLimit {
		p.sending = was.sending
	}
	if len(c.ServerPorts) > 0 {
		p.ports = slices.Sorted(slices.Values(c.ServerPorts))
	}
	if was != nil && was.PresharedKey == c.PresharedKey {
		p.identity = was.identity
	} else {
		p.identity = &identity{key: c.PublicKey}
	}
	return p
}

// insert gives a prefix to p. It returns the peer that has the same prefix
// already, if that is another one.
func (t *table) insert(prefix netip.Prefix, p *peer) (other *peer) {
	switch {
	case prefix.Addr().Is6() && prefix.IsSingleIP():
		return put(t.hosts6, prefix.Addr().As16(), p)
	case prefix.Addr().Is6():
		i := slices.IndexFunc(t.nets6, func(n net6) bool { return n.bits == prefix.Bits() })
		if i < 0 {
			i = len(t.nets6)
			t.nets6 = append(t.nets6, net6{prefix.Bits(), map[netip.Prefix]*peer{}})
		}
		return put(t.nets6[i].owners, prefix, p)
	case prefix.IsSingleIP():
		return put(t.hosts, word(prefix.Addr()), p)
	default:
		mask := mask4(prefix)
		i := slices.IndexFunc(t.nets, func(n net4) bool { return n.mask == mask })
		if i < 0 {
			i = len(t.nets)
			t.nets = append(t.nets, net4{mask, map[uint32]*peer{}})
		}
		return put(t.nets[i].owners, word(prefix.Addr()), p)
	}
}

// remove takes p and its prefixes out of the indexes.
func (t *table) remove(p *peer) {
	delete(t.byKey, p.PublicKey)
	for _, prefix := range p.AllowedIPs {
		switch {
		case prefix.Addr().Is6() && prefix.IsSingleIP():
			delete(t.hosts6, prefix.Addr().As16())
		case prefix.Addr().Is6():
			for _, n := range t.nets6 {
				if n.bits == prefix.Bits() {
					delete(n.owners, prefix)
				}
			}
		case prefix.IsSingleIP():
			delete(t.hosts, word(prefix.Addr()))
		default:
			for _, n := range t.nets {
				if n.mask == mask4(prefix) {
					delete(n.owners, word(prefix.Addr()))
				}
			}
		}
	}
}

func mask4(prefix netip.Prefix) uint32 { return uint32(uint64(1<<32-1) << (32 - prefix.Bits())) }

func put[K comparable](owners map[K]*peer, key K, p *peer) (other *peer) {
	if other := owners[key]; other != nil && other != p {
		return other
	}
	owners[key] = p
	return nil
}

// disjoint refuses a prefix of one peer inside a wider one of another. Equal
// ones were refused before.
func (t *table) disjoint() error {
	if len(t.nets) > 0 {
		for addr, p := range t.hosts {
			if other := lookupNets(t.nets, addr); other != nil && other != p {
				return overlap(other, p, netip.PrefixFrom(address(addr), 32))
			}
		}
	}
	for i, n := range t.nets {
		for addr, p := range n.owners {
			if other := lookupNets(t.nets[i+1:], addr); other != nil && other != p {
				return overlap(other, p, netip.PrefixFrom(address(addr), bits.OnesCount32(n.mask)))
			}
		}
	}
	if len(t.nets6) > 0 {
		for b, p := range t.hosts6 {
			addr := netip.AddrFrom16(b)
			if other := lookupNets6(t.nets6, addr); other != nil && other != p {
				return overlap(other, p, netip.PrefixFrom(addr, 128))
			}
		}
	}
	for i, n := range t.nets6 {
		for prefix, p := range n.owners {
			if other := lookupNets6(t.nets6[i+1:], prefix.Addr()); other != nil && other != p {
				return overlap(other, p, prefix)
			}
		}
	}
	return nil
}

func overlap(a, b *peer, prefix netip.Prefix) error {
	return model.Conflict("allowedIps", "peers %q and %q both hold %s", a.Name, b.Name, prefix)
}

// lookup4 returns the peer that owns an IPv4 address, nil if none does.
func (t *table) lookup4(addr uint32) *peer {
	if p := t.hosts[addr]; p != nil {
		return p
	}
	return lookupNets(t.nets, addr)
}

func lookupNets(nets []net4, addr uint32) *peer {
	for i := range nets {
		if p := nets[i].owners[addr&nets[i].mask]; p != nil {
			return p
		}
	}
	return nil
}

// lookup6 returns the peer that owns an IPv6 address, nil if none does.
func (t *table) lookup6(addr [16]byte) *peer {
	if p := t.hosts6[addr]; p != nil {
		return p
	}
	if len(t.nets6) == 0 {
		return nil
	}
	return lookupNets6(t.nets6, netip.AddrFrom16(addr))
}

func lookupNets6(nets []net6, addr netip.Addr) *peer {
	for i := range nets {
		prefix, err := addr.Prefix(nets[i].bits)
		if err != nil {
			return nil
		}
		if p := nets[i].owners[prefix]; p != nil {
			return p
		}
	}
	return nil
}

// lookup returns the peer that owns addr, nil if none does.
func (t *table) lookup(addr netip.Addr) *peer {
	switch addr = addr.Unmap(); {
	case addr.Is4():
		return t.lookup4(word(addr))
	case addr.Is6():
		return t.lookup6(addr.As16())
	}
	return nil
}

// word is an IPv4 address as a number.
func word(addr netip.Addr) uint32 {
	b := addr.As4()
	return binary.BigEndian.Uint32(b[:])
}

// address is the reverse of word.
func address(w uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(w >> 24), byte(w >> 16), byte(w >> 8), byte(w)})
}
