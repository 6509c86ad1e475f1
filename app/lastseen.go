package app

import (
	"net/netip"
	"sync"
	"time"

	"gatecontrol/model"
	"gatecontrol/proxy"
	"gatecontrol/store"
)

// sightingAge is how old what sightings tell may be: error pages come in storms, and
// asking the tunnel for all peers is not for free.
const sightingAge = time.Second

// sightings tells what is known of the peer with a tunnel address: what the tunnel
// knows, and of one that is not in it, or not since the start, what was known before.
type sightings struct {
	peers  func() []model.PeerStatus
	before func(netip.Addr) (last time.Time, known bool)

	mu   sync.Mutex
	read time.Time
	at   map[netip.Addr]sighting // of every peer in the tunnel that it has heard, and of who was asked for
}

type sighting struct {
	proxy.Sighting
	known bool // a peer has the address
}

func (a *App) newSightings() *sightings {
	return &sightings{peers: func() []model.PeerStatus { return a.tunnel.Status().Peers }, before: a.seenBefore}
}

func (s *sightings) lastSeen(addr netip.Addr) (proxy.Sighting, bool) {
	addr = addr.Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.at == nil || now.Sub(s.read) > sightingAge {
		s.read, s.at = now, make(map[netip.Addr]sighting)
		for _, p := range s.peers() {
			for _, prefix := range p.AllowedIPs {
				if prefix.IsSingleIP() && !p.LastHandshake.IsZero() {
					s.at[prefix.Addr()] = sighting{proxy.Sighting{Online: p.Online(now), Last: p.LastHandshake}, true}
				}
			}
		}
	}
	seen, ok := s.at[addr]
	if !ok {
		seen.Last, seen.known = s.before(addr)
		s.at[addr] = seen
	}
	return seen.Sighting, seen.known
}

// seenBefore tells when the peer with a tunnel address was connected last, as far as
// is stored or about to be.
func (a *App) seenBefore(addr netip.Addr) (last time.Time, known bool) {
	err := a.db.View(func(tx *store.Tx) error {
		p, err := store.Peers.Find(tx, "address", addr.String())
		if err != nil || p == nil {
			return err
		}
		known = true
		last = a.traffic.Unsaved(p.PublicKey).LastHandshake
		c, err := store.Counters.Get(tx, p.ID)
		if err == nil && c != nil && c.LastHandshake.After(last) {
			last = c.LastHandshake
		}
		return err
	})
	return last, known && err == nil
}
