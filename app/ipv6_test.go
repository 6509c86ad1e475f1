package app_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatecontrol/lab"
)

// Addresses of the tests of IPv6: of the tunnel, and of the networks around it.
const (
	tunnel6 = "fd00:8::/64"
	inside6 = "fd00:8::1"
	host6   = "fd99:1::1" // the server, outside
	world6  = "fd99:3::2"
	world6S = "fd99:3::1" // the server as the world sees it
	other6  = "fd99:3::9" // one more, in a network that the exit may reach
	beyond6 = "fd99:4::2" // one router behind the world
)

// scene6 is a server, two peers and the world, which know IPv6: alpha reaches the
// server by it, beta by IPv4.
type scene6 struct {
	server, world *lab.Namespace
	alpha, beta   *lab.ForeignPeer
	beta6         string
	api           *lab.Client
	dir           string
}

// TestIPv6 is IPv6 inside and outside of the tunnel, with wireguard-go on TUN
// devices and the network of the kernel at the other ends.
func TestIPv6(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	s := newScene6(t)
	lab.EchoTCP(t, s.beta.Namespace, "[::]:7000")
	lab.EchoUDP(t, s.beta.Namespace, "["+s.beta6+"]:7000")
	lab.EchoTCP(t, s.world, "["+world6+"]:7000")
	lab.EchoUDP(t, s.world, "["+world6+"]:7000")
	serveHTTP(t, s.beta.Namespace, "[::]:8000", "the web of beta")
	for _, step := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"handshakes by both families", s.handshakes},
		{"the server answers", s.pingServer},
		{"names lead to both addresses", s.names},
		{"a web route is reached by it", s.web},
		{"another peer through the hub", s.hub},
		{"the world through the exit", s.exit},
		{"what is refused", s.refused},
	} {
		t.Run(step.name, step.f)
	}
}

func newScene6(t *testing.T) *scene6 {
	t.Helper()
	s := &scene6{server: lab.NewNamespace(t, "s"), world: lab.NewNamespace(t, "w")}
	a, b, end := lab.NewNamespace(t, "a"), lab.NewNamespace(t, "b"), lab.NewNamespace(t, "e")
	link := func(one *lab.Namespace, addr1, if1 string, two *lab.Namespace, addr2, if2 string) {
		lab.Link(t, one, addr1, if1, two, addr2, if2)
		for _, side := range []struct {
			ns         *lab.Namespace
			addr, name string
		}{{one, addr1, if1}, {two, addr2, if2}} {
			if strings.Contains(side.addr, ":") { // usable at once, not after it was asked for
				side.ns.Run(t, "ip", "addr", "del", side.addr, "dev", side.name)
				side.ns.Run(t, "ip", "addr", "add", side.addr, "dev", side.name, "nodad")
			}
		}
	}
	link(s.server, host6+"/64", "to-a", a, "fd99:1::2/64", "eth0")
	link(s.server, "10.99.2.1/30", "to-b", b, "10.99.2.2/30", "eth0")
	link(s.server, world6S+"/64", "to-w", s.world, world6+"/64", "eth0")
	link(s.world, "fd99:4::1/64", "to-e", end, beyond6+"/64", "eth0")
	s.server.Run(t, "ip", "addr", "add", other6+"/128", "dev", "lo")
	s.world.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	s.server.Run(t, "ip", "-6", "route", "add", "fd99:4::/64", "via", world6)
	end.Run(t, "ip", "-6", "route", "add", "default", "via", "fd99:4::1")

	s.api, s.dir = startProcess(t, s.server, "GC_WG_HOST="+host6, "GC_WG_SUBNET6="+tunnel6, "GC_EXIT_PRIVATE_NETWORKS=fd99:3::/64,fd99:4::/64")
	wireguardGo := lab.BuildWireGuardGo(t)
	_, s.alpha = joinProcess(t, s.api, "alpha", "["+host6+"]:51820", a, wireguardGo)
	id, beta := joinProcess(t, s.api, "beta", "10.99.2.1:51820", b, wireguardGo)
	s.beta = beta
	var answer struct{ Peer struct{ IP6 string } }
	s.api.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d", id), nil, &answer)
	if s.beta6 = answer.Peer.IP6; s.beta6 != "fd00:8::3" {
		t.Fatalf("beta has the address %q", s.beta6)
	}
	s.api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": "web.example.test", "peer_id": id, "target_port": "8000"}, nil)
	return s
}

func (s *scene6) handshakes(t *testing.T) {
	for _, p := range []*lab.ForeignPeer{s.alpha, s.beta} {
		p.Run(t, "ping", "-6", "-c1", "-W5", inside6)
		if p.LatestHandshake(t).IsZero() {
			t.Error("wg shows no handshake")
		}
	}
	var status struct {
		Peers []struct{ AllowedIPs, Endpoint string }
	}
	s.api.Call(t, 200, "GET", "/api/v1/wg/status", nil, &status)
	for _, p := range status.Peers {
		want := "[fd99:1::2]:"
		if strings.Contains(p.AllowedIPs, s.beta6+"/128") {
			want = "10.99.2.2:"
		}
		if !strings.HasPrefix(p.Endpoint, want) {
			t.Errorf("%s is at %s", p.AllowedIPs, p.Endpoint)
		}
	}
}

