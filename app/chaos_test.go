package app_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
	"gatecontrol/lab/relay"
)

// link is a server and a peer, each a network of its own. A TCP port of the
// server leads to port 7000 of the peer.
type link struct {
	whole   testing.TB // what starts in one step lives on in those after it
	server  *lab.Namespace
	network *lab.Namespace // of the peer
	dir     string
	process *exec.Cmd
	api     *lab.Client

	wireguardGo string
	config      string // of the peer
	peer        *lab.ForeignPeer
}

// badLink is a link on which server and peer see each other through a relay.
type badLink struct {
	*link
	relay *relay.Relay
}

const (
	tunnelPort = "127.0.0.1:51820"
	portRoute  = "127.0.0.1:17000"
)

var endpointLine = regexp.MustCompile(`(?m)^Endpoint = .*$`)

func newLink(t testing.TB) *link {
	t.Helper()
	l := &link{whole: t, server: lab.NewNamespace(t, "s"), network: lab.NewNamespace(t, "a"), wireguardGo: lab.BuildWireGuardGo(t)}
	lab.Link(t, l.server, "10.99.1.1/24", "to-a", l.network, "10.99.1.2/24", "eth0")
	l.dir = filepath.Join(t.TempDir(), "data")
	l.start()
	var created struct{ Peer struct{ ID int64 } }
	l.api.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": "alpha", "hostname": "alpha"}, &created)
	l.api.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d/config", created.Peer.ID), nil, &l.config)
	l.api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": "17000", "l4_tls_mode": "none",
		"peer_id": created.Peer.ID, "target_port": 7000,
	}, nil)
	return l
}

func newBadLink(t testing.TB) *badLink {
	t.Helper()
	l := &badLink{link: newLink(t)}
	l.relay = relay.New(t, netip.MustParseAddrPort(tunnelPort), relay.Options{Addr: "10.99.1.1:0", Listen: l.server.ListenPacket})
	l.config = endpointLine.ReplaceAllString(l.config, "Endpoint = "+l.relay.Addr().String())
	l.join()
	return l
}

// start runs the server on its data directory.
func (l *link) start() {
	t := l.whole
	t.Helper()
	l.process = l.server.Cmd(lab.Binary(t), "serve")
	l.api = runProcess(t, l.server, l.process, l.dir, "GC_WG_HOST=10.99.1.1")
}

// join starts wireguard-go for the peer and waits for its session.
func (l *link) join() {
	t := l.whole
	t.Helper()
	l.peer = lab.JoinForeign(t, l.network, l.wireguardGo, l.config)
	l.ping(t)
}

// ping waits until the peer reaches the server.
func (l *link) ping(t testing.TB) {
	t.Helper()
	lab.Eventually(t, 40*time.Second, "an answer through the tunnel", func() error {
		return l.peer.Cmd("ping", "-c", "1", "-W", "1", "10.8.0.1").Run()
	})
}

func (l *link) endpoint(t testing.TB) string {
	t.Helper()
	var status struct{ Peers []struct{ Endpoint string } }
	l.api.Call(t, 200, "GET", "/api/v1/wg/status", nil, &status)
	if len(status.Peers) != 1 {
		t.Fatalf("the status has %d peers", len(status.Peers))
	}
	return status.Peers[0].Endpoint
}

// roundTrip sends size bytes to the echo of the peer and wants them back. It
// calls midway, if not nil, when half of them are.
func (l *link) roundTrip(t testing.TB, size int64, midway func()) {
	t.Helper()
	c, err := dialTimeout(l.server, "tcp", portRoute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	sent, failed := sha256.New(), make(chan error, 1)
	go func() { // ends with the deadline at the latest
		_, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(rand.NewChaCha8([32]byte{byte(size)}), size))
		failed <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got := sha256.New()
	n, err := io.CopyN(got, c, size/2)
	if err == nil {
		if midway != nil {
			midway()
		}
		var rest int64
		rest, err = io.Copy(got, c)
		n += rest
	}
	if err := errors.Join(err, <-failed); err != nil || n != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Fatalf("%d of %d bytes came back, or others: %v", n, size, err)
	}
}

// TestBadNetwork is a server and a peer of another make, with the kernel's TCP,
// while what is between them does everything that networks do.
func TestBadNetwork(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	l := newBadLink(t)
	lab.EchoTCP(t, l.peer.Namespace, l.peer.Addr.String()+":7000")
	set := func(p relay.Path) {
		if err := l.relay.Set(p, p); err != nil {
			t.Fatal(err)
		}
	}
	slow := relay.Path{Rate: 1 << 20, Delay: 5 * time.Millisecond}
	for _, step := range []struct {
		name string
		f    func(t *testing.T)
	}{
		{"everything", func(t *testing.T) {
			set(relay.Path{Delay: 5 * time.Millisecond, Loss: 0.01, Reorder: 0.02, Duplicate: 0.05, Corrupt: 0.01})
			l.roundTrip(t, 512<<10, nil)
			up, down := l.relay.Counts()
			if up.Reordered == 0 || up.Duplicated == 0 || down.Reordered == 0 || down.Duplicated == 0 ||
				up.Lost+down.Lost == 0 || up.Corrupted+down.Corrupted == 0 {
				t.Errorf("the relay did not do its worst: %+v, %+v", up, down)
			}
		}},
		{"roaming", func(t *testing.T) {
			set(slow)
			before := l.endpoint(t)
			l.roundTrip(t, 2<<20, func() {
				if err := l.relay.Rebind(netip.MustParseAddr("127.0.0.77")); err != nil {
					t.Fatal(err)
				}
			})
			if after := l.endpoint(t); after == before || after != l.relay.Endpoints()[0].String() {
				t.Errorf("the endpoint was %s, is %s, should be %s", before, after, l.relay.Endpoints()[0])
			}
		}},
		{"blackhole", func(t *testing.T) {
			set(slow)
			l.roundTrip(t, 2<<20, func() {
				l.relay.Blackhole(true)
				time.AfterFunc(2*time.Second, func() { l.relay.Blackhole(false) })
			})
		}},
		{"the peer restarts", func(t *testing.T) {
			set(relay.Path{})
			l.peer.Run(t, "ip", "link", "del", l.peer.Interface()) // ends its process
			lab.Eventually(t, 10*time.Second, "the end of the peer", func() error {
				_, err := os.Stat("/var/run/wireguard/" + l.peer.Interface() + ".sock")
				if err == nil {
					return errors.New("its socket is still there")
				}
				return nil
			})
			l.join()
			l.roundTrip(t, 1<<20, nil)
		}},
		// The peer asks for a new session when it has had no answer for 15 s.
		{"the server is killed and restarts", func(t *testing.T) {
			_ = l.process.Process.Kill()
			lab.StopProcess(l.process)
			l.start()
			l.ping(t)
			l.roundTrip(t, 1<<20, nil)
			if got := l.endpoint(t); !strings.HasPrefix(got, "127.0.0.77:") {
				t.Errorf("the endpoint is %s", got)
			}
		}},
	} {
		if !t.Run(step.name, step.f) {
			return
		}
	}
}
