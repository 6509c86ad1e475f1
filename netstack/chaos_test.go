package netstack

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	bundled "golang.zx2c4.com/wireguard/tun/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"gatecontrol/lab/relay"
	"gatecontrol/model"
)

// This file puts a bad network, lab/relay, between a server of ours and
// wireguard-go.

// silence is how long a side goes without an answer before it asks for a new
// session: WireGuard's keepalive and rekey timeouts, and up to a third of a
// second of jitter (WireGuard paper, section 6.5). Nothing else brings a tunnel
// back whose silent or unknown side has forgotten the session.
const silence = 16 * time.Second

// TestChaos runs its cases side by side, because most of their time is waiting.
func TestChaos(t *testing.T) {
	together(t, map[string]func(*testing.T){
		"streams":     streamsThroughChaos,
		"handshake":   handshakeThroughChaos,
		"datagrams":   datagramsArriveOnce,
		"roaming":     peerRoams,
		"blackhole":   networkGoesDark,
		"peer dies":   peerRestarts,
		"server dies": serverRestarts,
	})
}

// together runs all cases at once, unlike t.Parallel whatever the number of
// cores.
func together(t *testing.T, cases map[string]func(*testing.T)) {
	var running sync.WaitGroup
	for name, f := range cases {
		running.Go(func() { t.Run(name, f) })
	}
	running.Wait()
}

// joinBy connects the peer to a server through a relay, which becomes bad in
// both directions once there is a session.
func (f *foreign) joinBy(d *Device, path relay.Path) *relay.Relay {
	f.t.Helper()
	r := relay.New(f.t, endpoint(d), relay.Options{})
	f.upTo(d.key, r.Addr().Port())
	f.cure()
	eventually(f.t, "handshake of "+f.addr.String(), func() bool { return !f.seenBy(d).LastHandshake.IsZero() })
	if err := r.Set(path, path); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// endpoint is where peers find a server.
func endpoint(d *Device) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), d.Status().ListenPort)
}

// cure gives the peer's stack the loss recovery of ours. With the one that it
// has, RACK and cubic, its transfers hang at some percent of loss, and there is
// no other access to its options.
func (f *foreign) cure() {
	f.t.Helper()
	field := reflect.ValueOf(f.net).Elem().FieldByName("stack")
	s := *(**stack.Stack)(unsafe.Pointer(field.UnsafeAddr()))
	recovery, congestion := tcpip.TCPRecovery(0), tcpip.CongestionControlOption("reno")
	for _, option := range []tcpip.SettableTransportProtocolOption{&recovery, &congestion} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			f.t.Fatalf("set %T: %s", option, err)
		}
	}
}

// seenBy is what the server knows of the peer.
func (f *foreign) seenBy(d *Device) model.PeerStatus {
	for _, p := range d.Status().Peers {
		if p.PublicKey == f.key.Public() {
			return p
		}
	}
	return model.PeerStatus{}
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
	tun, net, err := bundled.CreateNetTUN([]netip.Addr{f.addr}, nil, 1420)
	if err != nil {
		f.t.Fatal(err)
	}
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

// steady is a TCP connection that fails when it stands still, however long the
// whole transfer takes.
type steady struct{ net.Conn }

func (c steady) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(2 * patience))
	return c.Conn.Read(b)
}

func (c steady) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(2 * patience))
	return c.Conn.Write(b)
}

func (c steady) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// pair opens a TCP connection from the peer to the server.
func pair(t testing.TB, f *foreign, d *Device) (peer, server steady) {
	t.Helper()
	l, err := d.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // a SYN may be lost several times
	defer cancel()
	c, err := f.net.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return steady{c}, steady{s}
}

