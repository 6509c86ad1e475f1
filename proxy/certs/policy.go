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
	uploads := indexUploads(m.uploads, now)
	table := make(map[string]*entry, len(m.names))
	subjects := make(map[string]*subject)
	for _, name := range m.names {
		e := new(entry)
		if e.upload = uploads.of(name); e.upload == nil && m.certifies(name) {
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

// uploadIndex finds what was brought by the names that it covers: of several for
// one name the one that lasts longest. One that has expired no longer wins.
type uploadIndex map[string]*tls.Certificate

func indexUploads(list []Upload, now time.Time) uploadIndex {
	index := make(uploadIndex)
	for _, u := range list {
		end := u.Cert.Leaf.NotAfter
		if now.After(end) {
			continue
		}
		for _, name := range u.Names {
			if c := index[name]; c == nil || end.After(c.Leaf.NotAfter) {
				index[name] = u.Cert
			}
		}
	}
	return index
}

// of returns the certificate for a host: an exact name comes before a wildcard,
// which stands for one label.
func (x uploadIndex) of(host string) *tls.Certificate {
	if c := x[host]; c != nil {
		return c
	}
	if _, parent, ok := strings.Cut(host, "."); ok {
		return x["*."+parent]
	}
	return nil
}

// zones are the zones by name.
type zones map[string]*Zone

func indexZones(list []Zone) zones {
	index := make(zones, len(list))
	for i := range list {
		index[list[i].Zone] = &list[i]
	}
	return index
}

// of returns the zone that a name is in, nil if it is in none: the nearest one
// above. The name may be a wildcard.
func (z zones) of(name string) *Zone {
	for at := strings.TrimPrefix(name, "*."); at != ""; _, at, _ = strings.Cut(at, ".") {
		if zone := z[at]; zone != nil {
			return zone
		}
	}
	return nil
}

// subjectOf returns the name for which the certificate of a host is asked, and
// the zone that proves it, nil if it is proven over HTTP or TLS.
func (m *Manager) subjectOf(host string) (string, *Zone) {
	z := m.zones.of(host)
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
