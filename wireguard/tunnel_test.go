package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"gatecontrol/model"
)

// age makes everything that is known of p older. Nobody may send to it
// meanwhile.
func age(p *Peer, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	older := func(s *session) *session {
		if s == nil {
			return nil
		}
		s.seenMu.Lock()
		defer s.seenMu.Unlock()
		o := &session{
			peer: p, local: s.local, remote: s.remote, initiator: s.initiator,
			born: s.born - instant(by), sealer: s.sealer, opener: s.opener, seen: s.seen,
		}
		o.sent.Store(s.sent.Load())
		p.device.index.set(o.local, entry{p, o})
		return o
	}
	p.previous, p.next = older(p.previous), older(p.next)
	p.current.Store(older(p.current.Load()))
	p.consumed -= instant(by)
	t := &p.timers
	for _, m := range []*moment{&t.passed, &t.unanswered, &t.unheard, &t.data, &t.greeted, &t.derived, &t.absent} {
		if at := m.load(); at != 0 {
			m.store(at - instant(by))
		}
	}
}

// count returns how many packets have come.
func (e *end) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.received)
}

// restarted is another device with the key of e, in its place.
func (e *end) restarted(t testing.TB) *end {
	t.Helper()
	port := e.Port()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	n := newEndOf(t, e.key)
	if err := n.Open(port); err != nil {
		t.Fatal(err)
	}
	return n
}

// rebind gives e another port, as happens to a host that roams.
func (e *end) rebind(t testing.TB) {
	t.Helper()
	s, err := openSockets(slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	old := e.sockets.Swap(s)
	for _, socket := range s.each() {
		e.running.Go(func() { e.receive(socket) })
	}
	if err := old.close(); err != nil {
		t.Fatal(err)
	}
}

// Keys change three times while packets pass both ways, and none is lost.
func TestRekeyLosesNothing(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, true)
	send(toB, []byte("hello"))
	eventually(t, "session", func() bool { return b.count() == 1 && toA.current.Load() != nil })
	const total, row = 6000, 10
	keys := map[*session]bool{}
	for sent := 0; sent < total; sent += row {
		if sent%2000 == 1000 {
			eventually(t, "packets", func() bool { return b.count() == sent+1 && a.count() == sent })
			keys[toB.current.Load()] = true
			age(toB, 121*time.Second)
			age(toA, 121*time.Second)
		}
		var packets [row][]byte
		for i := range packets {
			packets[i] = binary.BigEndian.AppendUint32(bytes.Repeat([]byte{7}, 100), uint32(sent+i))
		}
		send(toB, packets[:]...)
		send(toA, packets[:]...)
		eventually(t, "packets", func() bool { return b.count() > sent-200 && a.count() > sent-200 })
	}
	eventually(t, "all packets", func() bool { return b.count() == total+1 && a.count() == total })
	eventually(t, "last handshake", func() bool {
		s := toB.current.Load()
		return s.initiator && toB.device.now().since(s.born) < 60*time.Second
	})
	if keys[toB.current.Load()] || len(keys) != 3 {
		t.Fatalf("%d keys before the last", len(keys))
	}
}

func TestRoaming(t *testing.T) {
	client, server := newEnd(t).open(t), newEnd(t).open(t)
	toServer := client.knows(t, server, model.PrivateKey{}, true)
	toClient := server.knows(t, client, model.PrivateKey{}, false)
	send(toServer, []byte("hello"))
	eventually(t, "packet", func() bool { return server.count() == 1 })
	for range 3 {
		client.rebind(t)
		n := server.count()
		send(toServer, []byte("from elsewhere"))
		eventually(t, "packet", func() bool { return server.count() == n+1 })
		if at := toClient.Status().Endpoint; at != client.addr() {
			t.Fatalf("the client is at %v, not at %v", at, client.addr())
		}
		n = client.count()
		send(toClient, []byte("to there"))
		eventually(t, "answer", func() bool { return client.count() == n+1 })
	}
	if server.numbers() != 1 {
		t.Fatal("roaming made a new session")
	}
}

func TestRestart(t *testing.T) {
	client, server := newEnd(t).open(t), newEnd(t).open(t)
	toServer := client.knows(t, server, model.PrivateKey{}, true)
	server.knows(t, client, model.PrivateKey{}, false)
	send(toServer, []byte("hello"))
	eventually(t, "packet", func() bool { return server.count() == 1 })

	server = server.restarted(t)
	toClient := server.knows(t, client, model.PrivateKey{}, false)
	send(toServer, []byte("nobody has the keys"))
	age(toServer, silenceTimeout+maxJitter)
	eventually(t, "handshake with the server that was started again", func() bool { return !toClient.Status().LastHandshake.IsZero() })
	send(toServer, []byte("again"))
	eventually(t, "packet", func() bool { return server.has([]byte("again")) })

	age(toClient, time.Second)               // or else the next initiation may come within initiationGap,
	eventually(t, "next time", func() bool { // or with the same time
		toClient.mu.Lock()
		defer toClient.mu.Unlock()
		return tai64n.Now().After(toClient.latest)
	})
	client = client.restarted(t)
	toServer = client.knows(t, server, model.PrivateKey{}, true)
	send(toServer, []byte("started again"))
	eventually(t, "packet", func() bool { return server.has([]byte("started again")) })
	send(toClient, []byte("welcome"))
	eventually(t, "answer", func() bool { return client.has([]byte("welcome")) })
}

