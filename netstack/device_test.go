package netstack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestTunnelBothWays(t *testing.T) {
	a := newForeign(t, 2)
	a.psk = model.NewPresharedKey()
	d := started(t, nil, peers(a))
	a.join(d)
	big := bytes.Repeat([]byte("0123456789abcdef"), 4096)

	t.Run("server dials peer over TCP", func(t *testing.T) {
		a.listen(80, echo)
		c := dialPeer(t, d, "tcp", a.addr, 80)
		exchange(t, c, []byte("hello"))
		exchange(t, c, big)
		if c.RemoteAddr().String() != "10.8.0.2:80" || !strings.HasPrefix(c.LocalAddr().String(), "10.8.0.1:") {
			t.Fatalf("from %s to %s", c.LocalAddr(), c.RemoteAddr())
		}
		held := c.(*tcpConn)
		if !held.Quiet() {
			t.Error("not quiet with nothing to be read")
		}
		if _, err := c.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "three bytes", func() bool { return held.Buffered() == 3 })
		if held.Quiet() {
			t.Error("quiet with three bytes to be read")
		}
		if n, err := c.Read(make([]byte, 10)); n != 3 || err != nil || held.Buffered() != 0 {
			t.Fatalf("read %d, %v; %d left", n, err, held.Buffered())
		}
		if !held.Quiet() {
			t.Error("not quiet once they are read")
		}
		_ = held.CloseWrite() // which has the peer close
		eventually(t, "the end of the peer", func() bool { return !held.Quiet() })
		_ = c.Close()
		if held.Buffered() != 0 {
			t.Fatal("a closed connection holds something")
		}
	})
	t.Run("server resets a connection", func(t *testing.T) {
		end := make(chan error, 1)
		a.listen(81, func(c net.Conn) {
			_, err := io.Copy(io.Discard, c)
			end <- err
		})
		for sec, reset := range map[int]bool{0: true, -1: false} {
			c := dialPeer(t, d, "tcp", a.addr, 81).(*tcpConn)
			if _, err := c.Write([]byte("abc")); err != nil {
				t.Fatal(err)
			}
			_ = c.SetLinger(sec)
			_ = c.Close()
			if err := <-end; (err != nil) != reset {
				t.Errorf("after SetLinger(%d) the peer meets %v", sec, err)
			}
		}
	})
	t.Run("peer dials server over TCP", func(t *testing.T) {
		var remote net.Addr
		listen(t, d, 8080, func(c net.Conn) { remote = c.RemoteAddr(); echo(c) })
		c := a.mustDial("tcp", "10.8.0.1:8080")
		exchange(t, c, big)
		if !strings.HasPrefix(remote.String(), "10.8.0.2:") {
			t.Fatalf("the server sees %s", remote)
		}
	})
	t.Run("server dials peer over UDP", func(t *testing.T) {
		p, err := a.net.ListenUDP(&net.UDPAddr{Port: 5000})
		if err != nil {
			t.Fatal(err)
		}
		packetEcho(t, p)
		c := dialPeer(t, d, "udp", a.addr, 5000)
		exchangeDatagram(t, c, []byte("hello"))
		exchangeDatagram(t, c, big[:1420-ipv4Header-udpHeader]) // exactly the MTU
		exchangeDatagram(t, c, big[:9000])                      // in fragments
	})
	t.Run("peer dials server over UDP", func(t *testing.T) {
		p, err := d.ListenPacket(53)
		if err != nil {
			t.Fatal(err)
		}
		packetEcho(t, p)
		c := a.mustDial("udp", "10.8.0.1:53")
		exchangeDatagram(t, c, []byte("hello"))
		exchangeDatagram(t, c, big[:1420-ipv4Header-udpHeader])
		exchangeDatagram(t, c, big[:9000])
	})
	t.Run("peer pings server", func(t *testing.T) { ping(t, a, testAddr) })
	t.Run("closed ports refuse at once", func(t *testing.T) {
		begin := time.Now()
		if c, err := a.dial("tcp", "10.8.0.1:9"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("%v, %v", c, err)
		}
		if took := time.Since(begin); took > patience/2 {
			t.Fatalf("after %s", took)
		}
	})
	t.Run("status", func(t *testing.T) {
		s := d.Status()
		p := s.Peers[0]
		if !s.Running || s.ListenPort == 0 || s.PublicKey != d.key || !p.HasPresharedKey ||
			p.Endpoint.Addr() != netip.MustParseAddr("127.0.0.1") || p.RxBytes == 0 || p.TxBytes == 0 ||
			time.Since(p.LastHandshake) > time.Hour || len(p.AllowedIPs) != 1 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestBulkTransfer(t *testing.T) {
	t.Parallel()
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	const size = 8 << 20
	l, err := d.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"server to peer", "peer to server"} {
		t.Run(name, func(t *testing.T) {
			c := a.mustDial("tcp", l.Addr().String())
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if name == "server to peer" {
				transfer(t, s, c, size)
			} else {
				transfer(t, c, s, size)
			}
		})
	}
}

// ping sends echo requests until one is answered.
func ping(t *testing.T, from *foreign, to netip.Addr) {
	t.Helper()
	if !pings(t, from, to, patience) {
		t.Fatalf("%s does not answer %s", to, from.addr)
	}
}

func pings(t *testing.T, from *foreign, to netip.Addr, wait time.Duration) bool {
	t.Helper()
	c, err := from.net.DialPingAddr(from.addr, to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The bundled socket overlooks an answer that came before Read, so Read goes
	// on beside repeated requests.
	_ = c.SetReadDeadline(time.Now().Add(wait))
	msg := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'p', 'i', 'n', 'g'}
	answered := make(chan bool, 1)
	go func() {
		got := make([]byte, 1500)
		n, err := c.Read(got)
		answered <- err == nil && n == len(msg) && got[0] == 0
	}()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		select {
		case ok := <-answered:
			return ok
		case <-again.C:
		}
	}
}

