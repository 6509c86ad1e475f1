package netstack

import (
	"slices"

	"gatecontrol/model"
)

// change is what leads from one table to the next.
type change struct {
	uapi uapiDevice // the difference only; empty if the device is not concerned

	// cut is set when an address left a peer, so that flows have to end.
	cut bool
}

// diff compares two tables. Everything taken away comes before everything
// given, so that a prefix may move from one peer to another in one change.
func diff(old, next *table) change {
	var c change
	var given []uapiPeer
	head, tail := common(len(old.peers), len(next.peers), func(i, j int) bool { return old.peers[i] == next.peers[j] })
	for _, was := range old.peers[head : len(old.peers)-tail] {
		now := next.byKey[was.PublicKey]
		if now == nil || now.identity != was.identity {
			// A new preshared key is a new peer: otherwise the session made with
			// the old one would go on until its next handshake.
			c.uapi.Peers = append(c.uapi.Peers, uapiPeer{PublicKey: was.PublicKey, Remove: true})
			c.cut = true
			continue
		}
		if lost := without(was.AllowedIPs, now.AllowedIPs); len(lost) > 0 {
			c.uapi.Peers = append(c.uapi.Peers, uapiPeer{PublicKey: was.PublicKey, UpdateOnly: true, LostIPs: lost})
			c.cut = true
		}
	}
	for _, now := range next.peers[head : len(next.peers)-tail] {
		was := old.byKey[now.PublicKey]
		if was == nil || was.identity != now.identity {
			given = append(given, now.uapi())
			continue
		}
		u := uapiPeer{PublicKey: now.PublicKey, UpdateOnly: true}
		u.AllowedIPs = without(now.AllowedIPs, was.AllowedIPs)
		touched := len(u.AllowedIPs) > 0
		if now.Keepalive != was.Keepalive {
			u.Keepalive = &now.Keepalive
			touched = true
		}
		if now.Endpoint != was.Endpoint && now.Endpoint.IsValid() {
			u.Endpoint = now.Endpoint // a learned endpoint stays unless the configured one changes
			touched = true
		}
		if touched {
			given = append(given, u)
		}
	}
	c.uapi.Peers = append(c.uapi.Peers, given...)
	return c
}

// uapi describes the whole peer, as for a device that does not know it.
func (p *peer) uapi() uapiPeer {
	u := uapiPeer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs, Keepalive: &p.Keepalive}
	if !p.PresharedKey.IsZero() {
		u.PresharedKey = (*model.PrivateKey)(&p.PresharedKey)
	}
	return u
}

// full is the whole table as one set operation that leaves nothing of before.
func (t *table) full() uapiDevice {
	d := uapiDevice{ReplacePeers: true, Peers: make([]uapiPeer, 0, len(t.peers))}
	for _, p := range t.peers {
		d.Peers = append(d.Peers, p.uapi())
	}
	return d
}

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