// TCP brings every byte through any of it, in both directions.
func streamsThroughChaos(t *testing.T) {
	cases := make(map[string]func(*testing.T))
	for name, c := range map[string]struct {
		path relay.Path
		size int64
	}{
		"loss":        {relay.Path{Loss: 0.05}, 256 << 10},
		"reorder":     {relay.Path{Reorder: 0.05}, 1 << 20},
		"duplication": {relay.Path{Duplicate: 0.05}, 2 << 20},
		"corruption":  {relay.Path{Corrupt: 0.02}, 512 << 10},
		"everything":  {relay.Path{Delay: 20 * time.Millisecond, Loss: 0.05, Reorder: 0.05, Duplicate: 0.05, Corrupt: 0.02}, 128 << 10},
	} {
		cases[name] = func(t *testing.T) {
			a := newForeign(t, 2)
			d := started(t, nil, peers(a))
			r := a.joinBy(d, c.path)
			peer, server := pair(t, a, d)
			transfer(t, server, peer, c.size)
			transfer(t, peer, server, c.size)
			for way, n := range ways(r) {
				if c.path.Loss > 0 && n.Lost == 0 || c.path.Reorder > 0 && n.Reordered == 0 ||
					c.path.Duplicate > 0 && n.Duplicated == 0 || c.path.Corrupt > 0 && n.Corrupted == 0 {
					t.Errorf("%s the relay did not do its worst: %+v", way, n)
				}
			}
		}
	}
	together(t, cases)
}

func ways(r *relay.Relay) map[string]relay.Counts {
	up, down := r.Counts()
	return map[string]relay.Counts{"up": up, "down": down}
}

// A session comes about although its messages get lost, come twice, late, or
// with a wrong bit. An attempt fails with one in three and is made every 5 s.
func handshakeThroughChaos(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	r := relay.New(t, endpoint(d), relay.Both(relay.Path{Loss: 0.1, Corrupt: 0.1, Duplicate: 0.5, Reorder: 0.5}))
	a.upTo(d.key, r.Addr().Port())
	p, err := d.ListenPacket(5000)
	if err != nil {
		t.Fatal(err)
	}
	packetEcho(t, p)
	answers(t, a.mustDial("udp", "10.8.0.1:5000"), 3*patience)
}

// answers wants an echo within limit, however many datagrams that takes.
func answers(t *testing.T, c net.Conn, limit time.Duration) {
	t.Helper()
	start := time.Now()
	got := make([]byte, 16)
	for time.Since(start) < limit {
		_, _ = c.Write([]byte("hello")) // a tunnel that is down may refuse it
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(got); err == nil && string(got[:n]) == "hello" {
			t.Logf("an answer after %s", time.Since(start).Round(time.Millisecond))
			return
		}
	}
	t.Fatalf("no answer within %s", limit)
}

// A datagram in the tunnel arrives once however often it is replayed, and as it
// was sent or not at all.
func datagramsArriveOnce(t *testing.T) {
	cases := make(map[string]func(*testing.T))
	for name, path := range map[string]relay.Path{
		"replayed":               {Duplicate: 1, Reorder: 0.5},
		"replayed and corrupted": {Duplicate: 0.5, Corrupt: 0.5, Reorder: 0.2},
		"replayed and delayed":   {Duplicate: 1, Delay: 5 * time.Millisecond},
	} {
		cases[name] = func(t *testing.T) {
			a := newForeign(t, 2)
			d := started(t, nil, peers(a))
			r := a.joinBy(d, path)
			atServer, err := d.ListenPacket(5000)
			if err != nil {
				t.Fatal(err)
			}
			atPeer, err := a.net.ListenUDP(&net.UDPAddr{Port: 5000})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("to the server", func(t *testing.T) { sendPages(t, r, a.mustDial("udp", "10.8.0.1:5000"), atServer) })
			t.Run("to the peer", func(t *testing.T) { sendPages(t, r, dialPeer(t, d, "udp", a.addr, 5000), atPeer) })
			for way, c := range ways(r) {
				if c.Duplicated < pages/4 || path.Corrupt > 0 && c.Corrupted < pages/4 {
					t.Errorf("%s the relay did not do its worst: %+v", way, c)
				}
			}
		}
	}
	together(t, cases)
}

