package app_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/model"
)

// relayWarmUp passes before a measurement: windows have opened by then.
const relayWarmUp = 500 * time.Millisecond

// BenchmarkPeerToPeer compares TCP from one peer to another through this server
// with TCP between the same two peers where wireguard-go, on a TUN device, and
// the forwarding of its kernel are in the middle. The rows take turns of
// GC_PEERS_SECONDS each. CPU is that of the processes of the host in the middle;
// what the kernel does in interrupts for it is in neither row.
func BenchmarkPeerToPeer(b *testing.B) {
	lab.NeedRoot(b, "ip", "wg", "wg-quick", "ping")
	wireguardGo := lab.BuildWireGuardGo(b)
	ours, kernel := newOwnRelay(b, wireguardGo), newKernelRelay(b, wireguardGo)
	rows := []*relayRow{ours, kernel}
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			for _, row := range rows {
				row.moved, row.duration, row.cpu = 0, 0, 0
			}
			for b.Loop() {
				for _, row := range rows {
					row.measure(b, streams, benchSeconds(b))
				}
				slices.Reverse(rows) // neither always follows the other
			}
			b.ReportMetric(ours.rate(), "ours-Mbit/s")
			b.ReportMetric(kernel.rate(), "kernel-Mbit/s")
			b.ReportMetric(ours.rate()/kernel.rate(), "rate-ratio")
			b.ReportMetric(ours.cost(), "ours-CPU-s/GB")
			b.ReportMetric(kernel.cost(), "kernel-CPU-s/GB")
			b.ReportMetric(ours.cost()/kernel.cost(), "CPU-ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// benchSeconds is how long one row is measured at a time.
func benchSeconds(b *testing.B) time.Duration {
	b.Helper()
	text, ok := os.LookupEnv("GC_PEERS_SECONDS")
	if !ok {
		return 2 * time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		b.Fatalf("GC_PEERS_SECONDS is no number of seconds: %q", text)
	}
	return time.Duration(n) * time.Second
}

// relayRow is a host in the middle of two peers, and what it was measured to do.
type relayRow struct {
	from  *lab.ForeignPeer
	addr  string // a service of the other peer that reads
	pids  []string
	bytes atomic.Int64 // that the service read

	moved    int64 // bytes, while measured
	duration time.Duration
	cpu      time.Duration
}

func newOwnRelay(b *testing.B, wireguardGo string) *relayRow {
	b.Helper()
	s := newStar(b, "sab", "10.99.1")
	api, _ := startProcess(b, s.middle, "GC_WG_HOST="+s.toFirst, "GC_LOG_LEVEL=error")
	_, first := joinProcess(b, api, "first", s.toFirst+":51820", s.first, wireguardGo)
	_, second := joinProcess(b, api, "second", s.toSecond+":51820", s.second, wireguardGo)
	return newRelayRow(b, s.middle, first, second)
}

func newKernelRelay(b *testing.B, wireguardGo string) *relayRow {
	b.Helper()
	s := newStar(b, "kcd", "10.99.2")
	s.middle.Run(b, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	key, firstKey, secondKey := model.NewPrivateKey(), model.NewPrivateKey(), model.NewPrivateKey()
	join := func(ns *lab.Namespace, lines ...string) *lab.ForeignPeer {
		return lab.JoinForeign(b, ns, wireguardGo, strings.Join(append(lines, ""), "\n"))
	}
	join(s.middle,
		"[Interface]", "PrivateKey = "+key.Base64(), "Address = 10.9.0.1/24", "MTU = 1420", "ListenPort = 51820",
		"[Peer]", "PublicKey = "+firstKey.Public().String(), "AllowedIPs = 10.9.0.2/32",
		"[Peer]", "PublicKey = "+secondKey.Public().String(), "AllowedIPs = 10.9.0.3/32")
	peer := func(ns *lab.Namespace, own model.PrivateKey, addr, endpoint string) *lab.ForeignPeer {
		return join(ns,
			"[Interface]", "PrivateKey = "+own.Base64(), "Address = "+addr+"/32", "MTU = 1420",
			"[Peer]", "PublicKey = "+key.Public().String(), "AllowedIPs = 10.9.0.0/24", "Endpoint = "+endpoint+":51820",
			"PersistentKeepalive = 25")
	}
	return newRelayRow(b, s.middle, peer(s.first, firstKey, "10.9.0.2", s.toFirst), peer(s.second, secondKey, "10.9.0.3", s.toSecond))
}

// star is a host in the middle with a link to each of two others.
type star struct {
	middle, first, second *lab.Namespace
	toFirst, toSecond     string // addresses of the middle
}

// newStar names the namespaces by the letters of roles.
func newStar(b *testing.B, roles, prefix string) *star {
	b.Helper()
	s := &star{
		middle: lab.NewNamespace(b, roles[:1]), first: lab.NewNamespace(b, roles[1:2]), second: lab.NewNamespace(b, roles[2:]),
		toFirst: prefix + ".1", toSecond: prefix + ".5",
	}
	lab.Link(b, s.middle, s.toFirst+"/30", "to-first", s.first, prefix+".2/30", "eth0")
	lab.Link(b, s.middle, s.toSecond+"/30", "to-second", s.second, prefix+".6/30", "eth0")
	return s
}

func newRelayRow(b *testing.B, middle *lab.Namespace, first, second *lab.ForeignPeer) *relayRow {
	b.Helper()
	lab.Eventually(b, 20*time.Second, "the way from peer to peer", func() error {
		return first.Cmd("ping", "-c", "1", "-W", "1", second.Addr.String()).Run()
	})
	r := &relayRow{from: first, addr: second.Addr.String() + ":7000"}
	r.pids = strings.Fields(lab.Command(b, "ip", "netns", "pids", middle.Name))
	if len(r.pids) == 0 {
		b.Fatal("no process in the middle")
	}
	ln, err := second.Listen(r.addr)
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
			owned.Go(func() {
				defer c.Close()
				_ = count(c, &r.bytes)
			})
		}
	})
	b.Cleanup(func() { _ = ln.Close(); owned.Wait() })
	return r
}

