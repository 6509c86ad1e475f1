package dns

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxChain is how many aliases in a row are followed in one answer.
const maxChain = 16

var errUnusable = errors.New("upstream answer makes no sense")

// sift keeps of an upstream answer what answers the question: the chain of
// aliases that starts at the name, what it ends in, and the SOA of a negative
// answer. The rest is out of bailiwick or decoration, and is neither passed on
// nor cached. Addresses that would lead a client to itself or to its link are
// withheld.
func sift(answer *dns.Msg, now time.Duration) (*cached, error) {
	q := answer.Question[0]
	name := strings.ToLower(q.Name)
	out := &dns.Msg{Compress: true}
	out.Rcode = answer.Rcode
	out.Question = []dns.Question{{Name: name, Qtype: q.Qtype, Qclass: q.Qclass}}

	final := siftChain(out, answer.Answer, name)
	negative := !hasType(out.Answer, q.Qtype)
	for _, rr := range answer.Ns {
		h := rr.Header()
		if h.Class != dns.ClassINET {
			continue
		}
		switch rr.(type) {
		case *dns.SOA:
			if negative && dns.IsSubDomain(h.Name, final) {
				out.Ns = append(out.Ns, rr)
			}
		case *dns.NSEC, *dns.NSEC3, *dns.RRSIG: // proofs, asked for with DO
			out.Ns = append(out.Ns, rr)
		}
	}
	for _, section := range [...][]dns.RR{out.Answer, out.Ns} {
		for _, rr := range section {
			rr.Header().Ttl = min(rr.Header().Ttl, uint32(maxPositiveTTL/time.Second))
		}
	}
	msg, err := out.Pack()
	if err != nil {
		return nil, errUnusable
	}
	// The library reads records without data, and writes broken ones then.
	ttls, ok := ttlFields(msg)
	if !ok || new(dns.Msg).Unpack(msg) != nil {
		return nil, errUnusable
	}
	return &cached{msg: msg, ttls: ttls, stored: now, ttl: keepFor(out, negative)}, nil
}

// siftChain moves what belongs to the chain from name into out, and returns
// the name where it ends.
func siftChain(out *dns.Msg, records []dns.RR, name string) (final string) {
	qtype := out.Question[0].Qtype
	for range maxChain {
		next := ""
		for _, rr := range records {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) {
				continue
			}
			switch alias, isAlias := rr.(*dns.CNAME); {
			case isAlias && qtype != dns.TypeCNAME:
				if next != "" {
					continue // one alias for a name, RFC 1034 section 3.6.2
				}
				next = strings.ToLower(alias.Target)
			case h.Rrtype != qtype && h.Rrtype != dns.TypeRRSIG:
				continue
			case leadsAstray(rr):
				continue
			}
			out.Answer = append(out.Answer, rr)
		}
		// A DNAME (RFC 6672) sits above the name; the alias made from it does
		// the work, and the DNAME lets a validating client follow.
		for _, rr := range records {
			if d, ok := rr.(*dns.DNAME); ok && next != "" && dns.IsSubDomain(d.Hdr.Name, name) {
				out.Answer = append(out.Answer, rr)
			}
		}
		if next == "" {
			return name
		}
		name = next
	}
	return name
}

// leadsAstray reports whether a record names an address of the asking host
// itself or of its link, to which only a mistake or an attack points.
func leadsAstray(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		return astray(rr.A)
	case *dns.AAAA:
		return astray(rr.AAAA)
	case *dns.HTTPS:
		return hintsAstray(rr.SVCB.Value)
	case *dns.SVCB:
		return hintsAstray(rr.Value)
	}
	return false
}

func hintsAstray(params []dns.SVCBKeyValue) bool {
	for _, p := range params {
		var hints []net.IP
		switch p := p.(type) {
		case *dns.SVCBIPv4Hint:
			hints = p.Hint
		case *dns.SVCBIPv6Hint:
			hints = p.Hint
		}
		for _, ip := range hints {
			if astray(ip) {
				return true
			}
		}
	}
	return false
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // Linux reaches itself by all of it
	compatible  = netip.MustParsePrefix("::/96")     // IPv4 in IPv6, of old
)

func astray(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return true
	}
	if a = a.Unmap(); a.Is6() && compatible.Contains(a) && !a.IsLoopback() {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || thisNetwork.Contains(a)
}

func hasType(records []dns.RR, kind uint16) bool {
	for _, rr := range records {
		if rr.Header().Rrtype == kind {
			return true
		}
	}
	return false
}

// keepFor returns how long an answer may be cached; zero is not at all.
func keepFor(m *dns.Msg, negative bool) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	ttl := uint32(maxPositiveTTL / time.Second)
	if negative {
		ttl = uint32(maxNegativeTTL / time.Second)
		if !hasType(m.Ns, dns.TypeSOA) {
			return 0 // RFC 2308 section 5
		}
	}
	for _, section := range [...][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			ttl = min(ttl, rr.Header().Ttl)
			if soa, ok := rr.(*dns.SOA); ok && negative {
				ttl = min(ttl, soa.Minttl)
			}
		}
	}
	return time.Duration(ttl) * time.Second
}