// ping6 runs ping at alpha and wants to read something in what it prints.
func (s *scene6) ping6(t *testing.T, want string, args ...string) {
	t.Helper()
	out, err := s.alpha.Cmd("ping", append([]string{"-6", "-n"}, args...)...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() > 1) {
		t.Fatalf("ping %v: %v %s", args, err, out)
	}
	if !strings.Contains(string(out), want) {
		t.Errorf("ping %v does not print %q:\n%s", args, want, out)
	}
}

func (s *scene6) pingServer(t *testing.T) {
	s.ping6(t, "2 received", "-c2", "-i0.2", "-W5", inside6)
	s.ping6(t, "2 received", "-c2", "-i0.2", "-W5", "-s4000", inside6) // in fragments, both ways
}

func (s *scene6) names(t *testing.T) {
	resolver := &net.Resolver{PreferGo: true, Dial: s.alpha.DialTo("[" + inside6 + "]:53")}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for name, want := range map[string]string{
		"beta.gc.internal": "10.8.0.3 " + s.beta6, "gateway.gc.internal": "10.8.0.1 " + inside6, "web.example.test": "10.8.0.1 " + inside6,
	} {
		got, err := resolver.LookupHost(ctx, name)
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	if got, err := resolver.LookupAddr(ctx, s.beta6); err != nil || len(got) != 1 || got[0] != "beta.gc.internal." {
		t.Errorf("%s is %v, %v", s.beta6, got, err)
	}
}

func (s *scene6) web(t *testing.T) {
	for _, addr := range []string{inside6, "10.8.0.1"} {
		tr := &http.Transport{TLSClientConfig: trustIn(t, s.dir), DialContext: s.alpha.DialVia(addr)}
		client := &http.Client{Transport: tr, Timeout: 15 * time.Second}
		if got := get(t, client, "https://web.example.test/"); got != "the web of beta" {
			t.Errorf("by %s: %q", addr, got)
		}
		tr.CloseIdleConnections()
	}
}

func (s *scene6) hub(t *testing.T) {
	s.ping6(t, "2 received", "-c2", "-i0.2", "-W5", s.beta6)
	s.ping6(t, "2 received", "-c2", "-i0.2", "-W5", "-s4000", s.beta6)
	checkEcho(t, s.alpha.Namespace, "tcp", "["+s.beta6+"]:7000")
	checkEcho(t, s.alpha.Namespace, "udp", "["+s.beta6+"]:7000")
	s.ping6(t, "From "+inside6+" icmp_seq=1 Time exceeded: Hop limit", "-c1", "-W5", "-t1", s.beta6)
	// A peer that was told a larger MTU than the tunnel has finds out.
	s.alpha.Run(t, "ip", "link", "set", s.alpha.Interface(), "mtu", "1500")
	defer s.alpha.Run(t, "ip", "link", "set", s.alpha.Interface(), "mtu", "1420")
	s.ping6(t, "From "+inside6+" icmp_seq=1 Packet too big: mtu=1420", "-c1", "-W5", "-Mdo", "-s1440", s.beta6)
}

func (s *scene6) exit(t *testing.T) {
	checkEcho(t, s.alpha.Namespace, "tcp", "["+world6+"]:7000")
	checkEcho(t, s.alpha.Namespace, "udp", "["+world6+"]:7000")
	s.ping6(t, "2 received", "-c2", "-i0.2", "-W5", world6)
	s.ping6(t, "1 received", "-c1", "-W5", "-s1372", beyond6)
	t.Run("traced", func(t *testing.T) {
		s.ping6(t, "From "+inside6+" icmp_seq=1 Time exceeded: Hop limit", "-c1", "-W5", "-t1", beyond6)
		s.ping6(t, "From "+world6+" icmp_seq=1 Time exceeded: Hop limit", "-c1", "-W5", "-t2", beyond6)
		s.ping6(t, "1 received", "-c1", "-W5", "-t3", beyond6)
	})
	t.Run("smaller path", func(t *testing.T) {
		s.world.Run(t, "ip", "link", "set", "to-e", "mtu", "1300")
		defer s.world.Run(t, "ip", "link", "set", "to-e", "mtu", "1500")
		s.ping6(t, "Packet too big: mtu=1300", "-c1", "-W5", "-Mdo", "-s1372", beyond6)
	})
	t.Run("nobody there", func(t *testing.T) {
		s.ping6(t, "Destination unreachable: Address unreachable", "-c1", "-W10", "fd99:3::77")
	})
	t.Run("UDP port unreachable", func(t *testing.T) {
		checkUDPRefused(t, s.alpha.Namespace, "["+world6+"]:9999")
	})
}

// The exit reaches neither the host of the server, whatever it serves there, nor
// networks that are not listed.
func (s *scene6) refused(t *testing.T) {
	lab.EchoTCP(t, s.server, "[::]:"+privatePort)
	checkEcho(t, s.server, "tcp", "["+world6S+"]:"+privatePort) // it is there
	for _, addr := range []string{other6, world6S, inside6, "fd00:8::99", "fd99:5::1", "2001:db8::1", "64:ff9b::7f00:1"} {
		if conn, err := dialTimeout(s.alpha.Namespace, "tcp", net.JoinHostPort(addr, privatePort)); err == nil {
			conn.Close()
			t.Errorf("the peer reached %s", addr)
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v instead of a refusal", addr, err)
		}
	}
	for _, addr := range []string{other6, "fd00:8::99", "fd99:5::1"} {
		s.ping6(t, "From "+inside6+" icmp_seq=1 Destination unreachable: Administratively prohibited", "-c1", "-W5", addr)
	}
}
