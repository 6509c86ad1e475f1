package dns

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"gatecontrol/model"
)

// index is a Config made ready for lookups. It is not written once built.
type index struct {
	config Config
	names  map[string]entry // by lower-case wire name
	ttl    uint32           // seconds
	soa    []byte           // RDATA
	ns     []byte           // RDATA, also the primary name in soa
}

// entry is what is known about one name. The zero value is a name with nothing
// at it but names below it (an empty non-terminal, RFC 8020).
type entry struct {
	kind  entryKind
	up    uint8 // labels between the name and the apex of its zone
	addr  [4]byte
	addr6 [16]byte // unspecified: none
	ptr   string   // wire name

	holders uint32 // lines of the Config with this name or one below it
}

type entryKind uint8

const (
	emptyName   entryKind = iota
	zoneApex              // nothing below is ever forwarded
	hostName              // addr, addr6
	routeDomain           // the same; only address lookups are ours
	reverseEntry
)

// neverForwarded are apexes of which nothing is asked upstream.
var neverForwarded = [...]string{
	// Addresses that are private or mean this host or link (RFC 6303, RFC 7793).
	"0.in-addr.arpa", "10.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "168.192.in-addr.arpa",
	"255.255.255.255.in-addr.arpa",
	"c.f.ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa",
	// Names without a place in the public tree (RFC 6761, RFC 7686, RFC 9462 section 6.4).
	"localhost", "invalid", "onion", "resolver.arpa",
	// Browsers read NXDOMAIN here as: keep to this resolver, it has names of its own.
	"use-application-dns.net",
}