// measure keeps that many connections busy, and adds what they moved in d.
func (r *relayRow) measure(b *testing.B, connections int, d time.Duration) {
	b.Helper()
	var streams sync.WaitGroup
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
		streams.Wait()
	}()
	for range connections {
		c, err := dialTimeout(r.from.Namespace, "tcp", r.addr)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0) // what is on its way shall not disturb the next row
		open = append(open, c)
		streams.Go(func() {
			if err := pour(c); !errors.Is(err, net.ErrClosed) {
				b.Errorf("a connection ended early: %v", err)
			}
		})
	}
	time.Sleep(relayWarmUp)
	bytes, cpu, start := r.bytes.Load(), cpuTime(b, r.pids), time.Now()
	time.Sleep(d) // the measurement
	r.moved += r.bytes.Load() - bytes
	r.cpu += cpuTime(b, r.pids) - cpu
	r.duration += time.Since(start)
}

// rate is in Mbit/s.
func (r *relayRow) rate() float64 { return float64(r.moved) * 8 / 1e6 / r.duration.Seconds() }

// cost is in CPU seconds per 10^9 bytes.
func (r *relayRow) cost() float64 { return r.cpu.Seconds() * 1e9 / float64(r.moved) }

// clockTick is the unit of the times in /proc/PID/stat on every architecture
// that Go runs on.
const clockTick = time.Second / 100

// cpuTime adds up what processes and their ended children used, in user space
// and in the kernel.
func cpuTime(b *testing.B, pids []string) (total time.Duration) {
	b.Helper()
	for _, pid := range pids {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			b.Fatal(err)
		}
		// The second field is a name in brackets, which may hold anything; the third
		// is the first of these. See proc_pid_stat(5).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(ticks) * clockTick
		}
	}
	return total
}
