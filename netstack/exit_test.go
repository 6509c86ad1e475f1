package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatecontrol/model"
)

// internet stands for the world behind the exit: every address is answered by
// servers on loopback.
type internet struct {
	t      testing.TB
	tcp    net.Listener
	udp    net.PacketConn
	dialed atomic.Int32
	refuse atomic.Pointer[error]
	hang   atomic.Bool
}

func newInternet(t testing.TB) *internet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	packetEcho(t, p)
	return &internet{t: t, tcp: l, udp: p}
}

func (w *internet) dial(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
	w.dialed.Add(1)
	if err := w.refuse.Load(); err != nil {
		return nil, *err
	}
	if w.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	addr := w.tcp.Addr()
	if network == "udp" {
		addr = w.udp.LocalAddr()
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr.String())
}

func (w *internet) options(o *Options) {
	o.DialExit = w.dial
	o.PublicAddrs = []netip.Addr{netip.MustParseAddr("1.2.3.4")}
}

// behindExit returns a server with an open exit and a peer that has joined.
func behindExit(t testing.TB) (*internet, *Device, *foreign, Config) {
	t.Helper()
	w := newInternet(t)
	a := newForeign(t, 2)
	config := peers(a)
	config.Exit.Enabled = true
	d := started(t, w.options, config)
	a.join(d)
	return w, d, a, config
}

func TestExitTCP(t *testing.T) {
	t.Parallel()
	w, d, a, _ := behindExit(t)
	accept := func(t *testing.T, c net.Conn) (net.Conn, net.Conn) {
		t.Helper()
		s, err := w.tcp.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = s.Close(), c.Close() })
		return c, s
	}
	t.Run("out", func(t *testing.T) {
		c, s := accept(t, a.mustDial("tcp", "1.1.1.1:80"))
		transfer(t, c, s, 4<<20)
	})
	t.Run("in", func(t *testing.T) {
		c, s := accept(t, a.mustDial("tcp", "1.1.1.1:80"))
		transfer(t, s, c, 4<<20)
	})
	t.Run("half-close", func(t *testing.T) {
		c, s := accept(t, a.mustDial("tcp", "1.1.1.1:80"))
		transfer(t, c, s, 1000) // ends with the peer's FIN
		if _, err := s.Write([]byte("still open")); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(c); err != nil || string(got) != "still open" {
			t.Fatalf("%q, %v", got, err)
		}
		_ = c.Close()
	})
	t.Run("reset by the destination", func(t *testing.T) {
		c, s := accept(t, a.mustDial("tcp", "1.1.1.1:80"))
		_ = s.(*net.TCPConn).SetLinger(0)
		_ = s.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if n, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatal(n, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		err := error(syscall.ECONNREFUSED)
		w.refuse.Store(&err)
		defer w.refuse.Store(nil)
		if _, err := a.dial("tcp", "1.1.1.1:81"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
	})
	eventually(t, "end of all flows", func() bool { return d.Status().Exit == ExitStatus{} })
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func TestExitUDP(t *testing.T) {
	_, d, a, _ := behindExit(t)
	d.exit.udpIdle = 100 * time.Millisecond
	d.wg.Settle() // so that whoever reads it sees it
	c := a.mustDial("udp", "8.8.8.8:443")
	exchangeDatagram(t, c, []byte("hello"))
	exchangeDatagram(t, c, bytes.Repeat([]byte{1}, 1392))
	exchangeDatagram(t, c, bytes.Repeat([]byte{2}, 20000)) // in fragments
	other := a.mustDial("udp", "8.8.4.4:53")
	exchangeDatagram(t, other, []byte("two"))
	eventually(t, "end of the idle flow", func() bool { return d.Status().Exit.UDPFlows == 1 }) // port 53 has longer
	exchangeDatagram(t, c, []byte("again"))
	if d.exit.udpIdleDNS != 30*time.Second {
		t.Fatal(d.exit.udpIdleDNS)
	}
}

// The same refusal whether the destination exists or not, and nothing dialed.
func TestExitRefuses(t *testing.T) {
	t.Parallel()
	own, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	port := own.Addr().(*net.TCPAddr).AddrPort().Port()
	w, d, a, config := behindExit(t)
	targets := []string{"1.2.3.4", "10.8.0.99", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "168.63.129.16", "192.0.2.1"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip := addr.(*net.IPNet).IP; ip.To4() != nil && !ip.IsLoopback() {
			targets = append(targets, ip.String())
		}
	}
	refusedBoth := func(t *testing.T, a *foreign, target string) {
		t.Helper()
		if c, err := a.dial("tcp", target); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("TCP %s: %v, %v", target, c, err)
		}
		c := a.mustDial("udp", target)
		eventually(t, "refusal of UDP "+target, func() bool {
			_, werr := c.Write([]byte("hello"))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := c.Read(make([]byte, 10))
			if n > 0 {
				t.Errorf("UDP %s answers", target)
				return true
			}
			return err != nil && strings.Contains(err.Error(), "refused") || werr != nil && strings.Contains(werr.Error(), "refused")
		})
	}
	for _, target := range targets {
		refusedBoth(t, a, netip.AddrPortFrom(netip.MustParseAddr(target), port).String())
	}
	t.Run("exit off", func(t *testing.T) {
		config.Exit.Enabled = false
		apply(t, d, config)
		refusedBoth(t, a, "1.1.1.1:80")
		config.Exit.Enabled = true
		apply(t, d, config)
	})
	t.Run("peer without exit", func(t *testing.T) {
		closed := Config{Peers: []Peer{config.Peers[0]}, Exit: config.Exit}
		closed.Peers[0].NoExit = true
		apply(t, d, closed)
		refusedBoth(t, a, "1.1.1.1:80")
		apply(t, d, config)
	})
	t.Run("echo", func(t *testing.T) {
		if pings(t, a, netip.MustParseAddr("10.1.2.3"), 200*time.Millisecond) {
			t.Error("this server answers in the name of another")
		}
	})
	t.Run("loopback", func(t *testing.T) { // the peer's own stack would not send it
		before := d.hub.filtered.Load()
		for _, dst := range []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.8.0.255"} {
			d.hub.receive(d.table.Load().lookup(a.addr).wg, [][]byte{tcpSYN(a.addr, netip.MustParseAddr(dst), port)})
		}
		if n := d.hub.filtered.Load() - before; n != 5 {
			t.Errorf("%d of 5 dropped", n)
		}
	})
	if n := w.dialed.Load(); n != 0 {
		t.Fatalf("%d addresses were dialed", n)
	}
	if _, err := d.exit.dialHost(t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); !errors.Is(err, syscall.EACCES) {
		t.Fatalf("the dialer reaches loopback: %v", err)
	}
}

