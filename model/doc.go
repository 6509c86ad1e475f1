// Package model holds the nouns of GateControl: what they are made of, which
// values they may take, and the pure rules that follow from that. It imports
// nothing of ours, does no I/O and keeps no state, so every other package may
// import it.
//
// # Glossary
//
// The same word is used in code, API, interface and documentation.
//
//   - peer: a WireGuard device that may join the tunnel, known by its public key.
//   - group: peers under one name, with switches that hold for all of them.
//   - tunnel address: the IPv4 address of a peer inside the tunnel subnet; that of
//     this server is the gateway address.
//   - allowed IPs: prefixes whose packets belong to a peer, in both directions
//     (WireGuard paper, section 2, "cryptokey routing").
//   - endpoint: the outer UDP address at which a peer was last heard.
//   - handshake: the key exchange of WireGuard; a peer is online while its last one
//     is younger than 180 seconds.
//   - keepalive: seconds between empty packets that keep a NAT mapping open, 0 is off.
//   - preshared key: 32 secret bytes mixed into the handshake.
//   - up, down: the directions of a peer's limits, seen from the peer: up is what it
//     sends. Rx and tx are this server's: rx is what it received from the peer.
//   - quota: the bytes that a peer may move in a calendar month in UTC, both
//     directions together, as WireGuard counts them.
//   - hub: what carries a packet between peers, this server and the internet.
//   - exit: the way out to the internet for packets of peers.
//   - route: a published service: a domain (type http) or a port (type l4) and the
//     target behind it.
//   - target: what an administrator picks: a peer and a port, an address and a port,
//     or a service behind a home gateway.
//   - access window: times of the week at which a route or a peer can be used, or at
//     which it cannot; access rule in the API.
//   - home gateway: a peer that takes requests in the tunnel and leads them on to
//     services in the network that it is in.
//   - picture: an image that the sign-in page of a route shows, as its logo or in the
//     background.
//   - upstream: what the proxy dials for a target.
//   - listener: an open port of ours.
//   - zone, record, forwarder: the internal DNS domain, one name in it, and who answers
//     everything else (RFC 9499).
//   - flow: one TCP connection or UDP association through l4 or the exit.
//   - session: a signed-in person; token: a credential of a program.
//   - actor: who asks: a session's user, a token, or the server itself.
//   - event: one line of the activity log.
//   - intent: what administrators asked for, as stored; revision: its version.
//   - plan: intent compiled for the planes; plane: one of netstack, dns, l4 and proxy.
//   - check: one look at whether the service behind a route answers; probe: where and
//     how that is asked. A monitored route is checked time and again.
//   - trouble: what is in the way of a tunnel, as far as this server can tell.
//   - condition: a lasting state that a person should know of, a trouble for one.
//
// Times are UTC. Durations are time.Duration, sizes are bytes, addresses are
// net/netip values.
package model
