package app_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// bulk is how many bytes go each way: enough for full windows, for sends of many
// segments, and for the retransmissions that finding out about a path costs.
const bulk = 3 << 20

// transferLimit ends a transfer that does not get on.
const transferLimit = 30 * time.Second

// narrow is a server, two routers and a peer in a row, and another peer and the
// world beside the server:
//
//	world, beta ── server ── near ── far ── alpha
//
// A full packet of a tunnel of MTU 1420 takes 1480 bytes of the path.
type narrow struct {
	server, near, far, world *lab.Namespace
	alpha, beta              *lab.ForeignPeer
	web                      *http.Client // of the world
}

// TestSmallPathMTU moves data through everything that the tunnel offers, while
// the path between server and peer takes packets of 1280 bytes.
func TestSmallPathMTU(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	n := newNarrow(t)
	for _, path := range []struct {
		name         string
		edge, middle int  // MTU of the links at both ends, and of the one between the routers
		silent       bool // nothing that a router says reaches the server
	}{
		{"at both ends", 1280, 1500, false},
		{"between two routers", 1500, 1280, false},
		{"between two routers, unsaid", 1500, 1280, true},
	} {
		t.Run(path.name, func(t *testing.T) {
			n.setMTU(t, path.edge, path.middle)
			n.server.Run(t, "ip", "route", "flush", "cache")
			if path.silent {
				n.near.Run(t, "ip", "rule", "add", "iif", "lo", "to", "10.99.0.1", "prio", "1", "blackhole")
			}
			down, up := n.fragments(t)
			n.transfer(t)
			downAfter, upAfter := n.fragments(t)
			if downAfter-down < bulk/1280 || upAfter-up < bulk/1280 {
				t.Errorf("%d fragments down, %d up: the path was not small", downAfter-down, upAfter-up)
			}
		})
	}
	// A host finds out from what the first router could not pass on.
	if counter(t, n.far, "FragFails") == 0 {
		t.Error(`no router had to answer "fragmentation needed"`)
	}
}

// fragments counts those that were made on the way to alpha, and from it.
func (n *narrow) fragments(t *testing.T) (down, up int) {
	t.Helper()
	const name = "FragCreates"
	return counter(t, n.server, name) + counter(t, n.near, name), counter(t, n.alpha.Namespace, name) + counter(t, n.far, name)
}

func newNarrow(t *testing.T) *narrow {
	t.Helper()
	n := &narrow{
		server: lab.NewNamespace(t, "s"), near: lab.NewNamespace(t, "n"),
		far: lab.NewNamespace(t, "f"), world: lab.NewNamespace(t, "w"),
	}
	a, b := lab.NewNamespace(t, "a"), lab.NewNamespace(t, "b")
	lab.Link(t, n.server, "10.99.0.1/30", "to-near", n.near, "10.99.0.2/30", "to-server")
	lab.Link(t, n.near, "10.99.1.1/30", "to-far", n.far, "10.99.1.2/30", "to-near")
	lab.Link(t, n.far, "10.99.2.1/30", "to-alpha", a, "10.99.2.2/30", "to-far")
	lab.Link(t, n.server, "10.99.3.1/30", "to-beta", b, "10.99.3.2/30", "eth0")
	lab.Link(t, n.server, "10.99.4.1/30", "to-world", n.world, "10.99.4.2/30", "eth0")
	for _, router := range []*lab.Namespace{n.near, n.far} {
		router.Run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	}
	n.server.Run(t, "ip", "route", "add", "10.99.0.0/22", "via", "10.99.0.2")
	n.near.Run(t, "ip", "route", "add", "10.99.2.0/30", "via", "10.99.1.2")
	n.far.Run(t, "ip", "route", "add", "10.99.0.0/30", "via", "10.99.1.1")
	a.Run(t, "ip", "route", "add", "10.99.0.0/22", "via", "10.99.2.1")

	api, dir := startProcess(t, n.server, "GC_WG_HOST=10.99.0.1", "GC_EXIT_PRIVATE_NETWORKS=10.99.4.0/30")
	wireguardGo := lab.BuildWireGuardGo(t)
	var id int64
	id, n.alpha = joinProcess(t, api, "alpha", "10.99.0.1:51820", a, wireguardGo)
	_, n.beta = joinProcess(t, api, "beta", "10.99.3.1:51820", b, wireguardGo)
	// What wireguard-go sends in one call with UDP_SEGMENT it gives up when the
	// path is too small; one packet from its device makes one datagram.
	n.alpha.Run(t, "ip", "link", "set", "dev", n.alpha.Interface(), "gso_max_segs", "1")
	api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": "17000", "l4_tls_mode": "none",
		"peer_id": id, "target_port": 7000,
	}, nil)
	api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"domain": "web.example.test", "peer_id": id, "target_port": "8000",
	}, nil)

	lab.EchoTCP(t, n.alpha.Namespace, n.alpha.Addr.String()+":7000")
	lab.EchoTCP(t, n.world, "10.99.4.2:7000")
	serveHTTPEcho(t, n.alpha.Namespace, n.alpha.Addr.String()+":8000")
	transport := &http.Transport{TLSClientConfig: trustIn(t, dir), DialContext: n.world.DialVia("10.99.4.1")}
	t.Cleanup(transport.CloseIdleConnections)
	n.web = &http.Client{Transport: transport, Timeout: transferLimit}
	return n
}

