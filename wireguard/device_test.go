package wireguard

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"gatecontrol/model"
)

// patience bounds every wait in these tests.
const patience = 20 * time.Second

// end is a device under test, and what it received.
type end struct {
	*Device
	key model.PrivateKey

	mu       sync.Mutex
	received [][]byte
}

func newEnd(t testing.TB, change ...func(*Options)) *end {
	t.Helper()
	return newEndOf(t, model.NewPrivateKey(), change...)
}

func newEndOf(t testing.TB, key model.PrivateKey, change ...func(*Options)) *end {
	t.Helper()
	e := &end{key: key}
	o := Options{PrivateKey: e.key, MTU: 1420, Receive: func(_ *Peer, packets [][]byte) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, p := range packets {
			e.received = append(e.received, bytes.Clone(p))
		}
	}}
	for _, f := range change {
		f(&o)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	e.Device = d
	t.Cleanup(func() { _ = d.Close() })
	return e
}

func (e *end) open(t testing.TB) *end {
	t.Helper()
	if err := e.Open(0); err != nil {
		t.Fatal(err)
	}
	return e
}

// knows lets other in, at its port of loopback if it is to be greeted.
func (e *end) knows(t testing.TB, other *end, psk model.PrivateKey, greets bool) *Peer {
	t.Helper()
	c := PeerConfig{PublicKey: other.key.Public(), PresharedKey: psk}
	if greets {
		c.Endpoint = other.addr()
	}
	p, err := e.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (e *end) addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.Port())
}

func (e *end) has(packet []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.received {
		if bytes.HasPrefix(p, packet) {
			return true
		}
	}
	return false
}

func send(p *Peer, packets ...[]byte) {
	size := 0
	for _, packet := range packets {
		size += len(packet) + overhead + padding
	}
	b := p.NewBurst(size)
	for _, packet := range packets {
		copy(b.Next(len(packet)), packet)
	}
	b.Send()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s within %s", what, patience)
}

func TestTwoEnds(t *testing.T) {
	for name, psk := range map[string]model.PrivateKey{"plain": {}, "preshared key": model.NewPresharedKey()} {
		t.Run(name, func(t *testing.T) {
			a, b := newEnd(t).open(t), newEnd(t).open(t)
			toB, toA := a.knows(t, b, psk, true), b.knows(t, a, psk, false)
			first := []byte("it waits for the handshake")
			send(toB, first)
			eventually(t, "first packet", func() bool { return b.has(first) })
			var many [][]byte
			for i := range 40 {
				many = append(many, bytes.Repeat([]byte{byte(i)}, 1420))
			}
			send(toA, many...)
			eventually(t, "burst", func() bool { return a.has(many[39]) && a.has(many[0]) })
			if s := toA.Status(); s.TxPackets != 40 || s.RxPackets != 1 || s.LastHandshake.IsZero() || s.Endpoint != a.addr() {
				t.Fatalf("status %+v", s)
			}
			b.Remove(toA)
			before := toA.Status().TxBytes
			send(toA, []byte("nobody is there"))
			if toA.Status().TxBytes != before || b.numbers() != 0 {
				t.Fatal("a removed peer has keys")
			}
		})
	}
}

func TestWrongPresharedKey(t *testing.T) {
	c := newCouple(t)
	c.toA.psk = model.NewPresharedKey()
	answer := c.answer(c.initiation(before), before)
	if answer == nil {
		t.Fatal("the initiation, which does not depend on it, was not answered")
	}
	if _, ok := c.toB.established(answer, before); ok || c.toB.current.Load() != nil {
		t.Fatal("a session with different preshared keys")
	}
}

// foreign is wireguard-go, with a device whose packets the test writes and
// reads.
func foreign(t testing.TB, key model.PrivateKey, peer *end, psk model.PrivateKey, port uint16) (*tuntest.ChannelTUN, *wgdevice.Device) {
	t.Helper()
	tun := tuntest.NewChannelTUN()
	d := wgdevice.NewDevice(tun.TUN(), conn.NewDefaultBind(), wgdevice.NewLogger(wgdevice.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	public := peer.key.Public()
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\npreshared_key=%s\nallowed_ip=0.0.0.0/0\nendpoint=127.0.0.1:%d\n",
		hex.EncodeToString(key[:]), port, hex.EncodeToString(public[:]), hex.EncodeToString(psk[:]), peer.Port())
	if err := d.IpcSet(config); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	return tun, d
}

func TestForeignEnd(t *testing.T) {
	ping := tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	t.Run("it begins", func(t *testing.T) {
		a := newEnd(t).open(t)
		key, psk := model.NewPrivateKey(), model.NewPresharedKey()
		p, err := a.Add(PeerConfig{PublicKey: key.Public(), PresharedKey: psk})
		if err != nil {
			t.Fatal(err)
		}
		tun, _ := foreign(t, key, a, psk, 0)
		tun.Outbound <- ping
		eventually(t, "packet", func() bool { return a.has(ping) })
		send(p, ping)
		select {
		case got := <-tun.Inbound:
			if !bytes.Equal(got, ping) {
				t.Fatal("another packet came")
			}
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	})
	t.Run("we begin", func(t *testing.T) {
		a := newEnd(t).open(t)
		key := model.NewPrivateKey()
		port := freePort(t)
		tun, _ := foreign(t, key, a, model.PrivateKey{}, port)
		p, err := a.Add(PeerConfig{PublicKey: key.Public(), Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
		if err != nil {
			t.Fatal(err)
		}
		send(p, ping)
		select {
		case got := <-tun.Inbound:
			if !bytes.Equal(got, ping) {
				t.Fatal("another packet came")
			}
		case <-time.After(patience):
			t.Fatal("nothing came")
		}
		tun.Outbound <- ping
		eventually(t, "answer", func() bool { return a.has(ping) })
	})
}

func freePort(t testing.TB) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}
