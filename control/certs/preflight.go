package certs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatecontrol/model"
)

// preflightTime bounds a pre-flight: somebody waits for it.
const preflightTime = 20 * time.Second

// Look is how a pre-flight looks around. Every func is needed for one.
type Look struct {
	// Addrs returns the addresses that the DNS gives for a name. Its error is
	// ErrNoName where there is none.
	Addrs func(ctx context.Context, name string) ([]netip.Addr, error)
	// ForbiddenBy returns the name whose CAA records forbid all of the authorities
	// to certify name, empty if one of them may.
	ForbiddenBy func(ctx context.Context, name string, authorities [][]string) (string, error)
	// Own are the addresses by which this server may be known.
	Own func(ctx context.Context) []netip.Addr
	// Reach asks name at addr over HTTP and over TLS whether it is this server,
	// as an authority would.
	Reach func(ctx context.Context, name string, addr netip.Addr, secure bool) error
	// Budget tells what the authorities have left for name.
	Budget func(name string) Budget
}

// ErrNoName is that a name is not in the DNS.
var ErrNoName = errors.New("there is no such name in the DNS")

// ErrOther is that something else than this server answered.
var ErrOther = errors.New("something else answered")

// Budget is what is known of the limits of the authorities for a name.
type Budget struct {
	Authorities [][]string // names by which CAA records mean each; none: it is not certified
	Subject     string     // the name that the certificate would have
	DNS         bool       // it would be proven through records of the zone
	Wait        time.Time  // no authority is to be asked before
	SameName    int        // certificates of this name in the last 7 days
	Domain      string
	SameDomain  int // certificates of the registered domain in the last 7 days
}

// What the largest public authority gives out in 7 days.
const (
	weeklyPerName   = 5
	weeklyPerDomain = 50
)

// Check is one thing that was looked at. OK is nil where it cannot be told from
// here.
type Check struct {
	Name   string
	OK     *bool
	Why    string
	Advice string
}

// Preflight looks whether an authority would certify domain, without asking it.
func (s *Service) Preflight(ctx context.Context, domain string) ([]Check, error) {
	name, ok := hostName(strings.TrimSpace(domain))
	if !ok {
		return nil, model.Invalid("domain", "must be a host name")
	}
	ctx, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	b := s.o.Look.Budget(name)
	if len(b.Authorities) == 0 {
		return []Check{verdict("authority", false, "no public authority is asked for "+name,
			"The certificate comes from the internal authority: have devices trust its root. For a public one, use a name under a public domain, and do not set GC_TLS_ISSUER to internal.")}, nil
	}
	checks := []Check{verdict("authority", true, "the certificate is for "+b.Subject, "")}
	if b.DNS {
		checks = append(checks, verdict("dns", true, "the name is proven through records of its zone, so nobody has to reach this server", ""))
	} else {
		checks = append(checks, s.checkReach(ctx, name)...)
	}
	return append(checks, s.checkCAA(ctx, b), s.checkBudget(b)), nil
}

func verdict(name string, ok bool, why, advice string) Check { return Check{name, &ok, why, advice} }

func unknown(name, why, advice string) Check { return Check{name, nil, why, advice} }

// checkReach looks at what an authority would meet on its way here.
func (s *Service) checkReach(ctx context.Context, name string) []Check {
	addrs, err := s.o.Look.Addrs(ctx, name)
	switch {
	case errors.Is(err, ErrNoName):
		return []Check{verdict("dns", false, name+" has no A or AAAA record", "Add a record at your DNS provider that leads to this server, and wait until it is seen.")}
	case err != nil:
		return []Check{unknown("dns", "the DNS could not be asked: "+plain(err), "Check that this server reaches its resolver.")}
	}
	if i := slices.IndexFunc(addrs, isPrivate); i >= 0 {
		return []Check{verdict("dns", false, fmt.Sprintf("%s leads to %s, which cannot be reached from the internet", name, addrs[i]),
			"Let the name lead to the public address of this server, or set up a DNS provider for the zone.")}
	}
	own := s.o.Look.Own(ctx)
	known := slices.ContainsFunc(own, func(a netip.Addr) bool { return !isPrivate(a) })
	var foreign []netip.Addr
	for _, a := range addrs {
		if !slices.Contains(own, a) {
			foreign = append(foreign, a)
		}
	}
	reached := s.checkPorts(ctx, name, addrs)
	switch {
	case len(foreign) == 0:
		return append([]Check{verdict("dns", true, fmt.Sprintf("%s leads to %s", name, join(addrs)), "")}, reached...)
	case allOK(reached): // behind a translator of addresses, for one
		return append([]Check{verdict("dns", true, fmt.Sprintf("%s leads to %s, where this server answers", name, join(addrs)), "")}, reached...)
	case known:
		return append([]Check{verdict("dns", false, fmt.Sprintf("%s leads to %s, which is not known as an address of this server", name, join(foreign)),
			"Let every A and AAAA record of the name lead to this server. If it is behind a router, its public address goes into GC_WG_HOST.")}, reached...)
	}
	return append([]Check{unknown("dns", fmt.Sprintf("%s leads to %s; whether that is this server cannot be told from here", name, join(foreign)),
		"Compare it with the public address of your router.")}, reached...)
}