// newIndex checks c and builds its index; zone is a wire name.
func newIndex(zone string, c Config, serial uint32) (*index, error) {
	ttl := c.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	if ttl < time.Second || ttl > maxLocalTTL {
		return nil, model.Invalid("ttl", "must be between a second and a day")
	}
	if c.Address.IsValid() && !c.Address.Is4() || !c.Address.IsValid() && len(c.Domains) > 0 {
		return nil, model.Invalid("address", "the tunnel address must be an IPv4 address")
	}
	if !isIPv6OrNone(c.Address6) {
		return nil, model.Invalid("address", "the other tunnel address must be an IPv6 address")
	}
	x := newHead(zone, c, serial, uint32(ttl/time.Second))
	x.names = make(map[string]entry, 4*len(c.Records)+len(c.Domains)+128)
	x.addApexes(zone)
	for _, r := range c.Records {
		if err := x.addRecord(zone, r); err != nil {
			return nil, err
		}
	}
	for _, d := range c.Domains {
		if err := x.addDomain(d); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// newHead returns an index without names; ttl is in seconds.
func newHead(zone string, c Config, serial, ttl uint32) *index {
	x := &index{config: c, ttl: ttl}
	x.ns = append(x.ns, "\x07gateway"+zone...)
	x.soa = append(append(x.soa, x.ns...), "\x0ahostmaster"+zone...)
	for _, n := range [...]uint32{serial, 3600, 600, 86400, x.ttl} { // serial, refresh, retry, expire, minimum
		x.soa = binary.BigEndian.AppendUint32(x.soa, n)
	}
	return x
}

func (x *index) addApexes(zone string) {
	apex := func(wire string) { x.names[wire] = entry{kind: zoneApex} }
	for _, name := range neverForwarded {
		wire, _ := wireName("", name)
		apex(wire)
	}
	for n := 16; n < 32; n++ { // 172.16/12
		apex(parent(parent(reverseName(netip.AddrFrom4([4]byte{172, byte(n)})))))
	}
	for n := 64; n < 128; n++ { // 100.64/10
		apex(parent(parent(reverseName(netip.AddrFrom4([4]byte{100, byte(n)})))))
	}
	apex(reverseName(netip.IPv6Loopback()))
	apex(reverseName(netip.IPv6Unspecified()))
	apex(zone)
}

func (x *index) addRecord(zone string, r Record) error {
	rel, err := wireName("hostname", r.Name)
	if err != nil {
		return err
	}
	if !r.Addr.Is4() || !isIPv6OrNone(r.Addr6) {
		return model.Invalid("ip", "the address of %q must be IPv4, and IPv6 beside it", r.Name)
	}
	full := rel[:len(rel)-1] + zone
	if len(full) > maxName {
		return model.Invalid("hostname", "%q is too long below the zone", r.Name)
	}
	host := entry{kind: hostName, addr: r.Addr.As4(), addr6: bytes6(r.Addr6)}
	if err := x.addHost("hostname", full, r.Name, host); err != nil {
		return err
	}
	if parent(rel) == "\x00" {
		if err := x.addHost("hostname", rel, r.Name, host); err != nil {
			return err
		}
		x.hold(rel)
	}
	x.hold(full)
	for _, reverse := range reverseNames(r) {
		if x.names[reverse].kind != reverseEntry {
			x.names[reverse] = entry{kind: reverseEntry, ptr: full}
		}
		x.hold(reverse)
	}
	return nil
}

func isIPv6OrNone(a netip.Addr) bool { return !a.IsValid() || a.Is6() && !a.Is4In6() }

// bytes6 are those of an IPv6 address, zeros for none.
func bytes6(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// reverseNames returns the wire names of the reverse lookups of a record.
func reverseNames(r Record) []string {
	if r.Addr6.IsValid() {
		return []string{reverseName(r.Addr), reverseName(r.Addr6)}
	}
	return []string{reverseName(r.Addr)}
}

func (x *index) addDomain(domain string) error {
	wire, err := wireName("domain", domain)
	if err != nil {
		return err
	}
	e := entry{kind: routeDomain, addr: x.config.Address.As4(), addr6: bytes6(x.config.Address6)}
	if x.depth(wire) > 0 {
		e.kind = hostName // nothing of it is asked upstream
	}
	if err := x.addHost("domain", wire, domain, e); err != nil {
		return err
	}
	x.hold(wire)
	return nil
}

// addHost enters a name, which the field asks for, unless it has another address already.
func (x *index) addHost(field, wire, shown string, e entry) error {
	old, taken := x.names[wire]
	switch {
	case !taken || old.kind == emptyName:
		e.holders = old.holders
		x.names[wire] = e
	case old.kind == zoneApex:
		return model.Conflict(field, "the name %q is reserved", shown)
	case old.addr != e.addr || old.addr6 != e.addr6:
		return model.Conflict(field, "the name %q is given to two addresses", shown)
	}
	return nil
}

// depth returns how many labels a name is below the apex that it belongs to;
// zero if it is an apex or belongs to none.
func (x *index) depth(name string) uint8 {
	n := uint8(0)
	for up := name; up != "\x00"; up = parent(up) {
		switch e := x.names[up]; {
		case e.kind == zoneApex:
			return n
		case e.up > 0: // already known
			return n + e.up
		}
		n++
	}
	return 0
}

// lookup answers q from the index, or reports false: it is to be forwarded.
func (x *index) lookup(buf []byte, q *query) ([]byte, bool) {
	name := q.key()
	e, ok := x.names[string(name)]
	if !ok {
		return x.lookupApex(buf, q)
	}
	if e.kind == routeDomain && !addressLookup(q.kind) {
		return nil, false // its mail servers and texts are where they were
	}
	buf = begin(buf, q, bitAA, dns.RcodeSuccess)
	switch {
	case (e.kind == hostName || e.kind == routeDomain) && q.kind == dns.TypeA:
		buf = record(buf, sectionAnswer, 0, dns.TypeA, x.ttl, e.addr[:])
	case (e.kind == hostName || e.kind == routeDomain) && q.kind == dns.TypeAAAA && e.addr6 != [16]byte{}:
		buf = record(buf, sectionAnswer, 0, dns.TypeAAAA, x.ttl, e.addr6[:])
	case e.kind == reverseEntry && q.kind == dns.TypePTR:
		buf = record(buf, sectionAnswer, 0, dns.TypePTR, x.ttl, e.ptr)
	case e.kind == zoneApex && q.kind == dns.TypeSOA:
		buf = record(buf, sectionAnswer, 0, dns.TypeSOA, x.ttl, x.soa)
	case e.kind == zoneApex && q.kind == dns.TypeNS:
		buf = record(buf, sectionAnswer, 0, dns.TypeNS, x.ttl, x.ns)
	default:
		off := 0
		for range e.up {
			off += 1 + int(name[off])
		}
		buf = record(buf, sectionAuthority, off, dns.TypeSOA, x.ttl, x.soa)
	}
	return end(buf, q, dns.RcodeSuccess), true
}

// lookupApex answers for a name that is not in the index: it does not exist
// if it is below an apex of ours, or has no dot.
func (x *index) lookupApex(buf []byte, q *query) ([]byte, bool) {
	name := q.key()
	for off := 0; name[off] != 0; off += 1 + int(name[off]) {
		if x.names[string(name[off:])].kind == zoneApex {
			buf = begin(buf, q, bitAA, dns.RcodeNameError)
			buf = record(buf, sectionAuthority, off, dns.TypeSOA, x.ttl, x.soa)
			return end(buf, q, dns.RcodeNameError), true
		}
	}
	if name[0] != 0 && name[1+int(name[0])] == 0 && !topLevelLookup(q.kind) {
		return refuse(buf, q, dns.RcodeNameError), true
	}
	return nil, false
}

// addressLookup reports whether a lookup of this type leads to a service. With
// an HTTPS record (RFC 9460) a browser would find the way around the tunnel.
func addressLookup(kind uint16) bool {
	return kind == dns.TypeA || kind == dns.TypeAAAA || kind == dns.TypeHTTPS || kind == dns.TypeSVCB
}

// topLevelLookup reports whether a lookup of this type at a name without dots
// is about a top-level domain, as validating resolvers make, not about a host.
func topLevelLookup(kind uint16) bool {
	return kind == dns.TypeNS || kind == dns.TypeSOA || kind == dns.TypeDS || kind == dns.TypeDNSKEY
}

// has reports whether the name of q is a route domain.
func (x *index) has(q *query) bool { return x.names[string(q.key())].kind == routeDomain }
