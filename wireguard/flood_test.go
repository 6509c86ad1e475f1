package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	random "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"gatecontrol/model"
)

// client is as little of a peer as can shake hands.
type client struct {
	key     model.PrivateKey
	own     *ecdh.PrivateKey // key
	static  []byte           // what it shares with the server's key
	conn    *net.UDPConn
	macs    wgdevice.CookieGenerator
	stamped tai64n.Timestamp
	sealer  func(packet []byte) []byte // a data message
}

// newClient sends from addr, of loopback.
func newClient(t testing.TB, addr netip.Addr, server *end) *client {
	t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))
	conn, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(server.addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &client{key: model.NewPrivateKey(), conn: conn}
	peer := server.key.Public()
	if c.own, err = ecdh.X25519().NewPrivateKey(c.key[:]); err != nil {
		t.Fatal(err)
	}
	if c.static, err = sharedSecret(c.own, peer[:]); err != nil {
		t.Fatal(err)
	}
	c.macs.Init(wgdevice.NoisePublicKey(server.key.Public()))
	return c
}

// greet shakes hands, and tries again each time that nothing has come for a
// while. It returns how many initiations it took, 0 if all were in vain.
func (c *client) greet(t testing.TB, server *end, while time.Duration, tries int) int {
	peer := server.key.Public()
	var buf [2048]byte
	for try := 1; try <= tries; try++ {
		c.stamped = later(tai64n.Now(), c.stamped)
		m, i, err := initiate(make([]byte, initiationNoise, initiationSize), c.own, peer, c.static, c.stamped)
		if err != nil {
			t.Error(err)
			return 0
		}
		m = m[:initiationSize]
		binary.LittleEndian.PutUint32(m, typeInitiation)
		binary.LittleEndian.PutUint32(m[4:], uint32(try))
		c.macs.AddMacs(m)
		_, _ = c.conn.Write(m)
		_ = c.conn.SetReadDeadline(time.Now().Add(while))
		for {
			n, err := c.conn.Read(buf[:])
			if err != nil {
				break
			}
			switch m := buf[:n]; messageType(m) {
			case typeCookie:
				reply := wgdevice.MessageCookieReply{Type: typeCookie, Receiver: receiver(m)}
				copy(reply.Nonce[:], m[8:])
				copy(reply.Cookie[:], m[32:])
				c.macs.ConsumeReply(&reply)
			case typeResponse:
				var none model.PrivateKey
				sealer, _, err := i.finish(c.own, &none, m[responseNoise:])
				if err != nil {
					continue // to another try
				}
				s := &session{remote: sender(m), sealer: sealer}
				c.sealer = func(packet []byte) []byte {
					b := append(make([]byte, headerSize, headerSize+len(packet)+tagSize), packet...)[:headerSize+len(packet)+tagSize]
					counter, _ := s.reserve(1)
					s.seal(b, counter)
					return b
				}
				return try
			}
		}
	}
	return 0
}

