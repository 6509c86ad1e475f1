package app

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gatecontrol/model"
	"gatecontrol/proxy"
)

// TestSightings looks at peers that the tunnel has heard, has not heard since the
// start, and does not have, for longer than what was found out is good for.
func TestSightings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addr := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 8, 0, n}) }
		peer := func(n byte, last time.Time) model.PeerStatus {
			return model.PeerStatus{LastHandshake: last, AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr(n), 32), netip.MustParsePrefix("192.168.2.0/24")}}
		}
		now, before := time.Now(), time.Now().Add(-time.Hour)
		inTunnel := []model.PeerStatus{peer(2, now), peer(3, before), peer(4, time.Time{})}
		reads, lookups := 0, 0
		s := &sightings{
			peers: func() []model.PeerStatus { reads++; return inTunnel },
			before: func(a netip.Addr) (time.Time, bool) {
				lookups++
				switch a {
				case addr(2), addr(4):
					return before, true
				case addr(5):
					return time.Time{}, true
				}
				return time.Time{}, false
			},
		}
		type sight struct {
			proxy.Sighting
			known bool
		}
		online, away, never := sight{proxy.Sighting{Online: true, Last: now}, true}, sight{proxy.Sighting{Last: before}, true}, sight{known: true}
		look := func(when string, want map[byte]sight) {
			t.Helper()
			for n, want := range want {
				for range 2 {
					seen, known := s.lastSeen(netip.AddrFrom16(addr(n).As16()))
					if got := (sight{seen, known}); got != want {
						t.Errorf("%s, %s: %+v, want %+v", when, addr(n), got, want)
					}
				}
			}
		}
		first := map[byte]sight{2: online, 3: away, 4: away, 5: never, 6: {}}
		look("at first", first)
		inTunnel = inTunnel[1:]
		time.Sleep(sightingAge)
		look("within a moment", first)
		if reads != 1 || lookups != 3 {
			t.Errorf("the tunnel was asked %d times, and the store %d times", reads, lookups)
		}
		time.Sleep(time.Nanosecond)
		look("after it was disabled", map[byte]sight{2: away, 3: away, 4: away, 5: never, 6: {}})
		if reads != 2 {
			t.Errorf("the tunnel was asked %d times", reads)
		}
	})
}