func TestPrivateNetworkWhenListed(t *testing.T) {
	w, d, a, config := behindExit(t)
	config.Exit.Private = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}
	apply(t, d, config)
	serve(t, w.tcp, echo)
	c := a.mustDial("tcp", "192.168.7.5:80")
	exchange(t, c, []byte("home"))
	if _, err := a.dial("tcp", "192.168.8.5:80"); err == nil {
		t.Fatal("a range that is not listed")
	}
	config.Exit.Private = nil
	apply(t, d, config)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("after the range was taken off the list: %v", err)
	}
}

// A peer that asks for this host's public address gets the listener in the
// tunnel, under its own tunnel address.
func TestPublicAddressIsServedInside(t *testing.T) {
	w, d, a, config := behindExit(t)
	var remote, local atomic.Value
	listen(t, d, 443, func(c net.Conn) {
		remote.Store(c.RemoteAddr().String())
		local.Store(c.LocalAddr().String())
		echo(c)
	})
	c := a.mustDial("tcp", "1.2.3.4:443")
	exchange(t, c, []byte("hello"))
	if got := remote.Load().(string); !strings.HasPrefix(got, "10.8.0.2:") {
		t.Fatalf("client address %s", got)
	}
	if got := local.Load().(string); got != "1.2.3.4:443" {
		t.Fatalf("local address %s", got)
	}
	if _, err := a.dial("tcp", "1.2.3.4:444"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("another port: %v", err)
	}
	if w.dialed.Load() != 0 {
		t.Fatal("dialed")
	}
	t.Run("not the exit's", func(t *testing.T) { // it is a service, not the internet
		config.Exit.Enabled = false
		apply(t, d, config)
		exchange(t, a.mustDial("tcp", "1.2.3.4:443"), []byte("hello"))
		exchange(t, c, []byte("still open"))
	})
	t.Run("cut with its peer", func(t *testing.T) {
		apply(t, d, Config{})
		eventually(t, "end of endpoints", func() bool {
			n := 0
			for _, ep := range d.stack.RegisteredEndpoints() {
				if _, connected := remoteAddress(ep); connected {
					n++
				}
			}
			return n == 0
		})
	})
}

