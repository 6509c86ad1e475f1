package proxy

import (
	"net/netip"

	"gatecontrol/model"
)

// match is what a Host field leads to.
type match struct {
	route *route // nil if nobody serves that name
	other bool   // the connection was made for another name (its SNI)
}

// match looks up a Host field for a connection with the given SNI, which may be
// empty. A request for another name than the connection's could slip past what
// TLS decided for that name (RFC 9110, section 7.4).
func (s *snapshot) match(host []byte, sni string) match {
	var buf [model.MaxHostname]byte
	name, ok := model.AppendHost(buf[:0], host)
	if !ok {
		return match{}
	}
	return match{route: s.hosts[string(name)], other: sni != "" && string(name) != sni}
}

// trusts reports whether what addr says in X-Forwarded-* is believed.
func (s *snapshot) trusts(addr netip.Addr) bool {
	for _, p := range s.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
