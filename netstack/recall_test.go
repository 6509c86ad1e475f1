package netstack

import (
	"io"
	"net"
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

// TestComesBack takes a peer out of the tunnel and lets it in again, which it does not
// notice: it is greeted where it was, and so reached at once.
func TestComesBack(t *testing.T) {
	a, b := newForeign(t, 2), newForeign(t, 3)
	d := started(t, nil, peers(a, b))
	a.join(d)
	b.join(d)
	a.listen(7000, func(c net.Conn) { _, _ = io.Copy(c, c) })
	where := a.seenBy(d).Endpoint
	for range 2 {
		apply(t, d, peers(b))
		apply(t, d, peers(a, b))
		if s := a.seenBy(d); s.Endpoint != where || !s.LastHandshake.IsZero() {
			t.Errorf("the peer is at %s, where it shook hands at %v; it was at %s", s.Endpoint, s.LastHandshake, where)
		}
		c := dialPeer(t, d, "tcp", a.addr, 7000)
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, len("hello"))
		if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "hello" {
			t.Errorf("%q, %v", echo, err)
		}
	}
	// With another preshared key it is another one.
	other := a.config()
	other.PresharedKey = model.NewPresharedKey()
	apply(t, d, Config{Peers: []Peer{other, b.config()}})
	if s := a.seenBy(d); s.Endpoint.IsValid() {
		t.Errorf("with another key the peer is at %s", s.Endpoint)
	}
}

func TestFarewells(t *testing.T) {
	f, now := make(farewells), time.Now()
	at := netip.MustParseAddrPort("192.0.2.7:51820")
	keys := make([]model.PublicKey, maxFarewells+10)
	for i := range keys {
		keys[i] = model.PublicKey(model.NewPrivateKey()) // any bytes are one
		f.bid(keys[i], at, now, now)
		if len(f) > maxFarewells {
			t.Fatalf("%d are kept", len(f))
		}
	}
	last := keys[len(keys)-1]
	if got := f.back(last, now.Add(farewellTime)); got != at || len(f) != maxFarewells-1 {
		t.Errorf("%s of %d", got, len(f))
	}
	for name, heard := range map[string]time.Time{"never": {}, "long ago": now.Add(-farewellTime - 1)} {
		if f.bid(last, at, heard, now); f.back(last, now).IsValid() {
			t.Errorf("one that was heard %s is greeted", name)
		}
	}
	if f.bid(last, at, now, now); f.back(last, now.Add(farewellTime+1)).IsValid() {
		t.Error("one that comes back late is greeted")
	}
}