// A thousand peers that all begin at once, each from an address of its own.
func TestHandshakeStorm(t *testing.T) {
	peers := 1000
	if socketRace {
		peers = 200 // the clients are slower, not the server
	}
	server := newEnd(t).open(t)
	clients := make([]*client, peers)
	for i := range clients {
		clients[i] = newClient(t, netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), server)
		if _, err := server.Add(PeerConfig{PublicKey: clients[i].key.Public()}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	var all sync.WaitGroup
	var tries, lost atomic.Int64
	for _, c := range clients {
		all.Go(func() {
			// Sooner than the 5 s of the protocol. Much sooner, and on a slow
			// machine each answer would come after the next initiation.
			n := c.greet(t, server, 2*time.Second+random.N(time.Second), 8)
			if n == 0 {
				lost.Add(1)
				return
			}
			tries.Add(int64(n))
			_, _ = c.conn.Write(c.sealer([]byte("here I am, in sixteens..........")))
		})
	}
	all.Wait()
	if lost.Load() > 0 {
		t.Fatalf("%d of %d peers got no session", lost.Load(), peers)
	}
	t.Logf("%d handshakes in %s, %.1f initiations each", peers, time.Since(began).Round(time.Millisecond), float64(tries.Load())/float64(peers))
	eventually(t, "packets of all", func() bool { return server.count() == peers })
	for _, p := range server.Peers() {
		if p.current.Load() == nil {
			t.Fatal("a session is not confirmed")
		}
	}
	server.Remove(server.Peers()...)
	if server.numbers() != 0 || server.clocked() != 0 {
		t.Fatalf("%d indexes, %d in the clock are left", server.numbers(), server.clocked())
	}
}

// floodEnv tells this program to be a flood, not a test: a process of its own, as a
// stranger would be, which does not share the scheduler with the server.
const floodEnv = "WIREGUARD_TEST_FLOOD"

// flood has a process send what costs server most, at a rate of so many messages a
// second, 0 as many as it can, until stop is called, which returns how many a
// second it were. They go to the address to, mostly the server's.
func flood(t testing.TB, server *end, to netip.AddrPort, rate int) (stop func() (rate int)) {
	t.Helper()
	c := exec.Command("/proc/self/exe", "-test.run=^$")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", floodEnv, to, server.key.Public(), rate))
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Fscan(stdout, &n); err != nil { // it has begun
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() int {
		_ = stdin.Close()
		_, err := fmt.Fscan(stdout, &n)
		if err = errors.Join(err, c.Wait()); err != nil {
			t.Error(err)
		}
		return n
	})
	t.Cleanup(func() { stop() })
	return stop
}

// beFlood is that process: initiations of nobody with a valid mac1, replies, data
// of no session, noise, from many addresses. It ends with its standard input.
func beFlood(order string) error {
	var to, key string
	var rate int
	if _, err := fmt.Sscan(order, &to, &key, &rate); err != nil {
		return err
	}
	public, err := model.ParsePublicKey(key)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	var conns []*net.UDPConn
	for i := range 64 {
		from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, 0, byte(i)}), 0))
		c, err := net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	var macs wgdevice.CookieGenerator
	macs.Init(wgdevice.NoisePublicKey(public))
	var messages [][]byte
	for i := range 256 {
		m := make([]byte, initiationSize)
		_, _ = rand.Read(m)
		binary.LittleEndian.PutUint32(m, typeInitiation)
		switch i % 8 {
		case 0:
			m = m[:64+chacha20poly1305.Overhead]
			binary.LittleEndian.PutUint32(m, typeData)
		case 1:
			m = m[:cookieSize]
			binary.LittleEndian.PutUint32(m, typeCookie)
		case 2: // a wrong mac1
		case 3:
			_, _ = rand.Read(m)
		default:
			macs.AddMacs(m)
		}
		messages = append(messages, m)
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	began := time.Now()
	for i := 0; ; i++ {
		if i == 2000 {
			fmt.Println(i)
		}
		select {
		case <-stop:
			fmt.Println(int(float64(i) / time.Since(began).Seconds()))
			return nil
		default:
		}
		if rate > 0 && time.Duration(i)*time.Second/time.Duration(rate) > time.Since(began) {
			time.Sleep(100 * time.Microsecond)
		}
		_, _ = conns[i/16%len(conns)].Write(messages[i%len(messages)])
	}
}

// During a flood a tunnel goes on, a new peer gets in, and memory stays.
func TestFlood(t *testing.T) {
	a, server := newEnd(t).open(t), newEnd(t).open(t)
	toServer := a.knows(t, server, model.PrivateKey{}, true)
	server.knows(t, a, model.PrivateKey{}, false)
	c := newClient(t, netip.MustParseAddr("127.2.0.1"), server)
	if _, err := server.Add(PeerConfig{PublicKey: c.key.Public()}); err != nil {
		t.Fatal(err)
	}
	send(toServer, []byte("hello"))
	eventually(t, "session", func() bool { return server.count() == 1 })
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	began := memory()
	// From here on the server has more handshakes than it can do, or nearly so.
	end := flood(t, server, server.addr(), 0)
	from := time.Now()
	tries := c.greet(t, server, 250*time.Millisecond, 60)
	took := time.Since(from)
	for round := range 20 {
		n := server.count()
		for range 10 {
			send(toServer, make([]byte, 1420))
		}
		// Some may be lost; that any come is the point.
		eventually(t, "packet", func() bool {
			send(toServer, []byte{byte(round)})
			return server.count() >= n+10
		})
	}
	grown := int64(memory()) - int64(began)
	rate := end()
	if tries == 0 {
		t.Fatal("a new peer does not get in")
	}
	t.Logf("%d messages a second; a new peer in with %d initiations, %s; %d KiB more memory", rate, tries, took.Round(time.Millisecond), grown>>10)
	if grown > 32<<20 {
		t.Fatalf("%d bytes more", grown)
	}
	if server.Panics() != 0 {
		t.Fatal("a message made the server fail")
	}
}

