package dns

import "maps"

// maxChanges is up to how many lines of a Config an index is changed by rather
// than built anew. One call of the API changes one or two.
const maxChanges = 64

// with returns the index of c, made from x by what is different in c, so that
// one change among 10,000 names costs a copy. It reports false where that is not
// possible: too much is different, or a name is held by several lines, whose
// order counts.
func (x *index) with(zone string, c Config, serial uint32) (*index, bool) {
	if !c.Address.IsValid() || c.Address != x.config.Address || c.Address6 != x.config.Address6 || c.TTL != x.config.TTL {
		return nil, false
	}
	lostRecords, newRecords := middle(x.config.Records, c.Records)
	lostDomains, newDomains := middle(x.config.Domains, c.Domains)
	if len(lostRecords)+len(newRecords)+len(lostDomains)+len(newDomains) > maxChanges {
		return nil, false
	}
	next := newHead(zone, c, serial, x.ttl)
	next.names = maps.Clone(x.names)
	ok := true
	for _, r := range lostRecords {
		for _, name := range recordNames(zone, r) {
			ok = ok && next.drop(name)
		}
	}
	for _, d := range lostDomains {
		wire, err := wireName("domain", d)
		ok = ok && err == nil && next.drop(wire)
	}
	for _, r := range newRecords {
		for _, name := range recordNames(zone, r) {
			ok = ok && next.names[name].kind == emptyName
		}
		ok = ok && next.addRecord(zone, r) == nil
	}
	for _, d := range newDomains {
		wire, err := wireName("domain", d)
		ok = ok && err == nil && next.names[wire].kind == emptyName && next.addDomain(d) == nil
	}
	return next, ok
}

// middle returns what is left of two lists without what they share at their
// heads and tails.
func middle[E comparable](a, b []E) (onlyA, onlyB []E) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

// recordNames lists the wire names that addRecord enters for r; none if r is
// refused there.
func recordNames(zone string, r Record) []string {
	rel, err := wireName("hostname", r.Name)
	if err != nil || !r.Addr.Is4() || !isIPv6OrNone(r.Addr6) {
		return nil
	}
	names := append(reverseNames(r), rel[:len(rel)-1]+zone)
	if parent(rel) == "\x00" {
		names = append(names, rel)
	}
	return names
}

// hold counts one more line of the Config that holds name, which is there, and
// enters the names between it and its apex.
func (x *index) hold(name string) {
	for up, d := name, x.depth(name); ; up, d = parent(up), d-1 {
		e := x.names[up]
		e.up = d
		e.holders++
		x.names[up] = e
		if d <= 1 {
			return
		}
	}
}

// drop undoes hold. It reports false, and does nothing, if another line holds
// the name, too.
func (x *index) drop(name string) bool {
	e, ok := x.names[name]
	if !ok || e.holders != 1 {
		return false
	}
	for up, d := name, e.up; ; up, d = parent(up), d-1 {
		e := x.names[up]
		if e.holders--; e.holders == 0 {
			delete(x.names, up)
		} else {
			x.names[up] = e
		}
		if d <= 1 {
			return true
		}
	}
}
