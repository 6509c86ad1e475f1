package netstack

import (
	"net/netip"
	"time"

	"gatecontrol/model"
)

const (
	// farewellTime is for how long it is worth to know where a peer was that is out:
	// after that somebody else may be there.
	farewellTime = time.Hour
	// maxFarewells bounds what is known of such peers. Of more of them, some have to
	// speak first when they come back.
	maxFarewells = 1024
)

// farewells tell where peers were that are out of the tunnel, by their keys. One that
// comes back does not know that its session is gone, and, if it only listens, would be
// out of reach for minutes: it is greeted where it was.
type farewells map[model.PublicKey]farewell

type farewell struct {
	endpoint netip.AddrPort
	heard    time.Time
}

// bid notes where a peer is that leaves at now.
func (f farewells) bid(key model.PublicKey, endpoint netip.AddrPort, heard, now time.Time) {
	if !endpoint.IsValid() || now.Sub(heard) > farewellTime {
		return
	}
	seen := 0
	for old, was := range f { // a few at a time, and one in any case if there is no room
		if now.Sub(was.heard) > farewellTime || len(f) >= maxFarewells {
			delete(f, old)
		}
		if seen++; seen == 4 {
			break
		}
	}
	f[key] = farewell{endpoint, heard}
}

// back returns where a peer was that comes back at now; invalid if that is not known.
func (f farewells) back(key model.PublicKey, now time.Time) netip.AddrPort {
	was, ok := f[key]
	delete(f, key)
	if !ok || now.Sub(was.heard) > farewellTime {
		return netip.AddrPort{}
	}
	return was.endpoint
}
