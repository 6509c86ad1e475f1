package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestPeerToPeer(t *testing.T) {
	t.Parallel()
	a, b := newForeign(t, 2), newForeign(t, 3)
	d := started(t, nil, peers(a, b))
	a.join(d)
	b.join(d)

	t.Run("TCP", func(t *testing.T) {
		b.listen(80, echo)
		exchange(t, a.mustDial("tcp", "10.8.0.3:80"), bytes.Repeat([]byte("relay"), 100_000))
		if n := d.Status().Exit.TCPFlows; n != 0 {
			t.Fatalf("%d flows were terminated here", n)
		}
	})
	t.Run("TCP bulk", func(t *testing.T) {
		l, err := b.net.ListenTCP(&net.TCPAddr{Port: 81})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := a.mustDial("tcp", "10.8.0.3:81")
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		transfer(t, c, s, 2<<20)
	})
	t.Run("UDP", func(t *testing.T) {
		p, err := b.net.ListenUDP(&net.UDPAddr{Port: 5000})
		if err != nil {
			t.Fatal(err)
		}
		packetEcho(t, p)
		c := a.mustDial("udp", "10.8.0.3:5000")
		exchangeDatagram(t, c, []byte("hello"))
		exchangeDatagram(t, c, bytes.Repeat([]byte{7}, 5000)) // in fragments
	})
	t.Run("ping", func(t *testing.T) { ping(t, a, b.addr) })
}

func TestPeersApart(t *testing.T) {
	t.Parallel()
	for name, isolate := range map[string]func(a, b *Peer){
		"sender isolated":   func(a, _ *Peer) { a.Isolated = true },
		"receiver isolated": func(_, b *Peer) { b.Isolated = true },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newForeign(t, 2), newForeign(t, 3)
			config := peers(a, b)
			isolate(&config.Peers[0], &config.Peers[1])
			d := started(t, nil, config)
			a.join(d)
			b.join(d)
			b.listen(80, echo)
			if _, err := a.dial("tcp", "10.8.0.3:80"); err == nil {
				t.Fatal("reached over TCP")
			}
			_, there := a.dial("tcp", "10.8.0.3:80")
			_, missing := a.dial("tcp", "10.8.0.99:80")
			if there == nil || missing == nil || there.(*net.OpError).Err.Error() != missing.(*net.OpError).Err.Error() {
				t.Fatalf("a peer that exists answers %v, one that does not %v", there, missing)
			}
			if pings(t, a, b.addr, 200*time.Millisecond) {
				t.Fatal("reached by ping")
			}
			ping(t, a, testAddr) // the server is there for both
			ping(t, b, testAddr)
		})
	}
}

func TestServerPorts(t *testing.T) {
	t.Parallel()
	a, gateway := newForeign(t, 2), newForeign(t, 3)
	config := peers(a, gateway)
	config.Peers[1].ServerPorts = []uint16{9090, 9080}
	d := started(t, nil, config)
	a.join(d)
	gateway.join(d)
	gateway.listen(9080, echo)
	gateway.listen(80, echo)

	exchange(t, dialPeer(t, d, "tcp", gateway.addr, 9080), []byte("from the server"))
	exchange(t, a.mustDial("tcp", "10.8.0.3:80"), []byte("an open port"))
	before := d.Status().FilteredPackets
	dialed := make(chan error, 1)
	go func() {
		c, err := a.dial("tcp", "10.8.0.3:9080")
		if err == nil {
			_ = c.Close()
		}
		dialed <- err
	}()
	eventually(t, "refusal", func() bool { return d.Status().FilteredPackets > before })
	select {
	case err := <-dialed:
		t.Fatalf("the gateway answered: %v", err)
	default:
	}
	config.Peers = []Peer{config.Peers[0], config.Peers[1]}
	config.Peers[0].Trusted = true
	apply(t, d, config) // the peer's next attempt passes
	if err := <-dialed; err != nil {
		t.Fatal(err)
	}
}

// WireGuard says who sent a packet; the hub checks that its address is theirs.
func TestForgedSourceIsDropped(t *testing.T) {
	a, b := newForeign(t, 2), newForeign(t, 3)
	forger := newForeign(t, 4)
	d := started(t, nil, peers(a, b, forger))
	b.join(d)
	forger.addr = a.addr // it has its own key and another's address
	forger.up(d)
	p, err := d.ListenPacket(7)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	heard := make(chan net.Addr, 10)
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			heard <- from
		}
	}()
	c, err := forger.net.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(testAddr, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	honest := b.mustDial("udp", "10.8.0.1:7")
	received := func() uint64 { return d.Status().Peers[2].RxBytes }
	eventually(t, "forged packets", func() bool {
		_, _ = c.Write(make([]byte, 64))
		return received() > 2000
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = honest.Write([]byte("honest"))
		select {
		case from := <-heard:
			if from.(*net.UDPAddr).AddrPort().Addr() != b.addr {
				t.Fatalf("a packet from %s arrived", from)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("the honest peer is not heard")
}