// checkPorts asks each address as an authority would. A refusal proves nothing
// where the way out and back in is closed, which many routers do.
func (s *Service) checkPorts(ctx context.Context, name string, addrs []netip.Addr) []Check {
	list := make([]Check, 0, 2)
	for _, p := range []struct {
		name   string
		secure bool
	}{{"port 80", false}, {"port 443", true}} {
		c := verdict(p.name, true, "this server answers there", "")
		for _, a := range addrs {
			err := s.o.Look.Reach(ctx, name, a, p.secure)
			switch {
			case err == nil:
			case errors.Is(err, ErrOther):
				c = verdict(p.name, false, fmt.Sprintf("something else than this server answers at %s", a),
					"Forward the port of that address to this server, or correct the record.")
			default:
				c = unknown(p.name, fmt.Sprintf("%s does not answer: %s", a, plain(err)),
					"Check that the port is open and forwarded to this server. Some routers do not let their own address be reached from inside: then try from another network.")
			}
			if err != nil {
				break
			}
		}
		list = append(list, c)
	}
	return list
}

func allOK(list []Check) bool {
	return !slices.ContainsFunc(list, func(c Check) bool { return c.OK == nil || !*c.OK })
}

func (s *Service) checkCAA(ctx context.Context, b Budget) Check {
	at, err := s.o.Look.ForbiddenBy(ctx, b.Subject, b.Authorities)
	switch {
	case err != nil:
		return unknown("caa", "the CAA records could not be asked: "+plain(err), "An authority that cannot ask them refuses. Check the name servers of the domain.")
	case at != "":
		return verdict("caa", false, "a CAA record of "+at+" forbids the authority to certify this name", "Allow the authority there, or choose another one with GC_ACME_CA.")
	}
	return verdict("caa", true, "no CAA record is in the way", "")
}

func (s *Service) checkBudget(b Budget) Check {
	const wait = "Wait, or choose another authority with GC_ACME_CA. GC_ACME_STAGING is for trying things out."
	now := s.o.Now()
	switch {
	case b.Wait.After(now):
		return verdict("budget", false, "the authority asks to wait until "+b.Wait.UTC().Format(time.DateTime+" UTC"), wait)
	case b.SameName >= weeklyPerName:
		return verdict("budget", false, fmt.Sprintf("%d certificates for %s in the last 7 days; public authorities stop at %d", b.SameName, b.Subject, weeklyPerName), wait)
	case b.SameDomain >= weeklyPerDomain:
		return verdict("budget", false, fmt.Sprintf("%d certificates for %s in the last 7 days; public authorities stop at %d", b.SameDomain, b.Domain, weeklyPerDomain), wait)
	}
	return verdict("budget", true, fmt.Sprintf("%d of %d certificates for this name, and %d of %d for %s, were issued here in the last 7 days",
		b.SameName, weeklyPerName, b.SameDomain, weeklyPerDomain, b.Domain), "")
}

// isPrivate reports whether no authority can reach a, or whether it stands for one
// that none can reach: whoever has a name in the DNS says where it leads, and must not
// have this server ask around where only it can.
func isPrivate(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() ||
		a.Is6() && !global6.Contains(a) || slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

var (
	// global6 are the IPv6 addresses that are given out (RFC 4291, section 2.4). Those
	// that translators make of IPv4 are outside.
	global6 = netip.MustParsePrefix("2000::/3")
	special = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),        // this network, RFC 791
		netip.MustParsePrefix("100.64.0.0/10"),    // of providers, RFC 6598
		netip.MustParsePrefix("168.63.129.16/32"), // Azure's host agent
		netip.MustParsePrefix("192.0.0.0/24"),     // protocols, with the metadata of Oracle Cloud
		netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks, RFC 2544
		netip.MustParsePrefix("240.0.0.0/4"),      // reserved, broadcast
		netip.MustParsePrefix("2001::/32"),        // Teredo, RFC 4380
		netip.MustParsePrefix("2002::/16"),        // 6to4, RFC 3056
	}
)

func join(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " and ")
}

// plain is an error in one short line.
func plain(err error) string {
	const most = 200
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