// What a flood of so many messages a second leaves of the throughput of a tunnel.
// The sender, who gets on with 4 bursts on their way, and the flood share the cores
// with the server, so each round compares with a second in which the same flood
// goes to a port that nobody reads (left), and with one without it (of-all).
func BenchmarkFlood(b *testing.B) {
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	var sent int
	throughput := func(b *testing.B, rate int, elsewhere bool) float64 {
		drop := func(o *Options) { o.Receive = func(*Peer, [][]byte) {} }
		a, server := newEnd(b).open(b), newEnd(b, drop).open(b)
		toServer := a.knows(b, server, model.PrivateKey{}, true)
		fromA := server.knows(b, a, model.PrivateKey{}, false)
		send(toServer, []byte("hello"))
		eventually(b, "session", func() bool { return fromA.rxPackets.Load() == 1 })
		if rate >= 0 {
			to := server.addr()
			if elsewhere {
				to = sink.LocalAddr().(*net.UDPAddr).AddrPort()
			}
			stop := flood(b, server, to, rate)
			defer func() { sent = stop() }()
		}
		began, arrived := time.Now(), fromA.rxPackets.Load()
		for time.Since(began) < time.Second {
			had := fromA.rxPackets.Load()
			for range 4 {
				burst := toServer.NewBurst(MaxBurst)
				fill(burst)
				burst.Send()
			}
			for from := time.Now(); fromA.rxPackets.Load() < had+4*row && time.Since(from) < 5*time.Millisecond; {
				runtime.Gosched() // what is late then is lost
			}
		}
		return float64(fromA.rxPackets.Load()-arrived) / time.Since(began).Seconds()
	}
	for _, rate := range []int{10_000, 50_000, 100_000, 200_000, 0} {
		name := fmt.Sprint(rate)
		if rate == 0 {
			name = "all"
		}
		b.Run(name, func(b *testing.B) {
			var left, ofAll []float64 // of each round
			for b.Loop() {
				with := throughput(b, rate, false)
				b.ReportMetric(float64(sent), "messages/s")
				left = append(left, with/throughput(b, rate, true))
				ofAll = append(ofAll, with/throughput(b, -1, false))
			}
			slices.Sort(left)
			slices.Sort(ofAll)
			b.ReportMetric(left[0], "least-left")
			b.ReportMetric(left[len(left)/2], "left")
			b.ReportMetric(left[len(left)-1], "most-left")
			b.ReportMetric(ofAll[len(ofAll)/2], "of-all")
		})
	}
}

// One address cannot fill the queue; those that are many can, and no more than
// that.
func TestQueueIsBounded(t *testing.T) {
	d := newStill(t)
	m := make([]byte, initiationSize)
	for i := range 3 * maxFromOne {
		d.jobs.put(m, &endpoint{addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i))})
		d.jobs.put(m, &endpoint{addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 1)})
	}
	if n := len(d.jobs.messages); n > 2*maxFromOne || n < maxFromOne { // once in a while both have one hash
		t.Fatalf("%d messages of two addresses wait", n)
	}
	for i := range 3 * maxMessages {
		d.jobs.put(m, &endpoint{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)})
	}
	if n := len(d.jobs.messages); n != maxMessages {
		t.Fatalf("%d messages wait", n)
	}
	d.running.Go(d.work)
	eventually(t, "empty queue", func() bool {
		for i := range d.jobs.waiting {
			if d.jobs.waiting[i].Load() != 0 {
				return false
			}
		}
		return len(d.jobs.messages) == 0
	})
}
