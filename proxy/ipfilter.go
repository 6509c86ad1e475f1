package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/valyala/fasthttp"
	"go4.org/netipx"

	"gatecontrol/model"
)

// maxIPRules bounds the rules of one filter; the API has the same bound.
const maxIPRules = 500

// ipFilter decides by the address of the connection. A country that cannot be
// found out lets nobody in, whichever way the list is meant.
type ipFilter struct {
	white     bool // who matches is let in; else who matches is refused
	nets      *netipx.IPSet
	countries map[string]struct{}
	tunnel    []netip.Prefix
	country   func(netip.Addr) (string, error) // nil: there is no database
}

func newIPFilter(d *draft) (gate, error) {
	f := d.in.Options.IPFilter
	if f == nil {
		return nil, nil
	}
	g := &ipFilter{tunnel: d.snap.tunnel, country: d.srv.opts.Country}
	switch f.Mode {
	case model.FilterWhitelist:
		g.white = true
	case model.FilterBlacklist:
	default:
		return nil, model.Invalid("ip_filter_mode", "%q is not a mode", f.Mode)
	}
	if len(f.Rules) > maxIPRules {
		return nil, model.Invalid("ip_filter_rules", "at most %d rules", maxIPRules)
	}
	var b netipx.IPSetBuilder
	for i, r := range f.Rules {
		field := fmt.Sprintf("ip_filter_rules[%d]", i)
		switch r.Type {
		case model.RuleIP:
			a, err := netip.ParseAddr(r.Value)
			if err != nil || a.Zone() != "" {
				return nil, model.Invalid(field, "%q is not an address", r.Value)
			}
			b.Add(a.Unmap())
		case model.RuleCIDR:
			p, ok := parseNetwork(r.Value)
			if !ok {
				return nil, model.Invalid(field, "%q is not a network", r.Value)
			}
			b.AddPrefix(p)
		case model.RuleCountry:
			if len(r.Value) != 2 {
				return nil, model.Invalid(field, "%q is not a country code of two letters", r.Value)
			}
			if g.countries == nil {
				g.countries = make(map[string]struct{})
			}
			g.countries[strings.ToUpper(r.Value)] = struct{}{}
		default:
			return nil, model.Invalid(field, "%q is not a type of rule", r.Type)
		}
	}
	var err error
	if g.nets, err = b.IPSet(); err != nil {
		return nil, model.Invalid("ip_filter_rules", "%v", err)
	}
	return g, nil
}

// parseNetwork reads a network; one of IPv4 that is written as IPv6 is IPv4.
func parseNetwork(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

var (
	refusedList     = pageVerdict(fasthttp.StatusForbidden, "a rule of the address filter matches", "")
	refusedUnlisted = pageVerdict(fasthttp.StatusForbidden, "no rule of the address filter matches", "")
	refusedUnknown  = pageVerdict(fasthttp.StatusForbidden, "the country of the client cannot be found out", "")
)

func (g *ipFilter) check(v *visit) *verdict {
	matched := g.nets.Contains(v.addr)
	var err error
	if !matched && len(g.countries) > 0 {
		matched, err = g.inCountry(v.addr)
	}
	switch {
	case matched && g.white:
		v.note = "a rule matches"
		return nil
	case matched:
		return refusedList
	case err != nil:
		return refusedUnknown
	case g.white:
		return refusedUnlisted
	}
	v.note = "no rule matches"
	return nil
}

var errNoDatabase = errors.New("there is no database of countries")

// inCountry reports whether addr is in one of the countries. Private addresses
// and those of the tunnel are in none, for certain.
func (g *ipFilter) inCountry(addr netip.Addr) (bool, error) {
	if hasNoCountry(addr) || containsAddr(g.tunnel, addr) {
		return false, nil
	}
	if g.country == nil {
		return false, errNoDatabase
	}
	code, err := g.country(addr)
	if err != nil {
		return false, err
	}
	_, ok := g.countries[code]
	return ok, nil
}

var sharedNetwork = netip.MustParsePrefix("100.64.0.0/10") // of providers (RFC 6598)

func hasNoCountry(a netip.Addr) bool {
	return !a.IsGlobalUnicast() || a.IsPrivate() || sharedNetwork.Contains(a)
}

func containsAddr(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