func TestDialRefusesStrangers(t *testing.T) {
	d := started(t, nil, peers(newForeign(t, 2)))
	for _, addr := range []string{"10.8.0.3:80", "127.0.0.1:80", "8.8.8.8:53", "10.8.0.1:80", "[::1]:80"} {
		c, err := d.Dial(context.Background(), "tcp", netip.MustParseAddrPort(addr))
		if err == nil || model.KindOf(err) != model.KindUnavailable || !strings.Contains(err.Error(), "no peer has") {
			t.Errorf("%s: %v, %v", addr, c, err)
		}
	}
	if !d.Owns(netip.MustParseAddr("10.8.0.77")) || d.Owns(netip.MustParseAddr("10.9.0.1")) {
		t.Error("Owns")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	a := newForeign(t, 2) // never there
	d := started(t, nil, peers(a))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := d.Dial(ctx, "tcp", netip.AddrPortFrom(a.addr, 80))
		failed <- err
	}()
	eventually(t, "attempt", func() bool { return len(d.stack.RegisteredEndpoints()) > 0 })
	cancel()
	select {
	case err := <-failed:
		if err == nil {
			t.Fatal("connected to nobody")
		}
	case <-time.After(patience):
		t.Fatal("Dial goes on")
	}
}

func TestStartReportsTakenPort(t *testing.T) {
	first := started(t, nil, Config{})
	port := first.Status().ListenPort
	second := newServer(t, func(o *Options) { o.ListenPort = port })
	err := second.Start()
	if model.KindOf(err) != model.KindConflict || !strings.Contains(err.Error(), "UDP port") {
		t.Fatal(err)
	}
	_ = first.Close()
	if err := second.Start(); err != nil {
		t.Fatalf("after the port became free: %v", err)
	}
	if got := second.Status().ListenPort; got != port {
		t.Fatalf("port %d instead of %d", got, port)
	}
}

func TestListenReportsTakenPort(t *testing.T) {
	d := newServer(t, nil)
	l, err := d.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(80); model.KindOf(err) != model.KindConflict {
		t.Fatalf("TCP: %v", err)
	}
	_ = l.Close()
	_ = l.Close()
	if _, err := l.Accept(); err == nil {
		t.Fatal("Accept after Close")
	}
	if _, err := d.Listen(80); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	p, err := d.ListenPacket(53)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := d.ListenPacket(53); model.KindOf(err) != model.KindConflict {
		t.Fatalf("UDP: %v", err)
	}
}

func TestNewChecksOptions(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no key":       func(o *Options) { o.PrivateKey = model.PrivateKey{} },
		"IPv6 address": func(o *Options) { o.Addr = netip.MustParseAddr("fd00::1") },
		"no address":   func(o *Options) { o.Addr = netip.Addr{} },
		"multicast address": func(o *Options) {
			o.Addr, o.Subnet = netip.MustParseAddr("224.0.0.1"), netip.MustParsePrefix("224.0.0.0/24")
		},
		"outside subnet": func(o *Options) { o.Addr = netip.MustParseAddr("10.9.0.1") },
		"no subnet":      func(o *Options) { o.Subnet = netip.Prefix{} },
		"small MTU":      func(o *Options) { o.MTU = 575 },
		"large MTU":      func(o *Options) { o.MTU = 9001 },
	} {
		o := Options{PrivateKey: model.NewPrivateKey(), Addr: testAddr, Subnet: testSubnet, MTU: 1420}
		change(&o)
		if d, err := New(o); model.KindOf(err) != model.KindInvalid {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	l, err := d.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.ListenPacket(53)
	if err != nil {
		t.Fatal(err)
	}
	a.listen(80, echo)
	c := dialPeer(t, d, "tcp", a.addr, 80)
	exchange(t, c, []byte("hello"))
	ended := make(chan struct{}, 3)
	go func() { _, _ = l.Accept(); ended <- struct{}{} }()
	go func() { _, _, _ = p.ReadFrom(make([]byte, 10)); ended <- struct{}{} }()
	go func() { _, _ = c.Read(make([]byte, 10)); ended <- struct{}{} }()
	_ = d.Close()
	_ = d.Close()
	for range 3 {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("something still waits")
		}
	}
	if d.Status().Running {
		t.Fatal("running after Close")
	}
	if err := d.Start(); err == nil {
		t.Fatal("started after Close")
	}
}
