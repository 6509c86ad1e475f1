// Package dns is the resolver of the tunnel. It answers the internal zone and
// the domains of routes from its Config, and asks upstream resolvers for
// everything else. It owns the zone's index, the cache and the connections to
// upstreams; the sockets it serves are handed to it. It knows nothing of the
// store or the other planes: it imports only model, and the types of
// github.com/miekg/dns do not leave it.
//
// Queries are read and local or cached answers written as bytes, without an
// allocation; only what goes to and comes from upstreams is taken apart.
package dns