// Flows through the exit end with what allowed them, on both sides.
func TestExitCut(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"peer removed":  func(c *Config) { c.Peers = nil },
		"no exit":       func(c *Config) { c.Peers[0].NoExit = true },
		"exit disabled": func(c *Config) { c.Exit.Enabled = false },
	} {
		t.Run(name, func(t *testing.T) {
			w, d, a, config := behindExit(t)
			c := a.mustDial("tcp", "1.1.1.1:80")
			s, err := w.tcp.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			exchangeOnce(t, c, s)
			exchangeDatagram(t, a.mustDial("udp", "1.1.1.1:443"), []byte("hello"))
			w.hang.Store(true)
			dialing := make(chan error, 1)
			go func() {
				_, err := a.dial("tcp", "1.1.1.1:81")
				dialing <- err
			}()
			eventually(t, "half-open flow", func() bool {
				return d.Status().Exit == ExitStatus{HalfOpen: 1, TCPFlows: 2, UDPFlows: 1}
			})
			change(&config)
			apply(t, d, config)
			_ = s.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := s.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Fatalf("the destination sees %v", err)
			}
			eventually(t, "end of all flows", func() bool { return d.Status().Exit == ExitStatus{} })
			if name != "peer removed" {
				if err := <-dialing; err == nil {
					t.Fatal("connected")
				}
			}
		})
	}
}

// A peer that opens more than its share is refused, and others are not.
func TestHalfOpenLimit(t *testing.T) {
	w, d, a, config := behindExit(t)
	b := newForeign(t, 3)
	config.Peers = append(config.Peers, b.config())
	apply(t, d, config)
	b.join(d)
	w.hang.Store(true)
	const tries = maxHalfOpenPeer + 50
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, tries)
	for i := range tries {
		go func() {
			_, err := a.net.DialContextTCPAddrPort(ctx, netip.AddrPortFrom(netip.MustParseAddr("1.1.1.1"), uint16(1000+i)))
			failed <- err
		}()
	}
	for range tries - maxHalfOpenPeer {
		select {
		case err := <-failed:
			if err == nil || !strings.Contains(err.Error(), "refused") {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatalf("too few refusals: %+v", d.Status().Exit)
		}
	}
	eventually(t, "full share", func() bool { return d.Status().Exit.HalfOpen == maxHalfOpenPeer })
	w.hang.Store(false)
	serve(t, w.tcp, echo)
	exchange(t, b.mustDial("tcp", "1.1.1.1:80"), []byte("another peer"))
	cancel()
	apply(t, d, Config{})
	eventually(t, "end of all flows", func() bool { return d.Status().Exit == ExitStatus{} })
}

// Flows take of the room that all sockets of this host share, and give it back; what
// finds none is refused.
func TestExitRoom(t *testing.T) {
	w := newInternet(t)
	serve(t, w.tcp, echo)
	a := newForeign(t, 2)
	config := peers(a)
	config.Exit.Enabled = true
	room := model.NewRoom(3)
	d := started(t, func(o *Options) { w.options(o); o.Room = room }, config)
	a.join(d)
	open := a.mustDial("tcp", "1.1.1.1:80")
	exchange(t, open, []byte("one"))
	exchangeDatagram(t, a.mustDial("udp", "8.8.8.8:443"), []byte("two"))
	room.Add(1) // somebody else
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := a.net.DialContextTCPAddrPort(ctx, netip.MustParseAddrPort("1.1.1.1:80")); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without room: %v", err)
	}
	room.Give(1)
	exchange(t, a.mustDial("tcp", "1.1.1.1:80"), []byte("three"))
	apply(t, d, Config{})
	eventually(t, "all is given back", func() bool { return room.Taken() == 0 })
}

func TestAcquire(t *testing.T) {
	var all, a, b atomic.Int32
	for _, c := range []struct {
		own  *atomic.Int32
		want bool
	}{{&a, true}, {&a, true}, {&a, false}, {&b, true}, {&b, false}} {
		if got := acquire(&all, c.own, 3, 2); got != c.want {
			t.Fatalf("%v with %d, %d, %d taken", got, all.Load(), a.Load(), b.Load())
		}
	}
	release(&all, &a)
	if !acquire(&all, &b, 3, 2) || all.Load() != 3 {
		t.Fatal("a place that was given back is not free")
	}
}

