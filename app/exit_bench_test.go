package app_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/model"
)

// What BenchmarkExitUDP sends: datagrams as QUIC has them, at a rate that every
// row carries, so that what is compared is the cost of the same work.
const (
	datagramSize = 1200
	datagramRate = 200_000_000 / 8 // bytes per second, all flows together
	datagramTick = time.Millisecond
)

// BenchmarkExitUDP compares UDP between a peer and the world through the exit of
// this server with the same through wireguard-go on a TUN device and the
// forwarding of its kernel, which translates no addresses here. The rows take
// turns.
func BenchmarkExitUDP(b *testing.B) {
	lab.NeedRoot(b, "ip", "wg", "wg-quick", "ping")
	wireguardGo := lab.BuildWireGuardGo(b)
	rows := []*exitRow{newOwnExit(b, wireguardGo), newKernelExit(b, wireguardGo)}
	ours, kernel := rows[0], rows[1]
	for _, direction := range []string{"down", "up"} {
		for _, flows := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/flows=%d", direction, flows), func(b *testing.B) {
				for _, row := range rows {
					row.moved, row.sent, row.duration, row.cpu = 0, 0, 0, 0
				}
				for b.Loop() {
					for _, row := range rows {
						row.measureExit(b, flows, direction == "down", benchSeconds(b))
					}
					slices.Reverse(rows) // neither always follows the other
				}
				b.ReportMetric(ours.cost(), "ours-CPU-s/GB")
				b.ReportMetric(kernel.cost(), "kernel-CPU-s/GB")
				b.ReportMetric(ours.cost()/kernel.cost(), "CPU-ratio")
				b.ReportMetric(ours.lost(), "ours-lost-%")
				b.ReportMetric(kernel.lost(), "kernel-lost-%")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// exitRow is a host between a peer and the world.
type exitRow struct {
	relayRow
	world *lab.Namespace
	sent  int64 // bytes, while measured
}

// lost is in percent.
func (r *exitRow) lost() float64 { return 100 * (1 - float64(r.moved)/float64(max(r.sent, 1))) }

func newOwnExit(b *testing.B, wireguardGo string) *exitRow {
	b.Helper()
	s := newStar(b, "efg", "10.99.3")
	api, _ := startProcess(b, s.middle, "GC_WG_HOST="+s.toFirst, "GC_LOG_LEVEL=error", "GC_EXIT_PRIVATE_NETWORKS=10.99.3.4/30")
	_, first := joinProcess(b, api, "first", s.toFirst+":51820", s.first, wireguardGo)
	return newExitRow(b, s, first, "10.99.3.6")
}

func newKernelExit(b *testing.B, wireguardGo string) *exitRow {
	b.Helper()
	s := newStar(b, "hij", "10.99.4")
	s.middle.Run(b, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	s.second.Run(b, "ip", "route", "add", "10.9.0.0/24", "via", s.toSecond)
	key, firstKey := model.NewPrivateKey(), model.NewPrivateKey()
	lab.JoinForeign(b, s.middle, wireguardGo, strings.Join([]string{
		"[Interface]", "PrivateKey = " + key.Base64(), "Address = 10.9.0.1/24", "MTU = 1420", "ListenPort = 51820",
		"[Peer]", "PublicKey = " + firstKey.Public().String(), "AllowedIPs = 10.9.0.2/32",
	}, "\n"))
	first := lab.JoinForeign(b, s.first, wireguardGo, strings.Join([]string{
		"[Interface]", "PrivateKey = " + firstKey.Base64(), "Address = 10.9.0.2/32", "MTU = 1420",
		"[Peer]", "PublicKey = " + key.Public().String(), "AllowedIPs = 0.0.0.0/0", "Endpoint = " + s.toFirst + ":51820",
		"PersistentKeepalive = 25",
	}, "\n"))
	return newExitRow(b, s, first, "10.99.4.6")
}

func newExitRow(b *testing.B, s *star, first *lab.ForeignPeer, world string) *exitRow {
	b.Helper()
	lab.Eventually(b, 20*time.Second, "the way to the world", func() error {
		return first.Cmd("ping", "-c", "1", "-W", "1", world).Run()
	})
	r := &exitRow{world: s.second}
	r.from, r.addr = first, world
	r.pids = strings.Fields(lab.Command(b, "ip", "netns", "pids", s.middle.Name))
	if len(r.pids) == 0 {
		b.Fatal("no process in the middle")
	}
	return r
}

// measureExit keeps that many flows going, and adds what arrived in d.
func (r *exitRow) measureExit(b *testing.B, flows int, down bool, d time.Duration) {
	b.Helper()
	var arrived, sent atomic.Int64
	var owned sync.WaitGroup
	done := make(chan struct{})
	var open []net.PacketConn
	defer func() {
		close(done)
		for _, c := range open {
			_ = c.Close()
		}
		owned.Wait()
	}()
	type end struct {
		conn net.PacketConn
		to   net.Addr
	}
	var senders []end
	for range flows {
		server, err := r.world.ListenPacket(r.addr + ":0")
		if err != nil {
			b.Fatal(err)
		}
		open = append(open, server)
		client, err := r.from.ListenPacket(r.from.Addr.String() + ":0")
		if err != nil {
			b.Fatal(err)
		}
		open = append(open, client)
		// The peer begins, so that the world knows where answers go.
		var back net.Addr
		buf := make([]byte, 2048)
		for back == nil {
			if _, err := client.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
				b.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Now().Add(time.Second))
			if _, from, err := server.ReadFrom(buf); err == nil {
				back = from
			}
		}
		_ = server.SetReadDeadline(time.Time{})
		from, to := end{server, back}, client
		if !down {
			from, to = end{client, server.LocalAddr()}, server
		}
		senders = append(senders, from)
		owned.Go(func() {
			buf := make([]byte, 2048)
			for {
				n, _, err := to.ReadFrom(buf)
				if err != nil {
					return
				}
				arrived.Add(int64(n))
			}
		})
	}
	owned.Go(func() {
		datagram := make([]byte, datagramSize)
		tick := time.NewTicker(datagramTick)
		defer tick.Stop()
		start, due := time.Now(), 0
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for total := int(time.Since(start).Seconds() * datagramRate / datagramSize); due < total; due++ {
				to := senders[due/8%len(senders)] // as a server that paces by the burst
				if _, err := to.conn.WriteTo(datagram, to.to); err == nil {
					sent.Add(datagramSize)
				}
			}
		}
	})
	time.Sleep(relayWarmUp)
	bytes, out, cpu, start := arrived.Load(), sent.Load(), cpuTime(b, r.pids), time.Now()
	time.Sleep(d) // the measurement
	r.moved += arrived.Load() - bytes
	r.sent += sent.Load() - out
	r.cpu += cpuTime(b, r.pids) - cpu
	r.duration += time.Since(start)
}
