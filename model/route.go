package model

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// RouteType tells a web route from a port route.
type RouteType string

// The route types.
const (
	RouteHTTP RouteType = "http"
	RouteL4   RouteType = "l4"
)

// TLS modes of an l4 route.
const (
	TLSNone        = "none"        // bytes as they come
	TLSPassthrough = "passthrough" // chosen by SNI, still encrypted
	TLSTerminate   = "terminate"   // chosen by SNI, decrypted here
)

// Route is a published service.
type Route struct {
	ID          RouteID   `json:"id"`
	Domain      string    `json:"domain,omitempty"` // normalised; a label or empty for l4
	Type        RouteType `json:"type"`
	Enabled     bool      `json:"enabled"`
	Description *string   `json:"description,omitempty"`

	Target Target `json:"target"`

	ForceHTTPS bool `json:"force_https"` // plain requests are sent to https
	// BackendHTTPS is TLS to the backend, its certificate unchecked. Behind a home
	// gateway that is the gateway's way to it, not ours to the gateway.
	BackendHTTPS bool `json:"backend_https"`

	Monitored bool `json:"monitored,omitempty"` // its service is checked time and again

	Windows Windows `json:"windows,omitzero"` // when it can be used

	L4  *L4  `json:"l4,omitempty"`  // only for RouteL4
	Web *Web `json:"web,omitempty"` // only for RouteHTTP; nil: DefaultWeb

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Options returns what a web route has besides its target.
func (r *Route) Options() Web {
	if r.Web == nil {
		return DefaultWeb()
	}
	return *r.Web
}

// Label is what people know r by: its domain, or else its ports.
func (r *Route) Label() string {
	if r.Domain != "" || r.L4 == nil {
		return r.Domain
	}
	return r.L4.Network + " " + r.L4.Ports.String()
}

// Target is what an administrator picks: a peer and a port of it, an address and
// a port, or a service behind a home gateway.
type Target struct {
	Peer PeerID     `json:"peer,omitempty"` // 0: Addr counts
	Addr netip.Addr `json:"addr"`           // with a peer: its tunnel address when this was written
	Port uint16     `json:"port"`

	// Gateway counts instead of Peer and Addr, which are zero beside it. Port is
	// then what the API shows, mostly that of Gateway.
	Gateway *GatewayTarget `json:"gateway,omitempty"`
}

// L4 is what a port route adds.
type L4 struct {
	Network string    `json:"network"` // "tcp" or "udp"
	Ports   PortRange `json:"ports"`
	TLS     string    `json:"tls"`
}

// PortRange is one port, or every port from First to Last.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Overlaps reports whether r and o share a port.
func (r PortRange) Overlaps(o PortRange) bool { return r.First <= o.Last && o.First <= r.Last }

// Contains reports whether port lies in r.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Len returns the number of ports in r.
func (r PortRange) Len() int { return int(r.Last) - int(r.First) + 1 }

// ParsePortRange reads "3389" or "5000-5010".
func ParsePortRange(field, s string) (PortRange, error) {
	bad := Invalid(field, "must be a port (1-65535) or a range such as 5000-5010")
	first, last, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil || a == 0 {
		return PortRange{}, bad
	}
	if !isRange {
		return PortRange{uint16(a), uint16(a)}, nil
	}
	b, err := strconv.ParseUint(last, 10, 16)
	if err != nil || b < a {
		return PortRange{}, bad
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

// PortConflict is the detail of a refused port.
type PortConflict struct {
	Port            uint16  `json:"port"`
	ConflictRouteID RouteID `json:"conflictRouteId"`
	SuggestedPort   uint16  `json:"suggestedPort,omitempty"`
}

var (
	domainLabel = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	topLabel    = regexp.MustCompile(`^[a-z]{2,63}$`)
)

// ParseDomain trims and lower-cases s and checks that it is a domain that a
// route can have: at least two labels of letters, digits and hyphens, the last
// one letters only, 253 characters at most.
func ParseDomain(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	labels := strings.Split(s, ".")
	ok := len(s) <= 253 && len(labels) >= 2 && topLabel.MatchString(labels[len(labels)-1])
	for _, l := range labels {
		ok = ok && domainLabel.MatchString(l)
	}
	if !ok {
		return "", Invalid("domain", "must be a domain such as app.example.com")
	}
	return s, nil
}

// reservedTargets are ranges that a direct target must not lie in: a route must
// not open this server's own network to the outside (security: SSRF).
var reservedTargets = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16",
	"172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// ParseTargetIP reads the IPv4 address of a direct target, which must not lie
// in a private or reserved range.
func ParseTargetIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || !a.Is4() {
		return netip.Addr{}, Invalid("target_ip", "must be an IPv4 address")
	}
	for _, p := range reservedTargets {
		if p.Contains(a) {
			return netip.Addr{}, Invalid("target_ip", "%s lies in the private or reserved range %s; publish it through a peer", a, p)
		}
	}
	return a, nil
}

// publicExceptions are top-level labels that no public certificate authority
// serves (RFC 6761, RFC 8375 and what home networks use).
var publicExceptions = map[string]bool{
	"test": true, "local": true, "invalid": true, "internal": true, "lan": true,
	"home": true, "localhost": true, "corp": true, "example": true, "arpa": true,
}

// DomainIsPublic reports whether a public certificate authority could serve
// domain.
func DomainIsPublic(domain string) bool {
	last := domain[strings.LastIndexByte(domain, '.')+1:]
	return last != domain && !publicExceptions[last] && topLabel.MatchString(last)
}
