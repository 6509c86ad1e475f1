package netstack

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"gatecontrol/lab/relay"
	"gatecontrol/model"
)

// slow keeps a transfer of a MiB on its way long enough to have a middle.
var slow = relay.Path{Rate: 1 << 20, Delay: 5 * time.Millisecond}

// half calls then once half of the bytes have been read.
type half struct {
	steady
	left int64
	then func()
}

func (h *half) Read(b []byte) (int, error) {
	n, err := h.steady.Read(b)
	if h.left -= int64(n); h.left <= 0 && h.then != nil {
		h.then()
		h.then = nil
	}
	return n, err
}

// interrupted transfers a MiB each way and calls f in the middle of it.
func interrupted(t *testing.T, peer, server steady, f func(way string)) {
	const size = 1 << 20
	t.Helper()
	transfer(t, server, &half{peer, size / 2, func() { f("down") }}, size)
	transfer(t, peer, &half{server, size / 2, func() { f("up") }}, size)
}

// A connection goes on when the peer appears under another port or address.
func peerRoams(t *testing.T) {
	cases := make(map[string]func(*testing.T))
	for name, from := range map[string]netip.Addr{
		"another port": {}, "another address": netip.MustParseAddr("127.0.0.77"),
	} {
		cases[name] = func(t *testing.T) {
			a := newForeign(t, 2)
			d := started(t, nil, peers(a))
			r := a.joinBy(d, slow)
			first := a.seenBy(d)
			peer, server := pair(t, a, d)
			before := first
			interrupted(t, peer, server, func(way string) {
				if now := a.seenBy(d); now.Endpoint != r.Endpoints()[0] {
					t.Errorf("%s: before, the endpoint is %s, not %s", way, now.Endpoint, r.Endpoints()[0])
				}
				before = a.seenBy(d)
				if err := r.Rebind(from); err != nil {
					t.Skipf("no address %s: %v", from, err)
				}
			})
			after := a.seenBy(d)
			if after.Endpoint == before.Endpoint || after.Endpoint != r.Endpoints()[0] {
				t.Errorf("the endpoint was %s, is %s, should be %s", before.Endpoint, after.Endpoint, r.Endpoints()[0])
			}
			if !after.LastHandshake.Equal(first.LastHandshake) {
				t.Error("the session did not stay")
			}
		}
	}
	together(t, cases)
}

// A connection goes on after a time without a network.
func networkGoesDark(t *testing.T) {
	dark := 2 * time.Second
	if _, long := chaosBytes(t); long {
		dark = 2 * silence // both sides ask for a new session meanwhile
	}
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	r := a.joinBy(d, slow)
	peer, server := pair(t, a, d)
	interrupted(t, peer, server, func(string) {
		r.Blackhole(true)
		time.AfterFunc(dark, func() { r.Blackhole(false) })
	})
	for way, n := range ways(r) {
		if n.Blackholed == 0 {
			t.Errorf("%s nothing was lost: %+v", way, n)
		}
	}
}

// The server takes a peer back that has forgotten its session.
func peerRestarts(t *testing.T) {
	cases := make(map[string]func(*testing.T))
	for name, c := range map[string]struct {
		quiet bool
		limit time.Duration
	}{
		"and says so":              {false, patience},
		"and waits for the server": {true, silence + patience},
	} {
		cases[name] = func(t *testing.T) {
			a := newForeign(t, 2)
			d := started(t, nil, peers(a))
			a.join(d)
			listen(t, d, 80, echo)
			exchange(t, a.mustDial("tcp", "10.8.0.1:80"), []byte("before"))
			before := a.seenBy(d)

			a.restart(c.quiet)
			p, err := a.net.ListenUDP(&net.UDPAddr{Port: 5000})
			if err != nil {
				t.Fatal(err)
			}
			packetEcho(t, p)
			answers(t, dialPeer(t, d, "udp", a.addr, 5000), c.limit)
			exchange(t, a.mustDial("tcp", "10.8.0.1:80"), []byte("after"))
			if after := a.seenBy(d); !after.LastHandshake.After(before.LastHandshake) {
				t.Error("there was no handshake")
			}
		}
	}
	together(t, cases)
}

// A peer finds its way back to a server that has forgotten it.
func serverRestarts(t *testing.T) {
	a := newForeign(t, 2)
	key, port := model.NewPrivateKey(), uint16(0)
	start := func() *Device {
		d := started(t, func(o *Options) { o.PrivateKey, o.ListenPort = key, port }, peers(a))
		p, err := d.ListenPacket(5000)
		if err != nil {
			t.Fatal(err)
		}
		packetEcho(t, p)
		listen(t, d, 80, echo)
		return d
	}
	d := start()
	a.join(d)
	exchange(t, a.mustDial("tcp", "10.8.0.1:80"), []byte("before"))
	port = d.Status().ListenPort
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = start()
	answers(t, a.mustDial("udp", "10.8.0.1:5000"), silence+patience)
	exchange(t, a.mustDial("tcp", "10.8.0.1:80"), []byte("after"))
	if a.seenBy(d).LastHandshake.IsZero() {
		t.Error("there was no handshake")
	}
}

// restart replaces the peer by one that knows its keys, its port and the server,
// and nothing of the session. A quiet one says nothing until it is spoken to.
func (f *foreign) restart(quiet bool) {
	f.t.Helper()
	text, err := f.wg.IpcGet()
	if err != nil {
		f.t.Fatal(err)
	}
	f.wg.Close()
	var set strings.Builder
	for line := range strings.Lines(text) {
		switch key, _, _ := strings.Cut(line, "="); key {
		case "private_key", "listen_port", "public_key", "preshared_key", "endpoint", "allowed_ip":
			set.WriteString(line)
		case "persistent_keepalive_interval":
			if !quiet {
				set.WriteString(line)
			}
		}
	}
	tun, net := newTUN(f.t, f.addr)
	f.net = net
	f.wg = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	f.t.Cleanup(f.wg.Close)
	if err := f.wg.IpcSet(set.String()); err != nil {
		f.t.Fatal(err)
	}
	if err := f.wg.Up(); err != nil {
		f.t.Fatal(err)
	}
}