func (n *narrow) setMTU(t *testing.T, edge, middle int) {
	t.Helper()
	for _, end := range []struct {
		ns  *lab.Namespace
		dev string
		mtu int
	}{
		{n.server, "to-near", edge}, {n.near, "to-server", edge},
		{n.near, "to-far", middle}, {n.far, "to-near", middle},
		{n.far, "to-alpha", edge}, {n.alpha.Namespace, "to-far", edge},
	} {
		end.ns.Run(t, "ip", "link", "set", "mtu", strconv.Itoa(end.mtu), "dev", end.dev)
	}
}

func (n *narrow) transfer(t *testing.T) {
	echo := func(from *lab.Namespace, addr string) func(*testing.T, []byte) []byte {
		return func(t *testing.T, sent []byte) []byte { return throughEcho(t, from, addr, sent) }
	}
	for _, way := range []struct {
		name string
		send func(*testing.T, []byte) []byte // and what came back
	}{
		{"port route", echo(n.world, "10.99.4.1:17000")},
		{"web route", n.throughWeb},
		{"peer to peer", echo(n.beta.Namespace, n.alpha.Addr.String()+":7000")},
		{"exit", echo(n.alpha.Namespace, "10.99.4.2:7000")},
	} {
		t.Run(way.name, func(t *testing.T) {
			sent := make([]byte, bulk)
			_, _ = rand.NewChaCha8([32]byte([]byte("the seed of every transfer here."))).Read(sent)
			start := time.Now()
			if !bytes.Equal(way.send(t, sent), sent) {
				t.Error("other bytes came back than were sent")
			}
			t.Logf("%d bytes each way in %v", bulk, time.Since(start))
		})
	}
}

// throughEcho sends over a TCP connection, and receives the echo meanwhile.
func throughEcho(t *testing.T, from *lab.Namespace, addr string, sent []byte) []byte {
	t.Helper()
	c, err := dialTimeout(from, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(transferLimit))
	failed := make(chan error, 1)
	go func() { // ends with the deadline at the latest
		_, err := c.Write(sent)
		failed <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	return got
}

// throughWeb uploads over HTTPS, and then downloads the same.
func (n *narrow) throughWeb(t *testing.T, sent []byte) []byte {
	t.Helper()
	res, err := n.web.Post("https://web.example.test:8443/", "application/octet-stream", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s after %d bytes: %v", res.Status, len(got), err)
	}
	return got
}

// serveHTTPEcho answers every request with its body, once it has all of it.
func serveHTTPEcho(t *testing.T, ns *lab.Namespace, addr string) {
	t.Helper()
	ln, err := ns.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bulk))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
	})}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
}

// counter reads one of the kernel's counters about IPv4 in ns.
func counter(t *testing.T, ns *lab.Namespace, name string) int {
	t.Helper()
	// The first line that begins with "Ip:" has the names, the second the values.
	var lines [][]string
	for line := range strings.Lines(ns.Run(t, "cat", "/proc/net/snmp")) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "Ip:" {
			lines = append(lines, fields)
		}
	}
	if len(lines) != 2 || len(lines[0]) != len(lines[1]) || !slices.Contains(lines[0], name) {
		t.Fatalf("the kernel does not count %s: %v", name, lines)
	}
	value, err := strconv.Atoi(lines[1][slices.Index(lines[0], name)])
	if err != nil {
		t.Fatal(err)
	}
	return value
}
