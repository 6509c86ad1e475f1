package netstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	bundled "golang.zx2c4.com/wireguard/tun/netstack"

	"gatecontrol/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait in these tests. It is long, because tests must
// not depend on the machine's speed.
const patience = 20 * time.Second

var (
	testAddr    = netip.MustParseAddr("10.8.0.1")
	testSubnet  = netip.MustParsePrefix("10.8.0.0/24")
	testAddr6   = netip.MustParseAddr("fd00:8::1")
	testSubnet6 = netip.MustParsePrefix("fd00:8::/64")
)

// newServer returns a device of ours; change, if not nil, adjusts its options.
func newServer(t testing.TB, change func(*Options)) *Device {
	t.Helper()
	o := Options{
		Log:        slog.New(slog.DiscardHandler),
		PrivateKey: model.NewPrivateKey(), Addr: testAddr, Subnet: testSubnet, MTU: 1420,
	}
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// started returns a running device of ours with these peers.
func started(t testing.TB, change func(*Options), config Config) *Device {
	t.Helper()
	d := newServer(t, change)
	apply(t, d, config)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

func apply(t testing.TB, d *Device, config Config) {
	t.Helper()
	p, err := d.Prepare(config)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit()
}

// foreign is a peer of another make: wireguard-go over its own network stack.
type foreign struct {
	t    testing.TB
	key  model.PrivateKey
	psk  model.PrivateKey
	addr netip.Addr
	wg   *device.Device
	net  *bundled.Net

	addr6 netip.Addr // none unless a test gives it one
}

// newForeign makes a peer with the tunnel address 10.8.0.n, not yet connected.
func newForeign(t testing.TB, n byte) *foreign {
	t.Helper()
	f := &foreign{t: t, key: model.NewPrivateKey(), addr: netip.AddrFrom4([4]byte{10, 8, 0, n})}
	return f
}

// config is the server's side of the peer.
func (f *foreign) config() Peer {
	p := Peer{
		Name: f.addr.String(), PublicKey: f.key.Public(), PresharedKey: f.psk,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(f.addr, 32)},
	}
	if f.addr6.IsValid() {
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(f.addr6, 128))
	}
	return p
}

// join connects the peer to a running server and waits for its handshake. The
// peer sends everything into the tunnel.
func (f *foreign) join(d *Device) *foreign {
	f.t.Helper()
	f.up(d)
	eventually(f.t, "handshake of "+f.addr.String(), func() bool {
		for _, p := range d.Status().Peers {
			if p.PublicKey == f.key.Public() {
				return !p.LastHandshake.IsZero()
			}
		}
		return false
	})
	return f
}

func (f *foreign) up(d *Device) {
	f.t.Helper()
	f.upTo(d.key, d.Status().ListenPort)
}

// upTo starts the peer towards a server on a UDP port of loopback.
func (f *foreign) upTo(server model.PublicKey, port uint16) {
	f.t.Helper()
	addrs := []netip.Addr{f.addr}
	if f.addr6.IsValid() {
		addrs = append(addrs, f.addr6)
	}
	tun, net := newTUN(f.t, addrs...)
	f.net = net
	f.wg = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	f.t.Cleanup(f.wg.Close)
	configure(f.t, f.wg, f.key, fmt.Sprintf("public_key=%x\npreshared_key=%x\npersistent_keepalive_interval=25\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		[32]byte(server), [32]byte(f.psk), port))
	if err := f.wg.Up(); err != nil {
		f.t.Fatal(err)
	}
}

// configure gives wireguard-go its private key and the rest of its
// configuration (https://www.wireguard.com/xplatform/#configuration-protocol).
func configure(t testing.TB, wg *device.Device, key model.PrivateKey, rest string) {
	t.Helper()
	if err := wg.IpcSet(fmt.Sprintf("private_key=%x\n%s", [32]byte(key), rest)); err != nil {
		t.Fatal(err)
	}
}

// listenPort asks wireguard-go for its UDP port.
func listenPort(t testing.TB, wg *device.Device) uint16 {
	t.Helper()
	text, err := wg.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = strings.Cut(text, "listen_port=")
	text, _, _ = strings.Cut(text, "\n")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

func (f *foreign) dial(network string, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	return f.net.DialContext(ctx, network, addr)
}

func (f *foreign) mustDial(network, addr string) net.Conn {
	f.t.Helper()
	c, err := f.dial(network, addr)
	if err != nil {
		f.t.Fatalf("%s dials %s %s: %v", f.addr, network, addr, err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// listen opens a TCP port on the peer and serves it with handle.
func (f *foreign) listen(port int, handle func(net.Conn)) {
	f.t.Helper()
	l, err := f.net.ListenTCP(&net.TCPAddr{Port: port})
	if err != nil {
		f.t.Fatal(err)
	}
	serve(f.t, l, handle)
}

// serve runs handle for every connection of l until the test ends.
func serve(t testing.TB, l net.Listener, handle func(net.Conn)) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// packetEcho sends every datagram back.
func packetEcho(t testing.TB, p net.PacketConn) {
	t.Cleanup(func() { _ = p.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from)
		}
	}()
}

// exchange writes msg and wants it back.
func exchange(t testing.TB, c net.Conn, msg []byte) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(msg) {
		t.Fatalf("sent %d bytes, other bytes came back", len(msg))
	}
}

// exchangeDatagram sends msg until it comes back: datagrams may be lost.
func exchangeDatagram(t testing.TB, c net.Conn, msg []byte) {
	t.Helper()
	got := make([]byte, 65535)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience / 100))
		if n, err := c.Read(got); err == nil && string(got[:n]) == string(msg) {
			return
		}
	}
	t.Fatalf("a datagram of %d bytes does not come back", len(msg))
}

// transfer sends size random bytes from a to b and compares what arrives.
func transfer(t testing.TB, a, b net.Conn, size int64) {
	t.Helper()
	sent := sha256.New()
	seed := [32]byte{byte(size)}
	failed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(a, sent), io.LimitReader(rand.NewChaCha8(seed), size))
		if c, ok := a.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		failed <- err
	}()
	got := sha256.New()
	_ = b.SetReadDeadline(time.Now().Add(3 * patience))
	n, err := io.Copy(got, b)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	if want := hex.EncodeToString(sent.Sum(nil)); n != size || hex.EncodeToString(got.Sum(nil)) != want {
		t.Fatalf("%d of %d bytes arrived, or others", n, size)
	}
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s within %s", what, patience)
}

// dialPeer dials from the server, with patience.
func dialPeer(t testing.TB, d *Device, network string, addr netip.Addr, port uint16) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := d.Dial(ctx, network, netip.AddrPortFrom(addr, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func listen(t testing.TB, d *Device, port uint16, handle func(net.Conn)) {
	t.Helper()
	l, err := d.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, handle)
}

func peers(list ...*foreign) Config {
	var c Config
	for _, f := range list {
		c.Peers = append(c.Peers, f.config())
	}
	return c
}

// manyPeers returns n peers that nobody plays, named and addressed from 10.9/16.
func manyPeers(n int) []Peer {
	list := make([]Peer, n)
	for i := range list {
		list[i] = Peer{
			Name: fmt.Sprintf("peer %d", i), PublicKey: model.PublicKey(model.NewPrivateKey()), // any bytes are one
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)},
		}
	}
	return list
}
