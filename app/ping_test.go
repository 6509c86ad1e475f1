package app_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatecontrol/lab"
)

// Addresses for ICMP, in the network that the exit may reach.
const (
	nobodyThere = "10.99.3.5" // on the link, where no host has it
	beyond      = "10.99.3.6" // one router behind the world
)

// TestPing is ICMP through the exit, with the system's own ping: a server that
// runs as root has raw sockets.
func TestPing(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd { return ns.Cmd(bin, "serve") })
	s.pings(t)
}

// TestPingUnprivileged is the same with a server that may nothing, once the
// system allows everybody to ping.
func TestPingUnprivileged(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping", "setpriv")
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd {
		return ns.Cmd("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
			"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", bin, "serve")
	})
	s.server.Run(t, "sysctl", "-qw", "net.ipv4.ping_group_range=1 0") // nobody
	s.ping(t, "Packet filtered", "-c1", "-W5", world)
	s.server.Run(t, "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
	s.pings(t)
}

// ping runs ping at alpha and wants to read something in what it prints.
func (s *scene) ping(t *testing.T, want string, args ...string) {
	t.Helper()
	out, err := s.alpha.Cmd("ping", append([]string{"-n"}, args...)...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() > 1) {
		t.Fatalf("ping %v: %v %s", args, err, out)
	}
	if !strings.Contains(string(out), want) {
		t.Errorf("ping %v does not print %q:\n%s", args, want, out)
	}
}

func (s *scene) pings(t *testing.T) {
	end := lab.NewNamespace(t, "e")
	lab.Link(t, s.world, "10.99.4.1/30", "to-e", end, "10.99.4.2/30", "eth0")
	end.Run(t, "ip", "addr", "add", beyond+"/32", "dev", "lo")
	end.Run(t, "ip", "route", "add", "default", "via", "10.99.4.1")
	s.world.Run(t, "ip", "route", "add", beyond, "via", "10.99.4.2")
	s.world.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	s.server.Run(t, "ip", "route", "add", beyond, "via", world)

	t.Run("answers", func(t *testing.T) {
		s.ping(t, "3 packets transmitted, 3 received, 0% packet loss", "-c3", "-i0.2", "-W5", world)
		s.ping(t, "2 received", "-c2", "-i0.2", "-W5", beyond)
	})
	t.Run("in fragments", func(t *testing.T) {
		s.ping(t, "2 received", "-c2", "-i0.2", "-W5", "-s3000", world)
		s.ping(t, "2 received", "-c2", "-i0.2", "-W5", "-s20000", world)
	})
	t.Run("traced", func(t *testing.T) {
		s.ping(t, "From 10.8.0.1 icmp_seq=1 Time to live exceeded", "-c1", "-W5", "-t1", beyond)
		s.ping(t, "From "+world+" icmp_seq=1 Time to live exceeded", "-c1", "-W5", "-t2", beyond)
		s.ping(t, "1 received", "-c1", "-W5", "-t3", beyond)
	})
	t.Run("smaller path", func(t *testing.T) {
		s.world.Run(t, "ip", "link", "set", "to-e", "mtu", "1300")
		end.Run(t, "ip", "link", "set", "eth0", "mtu", "1300")
		s.ping(t, "Frag needed and DF set (mtu = 1300)", "-c1", "-W5", "-Mdo", "-s1372", beyond)
		s.ping(t, "1 received", "-c1", "-W5", "-s1372", beyond)
	})
	t.Run("nobody there", func(t *testing.T) {
		s.ping(t, "Destination Host Unreachable", "-c1", "-W10", nobodyThere)
	})
	t.Run("refused", func(t *testing.T) { // at once, whether there is such a host or not
		start := time.Now()
		for _, addr := range []string{worldLink, other, linkLocal, "10.99.2.1", "10.99.2.99", "10.8.0.99", "192.168.200.1", "192.0.2.1", worldBroadcast} {
			s.ping(t, "From 10.8.0.1 icmp_seq=1 Packet filtered", "-c1", "-W5", addr)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("took %v", d)
		}
	})
	t.Run("UDP port unreachable", func(t *testing.T) {
		checkUDPRefused(t, s.alpha.Namespace, world+":9999")
	})
	t.Run("UDP traced", func(t *testing.T) {
		for ttl, want := range map[int]string{1: "10.8.0.1", 2: world} {
			if got := s.trace(t, ttl); got != want {
				t.Errorf("TTL %d: %s answers instead of %s", ttl, got, want)
			}
		}
	})
	t.Run("flood", func(t *testing.T) { // bounded, and over when it is
		out, _ := s.alpha.Cmd("ping", "-nqf", "-c500", "-W1", world).CombinedOutput()
		if !strings.Contains(string(out), "500 packets transmitted") {
			t.Errorf("%s", out)
		}
		lab.Eventually(t, 10*time.Second, "answer after the flood", func() error {
			return s.alpha.Cmd("ping", "-c1", "-W1", world).Run()
		})
	})
}

// trace sends a datagram with a TTL from alpha towards beyond and returns who
// says that it went no further.
func (s *scene) trace(t *testing.T, ttl int) (from string) {
	t.Helper()
	var conn *net.UDPConn
	var icmp net.PacketConn
	var err error
	if nerr := s.alpha.Do(func() {
		if icmp, err = net.ListenPacket("ip4:icmp", "0.0.0.0"); err == nil {
			conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(beyond), Port: 33434 + ttl})
		}
	}); nerr != nil || err != nil {
		t.Fatal(nerr, err)
	}
	defer icmp.Close()
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, ttl) })
	if err != nil {
		t.Fatal(os.NewSyscallError("setsockopt", err))
	}
	if _, err := conn.Write([]byte("trace")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	_ = icmp.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		n, addr, err := icmp.ReadFrom(buf)
		if err != nil {
			t.Fatalf("TTL %d: %v", ttl, err)
		}
		if n > 0 && buf[0] == 11 { // time exceeded
			return addr.String()
		}
	}
}

// checkUDPRefused has a datagram to addr come back as "port unreachable".
func checkUDPRefused(t *testing.T, from *lab.Namespace, addr string) {
	t.Helper()
	conn, err := dialTimeout(from, "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lab.Eventually(t, 10*time.Second, "refusal", func() error {
		_, werr := conn.Write([]byte("anybody there?"))
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, rerr := conn.Read(make([]byte, 10))
		if errors.Is(werr, syscall.ECONNREFUSED) || errors.Is(rerr, syscall.ECONNREFUSED) {
			return nil
		}
		return errors.Join(errors.New("not refused"), rerr)
	})
}
