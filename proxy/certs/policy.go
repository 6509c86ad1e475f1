package certs

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"time"

	"gatecontrol/model"
)

// arrangeLocked works out what every name shows and which certificates are to be
// had. Names of which the same holds as before keep their state.
func (m *Manager) arrangeLocked(now time.Time) {
	m.arranged = now
	table := make(map[string]*entry, len(m.names))
	subjects := make(map[string]*subject)
	for _, name := range m.names {
		e := new(entry)
		if e.upload = m.uploadOf(name, now); e.upload == nil && m.certifies(name) {
			key, _ := m.subjectOf(name)
			s := subjects[key]
			if s == nil {
				if s = m.subjects[key]; s == nil {
					s = &subject{name: key}
				}
				subjects[key] = s
			}
			e.subject = s
		}
		table[name] = e
	}
	for key, s := range m.subjects {
		if subjects[key] == nil {
			s.forget(m)
		}
	}
	m.subjects = subjects
	m.table.Store(&table)
}

// certifies reports whether a name is to have the certificate of an authority
// that speaks ACME.
func (m *Manager) certifies(name string) bool {
	if len(m.cas) == 0 {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	if m.opts.AllNames {
		return strings.Contains(name, ".")
	}
	return model.DomainIsPublic(name)
}

// uploadOf returns the certificate that was brought for a name: an exact name
// before a wildcard, and of those the one that lasts longest. One that has
// expired no longer wins.
func (m *Manager) uploadOf(name string, now time.Time) *tls.Certificate {
	var best *tls.Certificate
	exact := false
	for _, u := range m.uploads {
		if !model.Covers(u.Names, name) || now.After(u.Cert.Leaf.NotAfter) {
			continue
		}
		is := model.Covers([]string{name}, name) && contains(u.Names, name)
		if best == nil || is && !exact || is == exact && u.Cert.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best, exact = u.Cert, is
		}
	}
	return best
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// zoneOf returns the zone that a name is in: the nearest one above. The name may
// be a wildcard.
func zoneOf(zones []Zone, name string) *Zone {
	name = strings.TrimPrefix(name, "*.")
	var best *Zone
	for i := range zones {
		z := &zones[i]
		if (name == z.Zone || strings.HasSuffix(name, "."+z.Zone)) && (best == nil || len(z.Zone) > len(best.Zone)) {
			best = z
		}
	}
	return best
}

// subjectOf returns the name for which the certificate of a host is asked, and
// the zone that proves it, nil if it is proven over HTTP or TLS.
func (m *Manager) subjectOf(host string) (string, *Zone) {
	z := zoneOf(m.zones, host)
	if z != nil && z.Wildcard {
		if label, parent, _ := strings.Cut(host, "."); label != "" && parent == z.Zone {
			return "*." + z.Zone, z
		}
	}
	return host, z
}

// nextExpiryLocked is when the first of the certificates that were brought ends,
// of those that had not when that was looked at last; zero if there is none.
func (m *Manager) nextExpiryLocked() (at time.Time) {
	for _, u := range m.uploads {
		if end := u.Cert.Leaf.NotAfter; !end.Before(m.arranged) && (at.IsZero() || end.Before(at)) {
			at = end
		}
	}
	return at
}
