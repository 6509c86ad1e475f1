package netstack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	bundled "golang.zx2c4.com/wireguard/tun/netstack"

	"gatecontrol/model"
)

func BenchmarkClassify(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		list := manyPeers(n)
		list[1].AllowedIPs = append(list[1].AllowedIPs, netip.MustParsePrefix("192.168.1.0/24"))
		server := netip.MustParseAddr("10.9.255.1")
		t, err := newTable(Config{Peers: list}, self{addr: server, subnet: netip.MustParsePrefix("10.9.0.0/16")}, nil)
		if err != nil {
			b.Fatal(err)
		}
		src, dst := list[0].AllowedIPs[0].Addr(), list[n-1].AllowedIPs[0].Addr()
		for name, to := range map[string]netip.Addr{"server": server, "peer": dst, "exit": netip.MustParseAddr("1.1.1.1")} {
			p := udpDatagram(src, to, 53, 1000)
			b.Run(fmt.Sprintf("%s/%d peers", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if t.classify(p).way == drop {
						b.Fatal("dropped")
					}
				}
			})
		}
	}
}

// BenchmarkThroughput sends TCP from a server to a peer and back, through both
// devices' cryptography and loopback UDP. The far end is the same foreign peer;
// the near end is ours, over IPv4 or IPv6, or wireguard-go's own.
func BenchmarkThroughput(b *testing.B) {
	for _, near := range []string{"hub", "hub IPv6", "bundled"} {
		for _, direction := range []string{"send", "receive"} {
			b.Run(near+"/"+direction, func(b *testing.B) {
				far := newDualForeign(b, 2)
				var c net.Conn
				accepted := make(chan net.Conn, 1)
				if near != "bundled" {
					d := started(b, dual, peers(far))
					far.join(d)
					far.listen(80, func(c net.Conn) { accepted <- c; <-b.Context().Done() })
					addr := far.addr
					if near == "hub IPv6" {
						addr = far.addr6
					}
					c = dialPeer(b, d, "tcp", addr, 80)
				} else {
					near := newBundledServer(b, far)
					far.listen(80, func(c net.Conn) { accepted <- c; <-b.Context().Done() })
					var err error
					if c, err = near.DialTCPAddrPort(netip.AddrPortFrom(far.addr, 80)); err != nil {
						b.Fatal(err)
					}
				}
				from, to := c, <-accepted
				if direction == "receive" {
					from, to = to, from
				}
				pump(b, from, to)
			})
		}
	}
}

func pump(b *testing.B, from, to net.Conn) {
	const chunk = 1 << 20
	b.ReportAllocs()
	b.SetBytes(chunk)
	out, in := make([]byte, chunk), make([]byte, chunk)
	go func() {
		for {
			if _, err := from.Write(out); err != nil {
				return
			}
		}
	}()
	for range 64 { // past slow start
		if _, err := io.ReadFull(to, in); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := io.ReadFull(to, in); err != nil {
			b.Fatal(err)
		}
	}
	_, _ = from.Close(), to.Close()
}

// newBundledServer is a server made of wireguard-go's own parts only.
func newBundledServer(b *testing.B, far *foreign) *bundled.Net {
	tun, stack := newTUN(b, testAddr)
	wg := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	b.Cleanup(wg.Close)
	key := model.NewPrivateKey()
	configure(b, wg, key, fmt.Sprintf("public_key=%x\nallowed_ip=%s/32\n", [32]byte(far.key.Public()), far.addr))
	if err := wg.Up(); err != nil {
		b.Fatal(err)
	}
	far.upTo(key.Public(), listenPort(b, wg))
	return stack
}

// BenchmarkExit sends TCP out through the exit to a server on loopback.
func BenchmarkExit(b *testing.B) {
	for _, direction := range []string{"out", "in"} {
		b.Run(direction, func(b *testing.B) {
			w, _, a, _ := behindExit(b)
			from, err := a.dial("tcp", "1.1.1.1:80")
			if err != nil {
				b.Fatal(err)
			}
			to, err := w.tcp.Accept()
			if err != nil {
				b.Fatal(err)
			}
			if direction == "in" {
				from, to = to, from
			}
			pump(b, from, to)
		})
	}
}

// BenchmarkRoundTrip is one byte to a peer and back.
func BenchmarkRoundTrip(b *testing.B) {
	far := newForeign(b, 2)
	d := started(b, nil, peers(far))
	far.join(d)
	far.listen(80, echo)
	c := dialPeer(b, d, "tcp", far.addr, 80)
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChange adds and removes one of many peers, as a call of the API does.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d peers", n), func(b *testing.B) {
			d := newServer(b, func(o *Options) {
				o.Addr, o.Subnet = netip.MustParseAddr("10.9.255.1"), netip.MustParsePrefix("10.9.0.0/16")
			})
			if err := d.Start(); err != nil {
				b.Fatal(err)
			}
			list := manyPeers(n)
			begin := time.Now()
			apply(b, d, Config{Peers: list})
			b.Logf("%d peers from nothing: %s", n, time.Since(begin))
			b.ReportAllocs()
			for b.Loop() {
				apply(b, d, Config{Peers: list[:n-1]})
				apply(b, d, Config{Peers: list})
			}
		})
	}
}

func BenchmarkStatus(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d peers", n), func(b *testing.B) {
			d := newServer(b, nil)
			apply(b, d, Config{Peers: manyPeers(n)})
			b.ReportAllocs()
			for b.Loop() {
				if len(d.Status().Peers) != n {
					b.Fatal("peers are missing")
				}
			}
		})
	}
}
