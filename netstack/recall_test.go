package netstack

import (
	"net/netip"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestRecall(t *testing.T) {
	a, b := newForeign(t, 2), newForeign(t, 3)
	d := started(t, nil, peers(a, b))
	b.join(d)
	where := b.seenBy(d).Endpoint
	old, later := netip.MustParseAddrPort("192.0.2.7:51820"), time.Now().Add(24*time.Hour)
	d.Recall(map[model.PublicKey]model.PeerMemory{
		a.key.Public():                      {Endpoint: old, Stamped: later},
		b.key.Public():                      {Endpoint: old, Stamped: time.Now().Add(-time.Hour)},
		model.NewPrivateKey().Public():      {Endpoint: old, Stamped: later}, // deleted meanwhile
		newForeign(t, 4).config().PublicKey: {},
	})
	if s := a.seenBy(d); s.Endpoint != old || !s.Stamped.IsZero() {
		t.Errorf("an absent peer is at %s, and was greeted at %s", s.Endpoint, s.Stamped)
	}
	if _, err := dialPeer(t, d, "udp", a.addr, 9).Write([]byte("anybody there?")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "greeting with a time after all before", func() bool { return a.seenBy(d).Stamped.After(later) })
	if s := b.seenBy(d); s.Endpoint != where || !s.Stamped.IsZero() {
		t.Errorf("a peer that was heard at %s is at %s, and has seen %s", where, s.Endpoint, s.Stamped)
	}
}