// A flow that was judged before a change and registered after it is refused: the
// change did not see it.
func TestExitOpenAfterChange(t *testing.T) {
	_, d, _, config := behindExit(t)
	src, dst := netip.MustParseAddrPort("10.8.0.2:1000"), netip.MustParseAddrPort("1.1.1.1:80")
	judged, _ := d.exit.judge(d.table.Load(), src.Addr(), dst)
	if _, f := d.exit.open(judged.identity, src, dst, allowed); f == nil {
		t.Fatal("refused without a change")
	} else {
		d.exit.end(f)
	}
	for name, change := range map[string]func(c *Config){
		"peer removed":  func(c *Config) { c.Peers = nil },
		"no exit":       func(c *Config) { c.Peers[0].NoExit = true },
		"exit disabled": func(c *Config) { c.Exit.Enabled = false },
	} {
		next := Config{Peers: slices.Clone(config.Peers), Exit: config.Exit}
		change(&next)
		apply(t, d, next)
		if _, f := d.exit.open(judged.identity, src, dst, allowed); f != nil {
			d.exit.end(f)
			t.Errorf("%s: let through", name)
		}
	}
}

// Datagrams to a public address of this host go to the UDP port of the tunnel
// with the same number, with the peer as sender, and are answered from there.
func TestPacketHandOver(t *testing.T) {
	_, d, a, _ := behindExit(t)
	l, err := d.ListenPacket(5000)
	if err != nil {
		t.Fatal(err)
	}
	senders := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				ended <- err
				return
			}
			senders <- from.String()
			_, _ = l.WriteTo(buf[:n], from)
		}
	}()
	for range 2 {
		for _, to := range []string{"1.2.3.4:5000", "10.8.0.1:5000"} {
			c := a.mustDial("udp", to) // connected: it hears nobody else
			exchangeDatagram(t, c, []byte("one"))
			exchangeDatagram(t, c, []byte("two"))
			if got, want := <-senders, c.LocalAddr().String(); got != want {
				t.Errorf("to %s: the sender is %s, want %s", to, got, want)
			}
			for len(senders) > 0 {
				<-senders
			}
		}
	}
	if d.Status().Exit.UDPFlows != 0 {
		t.Error("the exit was used")
	}
	refused := func(to string) {
		t.Helper()
		c := a.mustDial("udp", to)
		eventually(t, "refusal of "+to, func() bool { // told by the write after the one that was refused
			_, err := c.Write([]byte("x"))
			return err != nil && strings.Contains(err.Error(), "refused")
		})
	}
	refused("1.2.3.4:5001")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the reader ended with %v", err)
	}
	refused("1.2.3.4:5000")
	again, err := d.ListenPacket(5000)
	if err != nil {
		t.Fatal(err)
	}
	packetEcho(t, again)
	exchangeDatagram(t, a.mustDial("udp", "1.2.3.4:5000"), []byte("again"))
}

// With the switch, questions to resolvers out there are answered here, whoever
// may reach the internet; everything else goes where it went.
func TestRedirectDNS(t *testing.T) {
	w, d, a, config := behindExit(t)
	l, err := d.ListenPacket(53)
	if err != nil {
		t.Fatal(err)
	}
	packetEcho(t, l)
	listen(t, d, 53, echo)
	apply(t, d, config)
	exchangeDatagram(t, a.mustDial("udp", "8.8.8.8:53"), []byte("out"))
	if n := w.dialed.Swap(0); n != 1 {
		t.Fatalf("%d sockets without the switch", n)
	}
	config.Exit.RedirectDNS = true
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"with the exit", func(*Config) {}},
		{"without", func(c *Config) { c.Exit.Enabled = false }},
		{"for a peer without", func(c *Config) { c.Peers[0].NoExit = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{Peers: slices.Clone(config.Peers), Exit: config.Exit}
			c.change(&config)
			apply(t, d, config)
			eventually(t, "end of flows of before", func() bool { return d.Status().Exit == ExitStatus{} })
			for i := range 100 { // no address takes anything that others lack then
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, 4, byte(i)}), 53).String()
				exchangeDatagram(t, a.mustDial("udp", to), []byte("question"))
			}
			exchangeDatagram(t, a.mustDial("udp", "9.9.9.9:53"), bytes.Repeat([]byte("large "), 1000))
			exchange(t, a.mustDial("tcp", "9.9.9.9:53"), []byte("question"))
			if c, err := a.dial("tcp", "10.1.2.3:53"); err == nil {
				_ = c.Close()
				t.Error("an address that nobody may reach answers")
			}
			if n := w.dialed.Load(); n != 0 {
				t.Errorf("%d were dialed", n)
			}
		})
	}
	t.Run("other ports", func(t *testing.T) {
		apply(t, d, config)
		exchangeDatagram(t, a.mustDial("udp", "8.8.8.8:443"), []byte("out"))
		if n := w.dialed.Load(); n != 1 {
			t.Errorf("%d were dialed", n)
		}
	})
}
