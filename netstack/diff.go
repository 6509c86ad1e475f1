package netstack

import (
	"net/netip"
	"slices"
	"time"

	"gatecontrol/wireguard"
)

// change is what leads from one table to the next.
type change struct {
	removed []*peer
	added   []*peer
	altered []alteration

	// cut is set when an address left a peer, so that flows have to end.
	cut bool
}

// alteration is a peer that stays, with what WireGuard has to know of it.
type alteration struct {
	now                 *peer
	keepalive, endpoint bool // is another
}

// diff compares two tables.
func diff(old, next *table) change {
	var c change
	head, tail := common(len(old.peers), len(next.peers), func(i, j int) bool { return old.peers[i] == next.peers[j] })
	for _, was := range old.peers[head : len(old.peers)-tail] {
		now := next.byKey[was.PublicKey]
		if now == nil || now.identity != was.identity {
			// A new preshared key is a new peer: otherwise the session made with
			// the old one would go on until its next handshake.
			c.removed = append(c.removed, was)
			c.cut = true
		} else if len(without(was.AllowedIPs, now.AllowedIPs)) > 0 {
			c.cut = true
		}
	}
	for _, now := range next.peers[head : len(next.peers)-tail] {
		was := old.byKey[now.PublicKey]
		if was == nil || was.identity != now.identity {
			c.added = append(c.added, now)
			continue
		}
		a := alteration{
			now: now, keepalive: now.Keepalive != was.Keepalive,
			// A learned endpoint stays unless the configured one changes.
			endpoint: now.Endpoint != was.Endpoint && now.Endpoint.IsValid(),
		}
		if a.keepalive || a.endpoint {
			c.altered = append(c.altered, a)
		}
	}
	return c
}

// apply makes the change in the WireGuard device. Removed peers are gone when
// it returns; added ones are heard, but what they send is dropped as long as no
// table has their addresses.
func (c *change) apply(d *Device) {
	now := time.Now()
	endpoints := make([]netip.AddrPort, len(c.added))
	for i, p := range c.added { // before farewells of now: a new preshared key is a new peer
		if endpoints[i] = p.Endpoint; !p.Endpoint.IsValid() {
			endpoints[i] = d.farewells.back(p.PublicKey, now)
		}
	}
	if len(c.removed) > 0 {
		gone := make([]*wireguard.Peer, len(c.removed))
		for i, p := range c.removed {
			gone[i] = p.wg
			s := p.wg.Status()
			d.farewells.bid(p.PublicKey, s.Endpoint, s.LastHandshake, now)
		}
		d.wg.Remove(gone...)
	}
	for i, p := range c.added {
		wg, err := d.wg.Add(wireguard.PeerConfig{
			PublicKey: p.PublicKey, PresharedKey: p.PresharedKey, Endpoint: endpoints[i], Keepalive: seconds(p.Keepalive),
		})
		if err != nil { // only if the device was closed, when nothing matters any more
			d.log.Error("a peer could not be added", "peer", p.Name, "err", err)
		}
		p.wg = wg
	}
	for _, a := range c.altered {
		if a.keepalive {
			a.now.wg.SetKeepalive(seconds(a.now.Keepalive))
		}
		if a.endpoint {
			a.now.wg.SetEndpoint(a.now.Endpoint)
		}
	}
}

func seconds(n uint16) time.Duration { return time.Duration(n) * time.Second }

// without returns the elements of a that are not in b. Both are a peer's few
// prefixes.
func without[E comparable](a, b []E) []E {
	var rest []E
	for _, e := range a {
		if !slices.Contains(b, e) {
			rest = append(rest, e)
		}
	}
	return rest
}
