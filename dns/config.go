package dns

import (
	"net/netip"
	"slices"
	"time"
)

// defaultTTL is how long clients keep a local answer, and the absence of one.
// A renamed peer is found under its new name a minute later.
const defaultTTL = time.Minute

// maxLocalTTL keeps a TTL within the 31 bits of RFC 2181 section 8, and sane.
const maxLocalTTL = 24 * time.Hour

// Config is what the server answers by itself. It is not written after Prepare.
type Config struct {
	// Records are the names of the internal zone.
	Records []Record

	// Domains are names outside the zone that are served here: the domains of
	// enabled routes and the admin host. Each answers Address, exactly its
	// name and nothing below it.
	Domains []string

	// Address is the tunnel address of this server, IPv4, and Address6 the one of
	// IPv6, zero if it has none. They are never used as upstreams. Address must be
	// set if there are Domains.
	Address, Address6 netip.Addr

	// TTL of local answers in whole seconds; zero means one minute.
	TTL time.Duration
}

// Record gives an IPv4 address and, if it is not zero, an IPv6 address a name. A
// single label, "nas", answers as
// nas.<zone> and as nas; a relative name, "web.nas", answers below the zone
// only. The first record of an address is what its reverse lookup answers.
type Record struct {
	Name  string
	Addr  netip.Addr
	Addr6 netip.Addr
}

// Equal reports whether c and d ask for the same, in the same order.
func (c Config) Equal(d Config) bool {
	return c.Address == d.Address && c.Address6 == d.Address6 && c.TTL == d.TTL &&
		slices.Equal(c.Records, d.Records) && slices.Equal(c.Domains, d.Domains)
}
