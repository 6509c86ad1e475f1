package wireguard

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"gatecontrol/model"
)

func TestStamp(t *testing.T) {
	for range 1000 {
		before := time.Now()
		theirs := tai64n.Now()
		after := time.Now()
		if stampOf(before).After(theirs) || theirs.After(stampOf(after)) {
			t.Fatalf("%x is not between %x and %x", theirs, stampOf(before), stampOf(after))
		}
		at := stampTime(theirs)
		if passed := after.Sub(at); passed < 0 || passed > time.Second || stampOf(at) != theirs {
			t.Fatalf("%x is %s", theirs, at)
		}
	}
}

// A server is restarted with a clock that was set back by a year, or begins in
// 1970. A peer of another make, which knows the old times, takes its handshakes.
func TestRestartWithClockSetBack(t *testing.T) {
	for name, back := range map[string]time.Duration{
		"a year": 365 * 24 * time.Hour, "no battery": time.Since(time.Unix(100, 0)), "not at all": 0,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := model.NewPrivateKey()
			ping := tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
			server := newEnd(t).open(t)
			tun, d := foreign(t, key, server, model.PrivateKey{}, 0)
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(foreignCounter(t, d, "listen_port")))
			var seen time.Time
			for run := range 3 {
				if run > 0 {
					port := server.Port()
					if err := server.Close(); err != nil {
						t.Fatal(err)
					}
					var h host
					h.set(-back)
					server = newEndOf(t, server.key, h.clocks)
					if err := server.Open(port); err != nil {
						t.Fatal(err)
					}
				}
				p, err := server.Add(PeerConfig{PublicKey: key.Public()})
				if err != nil {
					t.Fatal(err)
				}
				if run > 0 {
					server.StampAfter(seen)
				}
				p.SetEndpoint(at)
				began := time.Now()
				send(p, ping)
				select {
				case got := <-tun.Inbound:
					if !bytes.Equal(got, ping) {
						t.Fatal("another packet came")
					}
				case <-time.After(patience):
					t.Fatalf("nothing came in run %d", run)
				}
				came := time.Now()
				if took := came.Sub(began); took > soon {
					t.Errorf("it took %s in run %d", took, run)
				}
				seen = p.Status().Stamped
				ahead := time.Until(seen)
				if limit := time.Duration(run) * (stampMargin + 2*time.Second); ahead > limit || back == 0 && ahead > 0 {
					t.Errorf("the stamp of run %d is %s ahead", run, ahead)
				}
				// The next initiation may come within initiationGap, or with the same time.
				eventually(t, "next time", func() bool { return time.Since(came) > initiationGap+2*stampGrain })
			}
		})
	}
}

// A peer that was put out and comes back, as one that was disabled does, gets no
// earlier times than before, although the clock was set back meanwhile. What is
// told of it is what it got.
func TestStampsGoOnWithoutPeer(t *testing.T) {
	c := newCouple(t)
	c.greet(before)
	last := c.toB.stamped
	c.a.wall = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	c.a.Remove(c.toB)
	p, err := c.a.Add(PeerConfig{PublicKey: c.b.key.Public(), Endpoint: whereB.addr})
	if err != nil {
		t.Fatal(err)
	}
	if at := p.Status().Stamped; !at.IsZero() {
		t.Errorf("it was greeted at %s", at)
	}
	if m, err := p.initiation(before + 10*second); err != nil || m == nil || !p.stamped.After(last) {
		t.Errorf("%x comes after %x: %v", p.stamped, last, err)
	}
	if at := p.Status().Stamped; !at.Equal(stampTime(p.stamped)) {
		t.Errorf("it was greeted at %s, not at %s", at, stampTime(p.stamped))
	}
}