// pages is how many datagrams sendPages sends, and pagesAway how many of them
// may be away at once, fewer than any buffer holds.
const (
	pages     = 1000
	pagesAway = 32
)

func sendPages(t *testing.T, r *relay.Relay, from net.Conn, to net.PacketConn) {
	t.Helper()
	got := newLedger(to)
	t.Cleanup(got.close)
	up, down := r.Counts()
	before := up.Corrupted + down.Corrupted
	excused := func() int64 {
		up, down := r.Counts()
		return int64(up.Corrupted + down.Corrupted - before)
	}
	for i := range uint64(pages) {
		if _, err := from.Write(page(i)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "room", func() bool { return int64(i)-got.seen.Load()-excused() < pagesAway })
	}
	eventually(t, "arrival of all", func() bool {
		up, down := r.Counts()
		return got.seen.Load()+excused() >= pages && up.Waiting+down.Waiting == 0
	})
	exchangeDatagram(t, from, []byte("the last")) // behind all others
	if missing := pages - got.seen.Load(); got.twice.Load() != 0 || got.wrong.Load() != 0 || missing > excused() {
		t.Errorf("of %d datagrams %d are missing, %d came again, %d were others; %d were corrupted on the way",
			pages, missing, got.twice.Load(), got.wrong.Load(), excused())
	}
}

// page is a datagram that tells whether it is what was sent.
func page(number uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, number)
	sum := sha256.Sum256(b)
	return append(append(b, sum[:]...), make([]byte, number%500)...)
}

// ledger notes which pages came. It answers everything shorter with itself.
type ledger struct {
	conn               net.PacketConn
	seen, twice, wrong atomic.Int64
	done               chan struct{}
}

func newLedger(conn net.PacketConn) *ledger {
	l := &ledger{conn: conn, done: make(chan struct{})}
	go l.read() // ends with close
	return l
}

func (l *ledger) close() {
	_ = l.conn.Close()
	<-l.done
}

func (l *ledger) read() {
	defer close(l.done)
	seen := make(map[uint64]bool)
	buf := make([]byte, 65535)
	for {
		n, from, err := l.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < 8+sha256.Size {
			_, _ = l.conn.WriteTo(buf[:n], from)
			continue
		}
		number := binary.BigEndian.Uint64(buf)
		switch {
		case number >= pages || string(page(number)) != string(buf[:n]):
			l.wrong.Add(1)
		case seen[number]:
			l.twice.Add(1)
		default:
			seen[number] = true
			l.seen.Add(1)
		}
	}
}

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

// chaosBytes is how much TestChaosBulk transfers; long reports
// that somebody asked for that, as make chaos does.
func chaosBytes(t testing.TB) (n int64, long bool) {
	t.Helper()
	text, long := os.LookupEnv("GC_CHAOS_BYTES")
	if !long {
		return 16 << 20, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		t.Fatalf("GC_CHAOS_BYTES is no number of bytes: %q", text)
	}
	return n, true
}

// Much data in both directions at once, over several connections, through a
// network that does everything wrong now and then.
func TestChaosBulk(t *testing.T) {
	const connections = 32 // each of them waits for timeouts a good part of its time
	total, _ := chaosBytes(t)
	size := total / connections / 2
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	r := a.joinBy(d, relay.Path{Loss: 0.001, Reorder: 0.005, Duplicate: 0.01, Corrupt: 0.001})
	transfers := make(map[string]func(*testing.T))
	for i := range connections {
		peer, server := pair(t, a, d)
		transfers[fmt.Sprintf("down %d", i)] = func(t *testing.T) { transfer(t, server, peer, size) }
		transfers[fmt.Sprintf("up %d", i)] = func(t *testing.T) { transfer(t, peer, server, size) }
	}
	start := time.Now()
	together(t, transfers)
	took := time.Since(start)
	up, down := r.Counts()
	t.Logf("%d MiB in %s, %.0f Mbit/s\nup   %+v\ndown %+v", total>>20, took.Round(time.Millisecond),
		float64(total)*8/1e6/took.Seconds(), up, down)
}
