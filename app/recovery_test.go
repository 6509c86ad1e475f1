package app_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatecontrol/demo"
	"gatecontrol/lab"
	"gatecontrol/model"
)

// condition is one of those that the API lists.
type condition struct {
	Code, Subject, Severity, Text string
	PeerID                        int64 `json:"peer_id"`
	Since                         time.Time
}

func conditions(t testing.TB, api *lab.Client) []condition {
	t.Helper()
	var answer struct{ Conditions []condition }
	api.Call(t, 200, "GET", "/api/v1/system/conditions", nil, &answer)
	return answer.Conditions
}

// awaitCondition waits until a condition is listed.
func awaitCondition(t testing.TB, api *lab.Client, code model.TroubleCode) (c condition) {
	t.Helper()
	lab.Eventually(t, time.Minute, "the condition "+string(code), func() error {
		list := conditions(t, api)
		i := slices.IndexFunc(list, func(c condition) bool { return c.Code == string(code) })
		if i < 0 {
			return fmt.Errorf("there are %v", list)
		}
		c = list[i]
		return nil
	})
	if ago := time.Since(c.Since); ago < 0 || ago > time.Minute || c.Text == "" {
		t.Errorf("the condition is %+v", c)
	}
	return c
}

// awaitNoCondition waits until nothing is listed any more.
func awaitNoCondition(t testing.TB, api *lab.Client) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, "the end of all conditions", func() error {
		if list := conditions(t, api); len(list) > 0 {
			return fmt.Errorf("there are %v", list)
		}
		return nil
	})
}

// TestServerMoves is a server whose own network changes under it, and a peer of
// another make that is told nothing.
func TestServerMoves(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	t.Parallel() // most of it is waiting
	l := newLink(t)
	const keepalive = 5 * time.Second
	l.api.Call(t, 200, "PUT", "/api/v1/peers/1", map[string]any{"persistent_keepalive": int(keepalive.Seconds())}, nil)
	l.api.Call(t, 200, "GET", "/api/v1/peers/1/config", nil, &l.config)
	l.join()
	lab.EchoTCP(t, l.peer.Namespace, l.peer.Addr.String()+":7000")
	c, err := dialTimeout(l.server, "tcp", portRoute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c)
	// The peer speaks, to where the server was. It hears from the server with the
	// next keepalive; a ping then waits a second, and connections go on.
	const limit = keepalive + 3*time.Second
	resumes := func(t *testing.T) {
		t.Helper()
		began := time.Now()
		l.ping(t)
		took := time.Since(began).Round(time.Millisecond)
		if t.Logf("traffic of the peer resumed after %s", took); took > limit {
			t.Errorf("not within %s", limit)
		}
		exchange(t, c)
	}
	for _, step := range []struct {
		name string
		f    func(t *testing.T)
	}{
		{"another address", func(t *testing.T) {
			l.server.Run(t, "ip", "addr", "del", "10.99.1.1/24", "dev", "to-a")
			l.server.Run(t, "ip", "addr", "add", "10.99.1.7/24", "dev", "to-a")
			resumes(t)
		}},
		{"no address for a while", func(t *testing.T) {
			l.server.Run(t, "ip", "addr", "del", "10.99.1.7/24", "dev", "to-a")
			c := awaitCondition(t, l.api, model.TroubleUnsent)
			if c.Subject != "alpha" || c.PeerID != 1 {
				t.Errorf("the condition is %+v", c)
			}
			l.server.Run(t, "ip", "addr", "add", "10.99.1.9/24", "dev", "to-a")
			resumes(t)
			awaitNoCondition(t, l.api)
		}},
		{"no network for a while", func(t *testing.T) {
			l.server.Run(t, "ip", "link", "set", "to-a", "down")
			awaitCondition(t, l.api, model.TroubleUnsent)
			l.server.Run(t, "ip", "link", "set", "to-a", "up")
			resumes(t)
			awaitNoCondition(t, l.api)
			l.roundTrip(t, 1<<20, nil)
		}},
	} {
		if !t.Run(step.name, step.f) {
			return
		}
	}
}

