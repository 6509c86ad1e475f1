package app_test

import (
	"fmt"
	"regexp"
	"testing"

	"gatecontrol/lab"
)

// TestMarksOfTheNetwork has a router at the peer mark every 20th packet that says
// it may be, in both directions, while the peer's kernel and this server send to
// each other: both see marks, tell each other, slow down and lose nothing.
func TestMarksOfTheNetwork(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping", "nft")
	l := newLink(t)
	l.join()
	lab.EchoTCP(t, l.peer.Namespace, l.peer.Addr.String()+":7000")
	tun := l.peer.Interface()
	l.peer.Run(t, "nft", fmt.Sprintf(`
table ip router {
	counter reached {}
	counter marked {}
	counter told {}
	counter slower {}
	chain in {
		type filter hook prerouting priority raw
		iifname %[1]q ip ecn ect0 counter name reached
		iifname %[1]q tcp flags & (syn | ecn) == ecn counter name told
		iifname %[1]q tcp flags & (syn | cwr) == cwr counter name slower
		iifname %[1]q ip ecn ect0 numgen inc mod 20 0 ip ecn set ce
	}
	chain out {
		type filter hook postrouting priority raw
		oifname %[1]q ip ecn ect0 numgen inc mod 20 0 counter name marked ip ecn set ce
	}
}`, tun))
	l.roundTrip(t, 16<<20, nil)
	counters := l.peer.Run(t, "nft", "list", "counters")
	for _, name := range []string{"reached", "marked", "told", "slower"} {
		var n int
		if m := regexp.MustCompile(`counter ` + name + ` \{\s*packets (\d+)`).FindStringSubmatch(counters); m != nil {
			_, _ = fmt.Sscan(m[1], &n)
		}
		if n < 10 {
			t.Errorf("%s: %d packets", name, n)
		}
	}
}
