package routes

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"gatecontrol/model"
)

// dnsTime bounds a look at the DNS: somebody waits for it.
const dnsTime = 2 * time.Second

// maxLooks bounds how many look at once: each takes a socket per resolver, twice.
const maxLooks = 32

// DNSCheck compares where a domain leads with where it should.
type DNSCheck struct {
	Addrs    []netip.Addr // of IPv4, where it leads; none if it leads nowhere
	Expected netip.Addr   // of this server; not valid where that is not known
	Matches  bool         // one of Addrs is this server's
}

// CheckDNS looks where domain leads, for somebody outside of the tunnel. That
// nobody can tell is no error: it leads nowhere then. Kinds: KindInvalid;
// KindUnavailable while too many others look.
func (s *Service) CheckDNS(ctx context.Context, domain string) (DNSCheck, error) {
	name, err := model.ParseDomain(domain)
	if err != nil {
		return DNSCheck{}, err
	}
	defer s.looking.Add(-1)
	if s.looking.Add(1) > maxLooks {
		return DNSCheck{}, model.Failure(model.KindUnavailable, "too many domains are looked up at once; try again in a moment")
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	found := make(chan []netip.Addr, 1)
	go func() { found <- s.lookUp(ctx, name) }() // received below
	own := s.knownAddrs(ctx)
	c := DNSCheck{Addrs: <-found}
	for _, a := range own {
		if c.Matches = slices.Contains(c.Addrs, a); c.Matches {
			c.Expected = a
			return c, nil
		}
	}
	if len(own) > 0 {
		c.Expected = own[0]
	}
	return c, nil
}

// knownAddrs are the addresses that the first host of KnownAs stands for that
// stands for any. Loopback is nobody's from outside.
func (s *Service) knownAddrs(ctx context.Context) []netip.Addr {
	for _, host := range s.o.KnownAs {
		var addrs []netip.Addr
		if a, err := netip.ParseAddr(host); err == nil {
			addrs = []netip.Addr{a.Unmap()}
		} else {
			addrs = s.lookUp(ctx, host)
		}
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.Is4() || a.IsLoopback() || a.IsUnspecified() })
		if len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

// lookUp asks the resolvers outside, unless they cannot know the name: then it is
// none of their business.
func (s *Service) lookUp(ctx context.Context, name string) []netip.Addr {
	if s.o.LookUp == nil || !model.DomainIsPublic(name) {
		return nil
	}
	addrs, err := s.o.LookUp(ctx, name)
	if err != nil {
		return nil
	}
	return addrs
}
