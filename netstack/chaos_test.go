package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"gatecontrol/lab/relay"
	"gatecontrol/model"
)

// These tests put a bad network, lab/relay, between a server of ours and
// wireguard-go; see also replay_test.go and recovery_test.go.

// silence is how long a side goes without an answer before it asks for a new
// session: WireGuard's keepalive and rekey timeouts, and up to a third of a
// second of jitter (WireGuard paper, section 6.5). Nothing else brings a tunnel
// back whose silent or unknown side has forgotten the session.
const silence = 16 * time.Second

// TestChaos runs its cases side by side, because most of their time is waiting.
func TestChaos(t *testing.T) {
	t.Parallel()
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

// steady is a TCP connection that fails when it stands still, however long the
// whole transfer takes.
type steady struct{ net.Conn }

// standstill bounds that: TCP waits up to twice as long as the network was dark.
const standstill = 2*(2*silence) + patience

func (c steady) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(standstill))
	return c.Conn.Read(b)
}

func (c steady) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(standstill))
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
			up, down := r.Counts()
			received := up.Received + down.Received
			did(t, "lost", c.path.Loss, received, up.Lost+down.Lost)
			did(t, "reordered", c.path.Reorder, received, up.Reordered+down.Reordered)
			did(t, "duplicated", c.path.Duplicate, received, up.Duplicated+down.Duplicated)
			did(t, "corrupted", c.path.Corrupt, received, up.Corrupted+down.Corrupted)
		}
	}
	together(t, cases)
}

// did wants the relay to have done what it was told, unless there were so few
// datagrams that chance may have spared them all: with 15 expected, once in
// three million.
func did(t *testing.T, what string, probability float64, received, count uint64) {
	t.Helper()
	if count == 0 && probability*float64(received) > 15 {
		t.Errorf("of %d datagrams the relay %s none", received, what)
	}
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
	t.Parallel()
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
