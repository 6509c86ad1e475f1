package app_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/lab/relay"
	"gatecontrol/model"
)

const (
	// lossStreams is how many TCP connections each row has: the rate of a single
	// one is much a matter of luck.
	lossStreams = 4

	// kernelPort is the tunnel between two TUN devices, beside that of the server.
	kernelPort = "127.0.0.1:51821"
)

// lossy is a link of 50 ms round trip that loses 1 % each way.
var lossy = relay.Path{Delay: 25 * time.Millisecond, Loss: 0.01}

// BenchmarkLossyLink compares TCP through this server with TCP between two
// kernels over wireguard-go's TUN devices, all over a lossy link and with Reno
// everywhere. The four rows run at once, for GC_LOSS_SECONDS; they are far from
// filling the machine, and what disturbs one disturbs all.
func BenchmarkLossyLink(b *testing.B) {
	lab.NeedRoot(b, "ip", "wg", "wg-quick", "ping")
	seconds := 10
	if text, ok := os.LookupEnv("GC_LOSS_SECONDS"); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 {
			b.Fatalf("GC_LOSS_SECONDS is no number of seconds: %q", text)
		}
		seconds = n
	}
	l := newBadLink(b)
	if err := l.relay.Set(lossy, lossy); err != nil {
		b.Fatal(err)
	}
	kernel, far := kernelTunnel(b, l.server)
	ours := newMeter(b, l.server, portRoute, l.peer.Namespace, l.peer.Addr.String()+":7000")
	theirs := newMeter(b, kernel.Namespace, far.Addr.String()+":7000", far.Namespace, far.Addr.String()+":7000")
	name := useReno(b, l.server, l.peer.Namespace, far.Namespace)
	b.Run(name, func(b *testing.B) { compare(b, ours, theirs, time.Duration(seconds)*time.Second) })
}

func compare(b *testing.B, ours, theirs *meter, d time.Duration) {
	for _, m := range []*meter{ours, theirs} {
		m.b = b
		m.toPeer.Store(0)
		m.fromPeer.Store(0)
	}
	for b.Loop() {
		var rows sync.WaitGroup
		for _, m := range []*meter{ours, theirs} {
			rows.Go(func() { m.run('S', d) })
			rows.Go(func() { m.run('R', d) })
		}
		rows.Wait()
	}
	report := func(way string, ours, theirs int64) {
		rate := func(n int64) float64 { return float64(n) * 8 / 1e6 / b.Elapsed().Seconds() }
		b.ReportMetric(rate(ours), way+"-ours-Mbit/s")
		b.ReportMetric(rate(theirs), way+"-kernel-Mbit/s")
		b.ReportMetric(float64(ours)/float64(theirs), way+"-ratio")
	}
	report("to-peer", ours.toPeer.Load(), theirs.toPeer.Load())
	report("from-peer", ours.fromPeer.Load(), theirs.fromPeer.Load())
	b.ReportMetric(0, "ns/op")
}

// kernelTunnel joins the namespace of the server with another one through TUN
// devices of wireguard-go on both sides and a relay of its own.
func kernelTunnel(b *testing.B, server *lab.Namespace) (near, far *lab.ForeignPeer) {
	ns := lab.NewNamespace(b, "k")
	lab.Link(b, server, "10.99.2.1/30", "to-k", ns, "10.99.2.2/30", "eth0")
	r := relay.New(b, netip.MustParseAddrPort(kernelPort), relay.Options{Addr: "10.99.2.1:0", Listen: server.ListenPacket})
	nearKey, farKey := model.NewPrivateKey(), model.NewPrivateKey()
	wireguardGo := lab.BuildWireGuardGo(b)
	near = lab.JoinForeign(b, server, wireguardGo, strings.Join([]string{
		"[Interface]", "PrivateKey = " + nearKey.Base64(), "Address = 10.9.0.1/24", "MTU = 1420", "ListenPort = 51821",
		"[Peer]", "PublicKey = " + farKey.Public().String(), "AllowedIPs = 10.9.0.2/32", "",
	}, "\n"))
	far = lab.JoinForeign(b, ns, wireguardGo, strings.Join([]string{
		"[Interface]", "PrivateKey = " + farKey.Base64(), "Address = 10.9.0.2/24", "MTU = 1420",
		"[Peer]", "PublicKey = " + nearKey.Public().String(), "AllowedIPs = 10.9.0.1/32", "Endpoint = " + r.Addr().String(), "",
	}, "\n"))
	lab.Eventually(b, 20*time.Second, "the tunnel between the kernels", func() error {
		return far.Cmd("ping", "-c", "1", "-W", "1", "10.9.0.1").Run()
	})
	if err := r.Set(lossy, lossy); err != nil {
		b.Fatal(err)
	}
	return near, far
}

// useReno chooses Reno in every namespace, if the kernel has it, and returns
// what is in use.
func useReno(b *testing.B, namespaces ...*lab.Namespace) string {
	const file = "/proc/sys/net/ipv4/tcp_congestion_control"
	var used []string
	for _, ns := range namespaces {
		in := strings.TrimSpace(ns.Run(b, "sh", "-c", "echo reno > "+file+" || true; cat "+file))
		if !slices.Contains(used, in) {
			used = append(used, in)
		}
	}
	return strings.Join(used, "+")
}

// meter is a TCP service, how it is reached, and what arrived at either end.
// Each connection begins with a byte: S for one that sends to the service, R for
// one that receives from it.
type meter struct {
	b                *testing.B
	from             *lab.Namespace
	addr             string
	toPeer, fromPeer atomic.Int64
}

func newMeter(b *testing.B, from *lab.Namespace, addr string, at *lab.Namespace, service string) *meter {
	m := &meter{b: b, from: from, addr: addr}
	ln, err := at.Listen(service)
	if err != nil {
		b.Fatal(err)
	}
	var owned sync.WaitGroup
	owned.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			owned.Go(func() { m.serve(c) })
		}
	})
	b.Cleanup(func() { _ = ln.Close(); owned.Wait() })
	return m
}

func (m *meter) serve(c net.Conn) {
	defer c.Close()
	kind := make([]byte, 1)
	if _, err := io.ReadFull(c, kind); err != nil {
		return
	}
	if kind[0] == 'S' {
		count(c, &m.toPeer)
		return
	}
	pour(c)
}

// run keeps lossStreams connections busy for a time.
func (m *meter) run(kind byte, d time.Duration) {
	deadline := time.Now().Add(d)
	var streams sync.WaitGroup
	defer streams.Wait()
	for range lossStreams {
		c, err := dialTimeout(m.from, "tcp", m.addr)
		if err != nil {
			m.b.Errorf("%s: %v", m.addr, err)
			return
		}
		_ = c.SetDeadline(deadline)
		streams.Go(func() {
			defer c.Close()
			_ = c.(*net.TCPConn).SetLinger(0) // what is on its way does not count
			if _, err := c.Write([]byte{kind}); err != nil {
				m.b.Errorf("%s: %v", m.addr, err)
			} else if kind == 'S' {
				err = pour(c)
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					m.b.Errorf("%s ended early: %v", m.addr, err)
				}
			} else if err := count(c, &m.fromPeer); !errors.Is(err, os.ErrDeadlineExceeded) {
				m.b.Errorf("%s ended early: %v", m.addr, err)
			}
		})
	}
}

// pour writes until it fails.
func pour(c net.Conn) error {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

// count reads until it fails.
func count(c net.Conn, total *atomic.Int64) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		total.Add(int64(n))
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}
