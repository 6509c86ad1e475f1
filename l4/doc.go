// Package l4 forwards TCP connections and UDP datagrams from ports of this
// server to targets, usually inside the tunnel. It owns the listening ports of
// l4 routes, the flows through them and the limits on both. It knows nothing
// of HTTP, of the store or of the other planes: it imports only model, and
// reaches targets through the Dial function it is given.
package l4