func TestBothBeginOnSockets(t *testing.T) {
	for range 20 {
		a, b := newEnd(t).open(t), newEnd(t).open(t)
		toB, toA := a.knows(t, b, model.PrivateKey{}, true), b.knows(t, a, model.PrivateKey{}, true)
		var both sync.WaitGroup
		both.Go(func() { send(toB, []byte("from a")) })
		both.Go(func() { send(toA, []byte("from b")) })
		both.Wait()
		eventually(t, "packets", func() bool { return a.has([]byte("from b")) && b.has([]byte("from a")) })
		_, _ = a.Close(), b.Close()
	}
}

// foreignCounter reads a number from what wireguard-go says of itself.
func foreignCounter(t testing.TB, d *wgdevice.Device, name string) (n int) {
	t.Helper()
	text, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			n, _ = strconv.Atoi(value)
		}
	}
	return n
}

func TestForeignKeepalive(t *testing.T) {
	t.Parallel()
	a := newEnd(t).open(t)
	key, port := model.NewPrivateKey(), freePort(t)
	_, d := foreign(t, key, a, model.PrivateKey{}, port)
	began := time.Now()
	p, err := a.Add(PeerConfig{
		PublicKey: key.Public(), Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Keepalive: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The handshake, its confirmation, and two more.
	eventually(t, "keepalives", func() bool { return foreignCounter(t, d, "rx_bytes") >= initiationSize+3*overhead })
	if took := time.Since(began); took < 2*time.Second {
		t.Fatalf("three keepalives in %s, one a second", took)
	}
	if s := p.Status(); s.TxBytes < initiationSize+3*overhead || s.RxBytes < responseSize || s.TxPackets != 0 || s.LastHandshake.IsZero() {
		t.Fatalf("status %+v", s)
	}
}

func TestForeignCookie(t *testing.T) {
	t.Parallel()
	a := newEnd(t).open(t)
	a.jobs.loaded.store(a.now() + instant(time.Hour))
	key := model.NewPrivateKey()
	p, err := a.Add(PeerConfig{PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	tun, d := foreign(t, key, a, model.PrivateKey{}, 0)
	ping := tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	tun.Outbound <- ping
	// wireguard-go tries again after 5 s, with the cookie.
	eventually(t, "packet", func() bool { return a.has(ping) })
	// It counts after it has sent.
	eventually(t, "initiation that was not taken", func() bool {
		return foreignCounter(t, d, "tx_bytes") == initiationSize+int(p.Status().RxBytes)
	})
}

func TestForeignRoaming(t *testing.T) {
	a := newEnd(t).open(t)
	key := model.NewPrivateKey()
	p, err := a.Add(PeerConfig{PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	tun, d := foreign(t, key, a, model.PrivateKey{}, 0)
	ping := tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	for i := range 3 {
		port := freePort(t)
		if err := d.IpcSet(fmt.Sprintf("listen_port=%d\n", port)); err != nil {
			t.Fatal(err)
		}
		tun.Outbound <- ping
		eventually(t, "packet", func() bool { return a.count() == i+1 })
		if at := p.Status().Endpoint; at.Port() != port {
			t.Fatalf("the peer is at %v, not at port %d", at, port)
		}
		send(p, ping)
		select {
		case <-tun.Inbound:
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	}
}

// Peers come and go, and handshakes and packets with them.
func TestRemoveMeanwhile(t *testing.T) {
	a, b := newEnd(t).open(t), newEnd(t).open(t)
	toA := b.knows(t, a, model.PrivateKey{}, true)
	stop := make(chan struct{})
	var senders sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); senders.Wait() })
	defer end()
	for range 2 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				send(toA, []byte("to a"))
				if p := a.Lookup(b.key.Public()); p != nil {
					send(p, []byte("to b"), []byte("and more"))
				}
				hurry(toA)
				time.Sleep(100 * time.Microsecond) // leaves the machine to the others
			}
		})
	}
	for range 8 {
		p := a.knows(t, b, model.PrivateKey{}, true)
		eventually(t, "packet", func() bool { return p.rxPackets.Load() > 0 })
		a.Remove(p)
		if p.current.Load() != nil {
			t.Fatal("a removed peer has keys")
		}
	}
	if a.numbers() != 0 || a.staged.Load() != 0 || a.clocked() != 0 {
		t.Fatalf("%d indexes, %d bytes, %d in the clock are left", a.numbers(), a.staged.Load(), a.clocked())
	}
	_ = b.Close() // while they send
	end()
	if b.staged.Load() != 0 {
		t.Fatalf("%d bytes are left", b.staged.Load())
	}
}

// hurry lets p begin handshakes in quick succession.
func hurry(p *Peer) {
	if at := p.timers.greeted.load(); at != 0 && p.device.now().since(at) > 150*time.Millisecond {
		p.timers.greeted.store(at - instant(rekeyTimeout))
		p.timers.unanswered.stop()
		p.enqueue()
	}
}