// losePort makes the UDP socket of this process on port useless, and returns what
// still holds the port.
func losePort(t testing.TB, port uint16) (holder *os.File) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("which sockets are open is not known: ", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		addr, err := unix.Getsockname(fd)
		in, ok := addr.(*unix.SockaddrInet4)
		if kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || !ok || in.Port != int(port) || kind != unix.SOCK_DGRAM {
			continue
		}
		// A copy holds the port. What comes to it wakes whoever waits for the socket.
		kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(kept), "udp")
	}
	t.Fatalf("nobody has UDP port %d", port)
	return nil
}

// TestTunnelLosesItsPort has the socket of the tunnel fail, for as long as the
// system does not give the port back. It is told, and heals.
func TestTunnelLosesItsPort(t *testing.T) {
	t.Parallel()
	s := lab.Start(t)
	id, p := s.Peer(t, "alpha")
	publish(t, s, id, p, "alpha.example.test", "alpha")
	client := trusting(t, s)
	client.Timeout = 5 * time.Second
	get := func() error {
		res, err := client.Get("https://alpha.example.test/")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "alpha" {
			return fmt.Errorf("%s: %q: %w", res.Status, body, err)
		}
		return nil
	}
	lab.Eventually(t, 20*time.Second, "an answer", get)

	port := s.Addrs().WireGuard
	holder := losePort(t, port)
	nudge, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer nudge.Close()
	health := func(want int) {
		t.Helper()
		lab.Eventually(t, 40*time.Second, fmt.Sprintf("status %d of /health", want), func() error {
			_, _ = nudge.Write([]byte("are you there?"))
			var h struct{ OK, WireGuard bool }
			status, err := s.Admin.Try(t.Context(), "GET", "/health", nil, &h)
			if err == nil && (status != want || h.WireGuard != (want == 200)) {
				return fmt.Errorf("status %d, %+v", status, h)
			}
			return err
		})
	}
	health(503)
	if c := awaitCondition(t, s.API, model.TroublePort); c.Severity != "error" || c.PeerID != 0 {
		t.Errorf("the condition is %+v", c)
	}
	if get() == nil {
		t.Error("an answer through a closed port")
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	health(200)
	awaitNoCondition(t, s.API)
	lab.Eventually(t, 20*time.Second, "an answer", get)
	if now := s.Addrs().WireGuard; now != port {
		t.Errorf("the port is %d, not %d", now, port)
	}
}

var presharedLine = regexp.MustCompile(`(?m)^PresharedKey = .*$`)

// TestWrongPresharedKey joins a device with a config of another time: people are
// told what is wrong, until it has the right one.
func TestWrongPresharedKey(t *testing.T) {
	t.Parallel()
	s := lab.Start(t)
	var created struct{ Peer struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": "alpha"}, &created)
	var config string
	s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d/config", created.Peer.ID), nil, &config)
	if !presharedLine.MatchString(config) {
		t.Fatal("the config has no preshared key")
	}
	wrong := presharedLine.ReplaceAllString(config, "PresharedKey = "+model.NewPresharedKey().Base64())
	join := func(config string) *demo.Peer {
		t.Helper()
		p, err := demo.Join(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	p := join(wrong) // its keepalive has it try
	c := awaitCondition(t, s.API, model.TroubleUnconfirmed)
	if c.Subject != "alpha" || c.PeerID != created.Peer.ID || c.Severity != "warning" {
		t.Errorf("the condition is %+v", c)
	}
	p.Close()
	p = join(config)
	lab.Eventually(t, 20*time.Second, "the tunnel", func() error {
		c, err := p.DialContext(t.Context(), "tcp", "10.8.0.1:80")
		if err == nil {
			err = c.Close()
		}
		return err
	})
	awaitNoCondition(t, s.API)
}
