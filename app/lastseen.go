package app

import (
	"net/netip"
	"sync"
	"time"

	"gatecontrol/model"
)

// sightingAge is how old what sightings tell may be: error pages come in storms, and
// asking the tunnel for all peers is not for free.
const sightingAge = 5 * time.Second

// sightings tells when the peer with a tunnel address was connected last.
type sightings struct {
	peers func() []model.PeerStatus

	mu   sync.Mutex
	read time.Time
	last map[netip.Addr]time.Time
}

func (s *sightings) lastSeen(addr netip.Addr) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.last == nil || now.Sub(s.read) > sightingAge {
		s.read, s.last = now, make(map[netip.Addr]time.Time)
		for _, p := range s.peers() {
			for _, prefix := range p.AllowedIPs {
				if prefix.IsSingleIP() {
					s.last[prefix.Addr()] = p.LastHandshake
				}
			}
		}
	}
	at, ok := s.last[addr.Unmap()]
	return at, ok
}
