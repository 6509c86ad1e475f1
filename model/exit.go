package model

import (
	"net/netip"
	"slices"
	"strings"
)

// Exit is what peers may reach through this server's own connection.
type Exit struct {
	Enabled         bool
	PrivateNetworks []netip.Prefix // that they may reach, a home's say; masked, in order
	RedirectDNS     bool           // questions to other resolvers are answered by this server's
}

// The settings that hold what of Exit was changed, as a backup spells them.
const (
	ExitEnabledKey  = "exit.enabled"
	ExitPrivateKey  = "exit.private_networks"
	ExitRedirectKey = "exit.redirect_dns"
)

// ExitKeys lists them.
func ExitKeys() []string { return []string{ExitEnabledKey, ExitPrivateKey, ExitRedirectKey} }

// With returns e with a stored setting. A value that cannot be read opens
// nothing; other keys than ExitKeys change nothing.
func (e Exit) With(key, value string) Exit {
	switch key {
	case ExitEnabledKey:
		e.Enabled = value == "true"
	case ExitPrivateKey:
		e.PrivateNetworks, _ = ParseNetworks("", value)
	case ExitRedirectKey:
		e.RedirectDNS = value == "true"
	}
	return e
}

// MaxNetworks bounds a list of networks: each flow is held against all of them.
const MaxNetworks = 64

// ParseNetworks reads networks separated by commas, IPv4 or IPv6, masks them, and
// puts them in order, each once. The empty text is the empty list.
func ParseNetworks(field, s string) ([]netip.Prefix, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	if len(s) > 64*MaxNetworks { // no network needs as much
		return nil, Invalid(field, "must name at most %d networks", MaxNetworks)
	}
	var list []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil || p.Addr().Is4In6() {
			return nil, Invalid(field, "must be networks such as 192.168.1.0/24, with commas between them")
		}
		list = append(list, p.Masked())
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	if list = slices.Compact(list); len(list) > MaxNetworks {
		return nil, Invalid(field, "must name at most %d networks", MaxNetworks)
	}
	return list, nil
}

// JoinNetworks is the inverse of ParseNetworks.
func JoinNetworks(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}
