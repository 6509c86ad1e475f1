package app_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// Addresses of the little internet that the tests with namespaces build. The
// server is reached at host on every link.
const (
	host           = "10.99.0.1"
	linkLocal      = "169.254.77.7" // an address of the server, too
	other          = "10.99.3.3"    // one more, in the network that the exit may reach
	world          = "10.99.3.2"    // a server behind the server
	worldLink      = "10.99.3.1"    // the server as the world sees it
	worldNet       = "10.99.3.0/29"
	worldBroadcast = "10.99.3.7"
	privatePort    = "9123" // something of the server's host that is nobody's business
)

// scene is a server, two peers and the world, each a network of its own.
type scene struct {
	whole         *testing.T // what serves in one step serves in those after it
	server, world *lab.Namespace
	alpha, beta   *lab.ForeignPeer
	alphaID       int64
	api           *lab.Client
	roots         *x509.CertPool
	pid           int
}

func TestForeignPeer(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping")
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd { return ns.Cmd(bin, "serve") })
	s.prove(t)
}

// TestForeignPeerUnprivileged is the same with a server that may nothing: no
// root, no capability, no way to gain one, no TUN device.
func TestForeignPeerUnprivileged(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick", "ping", "unshare", "setpriv")
	blocked := filepath.Join(t.TempDir(), "unreadable")
	if err := os.WriteFile(blocked, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	nobody := func(ns *lab.Namespace, program ...string) *exec.Cmd {
		return ns.Cmd("unshare", append([]string{"--mount", "sh", "-c",
			`mount --bind "$0" /dev/net/tun && exec setpriv --reuid=65534 --regid=65534 --clear-groups ` +
				`--no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all "$@"`, blocked}, program...)...)
	}
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd { return nobody(ns, bin, "serve") })

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the server's process status lacks %q:\n%s", want, status)
		}
	}
	if out, err := nobody(s.server, "cat", "/dev/net/tun").CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("the TUN device can be read: %v %s", err, out)
	}
	s.prove(t)
}

func newScene(t *testing.T, command func(ns *lab.Namespace, bin string) *exec.Cmd) *scene {
	t.Helper()
	s := &scene{whole: t, server: lab.NewNamespace(t, "s"), world: lab.NewNamespace(t, "w")}
	a, b := lab.NewNamespace(t, "a"), lab.NewNamespace(t, "b")
	lab.Link(t, s.server, "10.99.1.1/30", "to-a", a, "10.99.1.2/30", "eth0")
	lab.Link(t, s.server, "10.99.2.1/30", "to-b", b, "10.99.2.2/30", "eth0")
	lab.Link(t, s.server, worldLink+"/29", "to-w", s.world, world+"/29", "eth0")
	s.server.Run(t, "ip", "addr", "add", host+"/32", "dev", "lo")
	s.server.Run(t, "ip", "addr", "add", linkLocal+"/32", "dev", "lo")
	s.server.Run(t, "ip", "addr", "add", other+"/32", "dev", "lo")
	a.Run(t, "ip", "route", "add", host, "via", "10.99.1.1")
	b.Run(t, "ip", "route", "add", host, "via", "10.99.2.1")
	s.world.Run(t, "ip", "route", "add", host, "via", worldLink)

	dir := t.TempDir()
	// The directory is the server's own; those above it let another user through.
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Chmod(dir, 0o700), os.Chown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	cmd := command(s.server, lab.Binary(t))
	s.api = runProcess(t, s.server, cmd, dir, "GC_WG_HOST="+host, "GC_EXIT_PRIVATE_NETWORKS="+worldNet, "GC_DNS_UPSTREAMS="+world)
	s.pid, s.roots = cmd.Process.Pid, trustIn(t, dir).RootCAs

	wireguardGo := lab.BuildWireGuardGo(t)
	join := func(name string, ns *lab.Namespace) (int64, *lab.ForeignPeer) {
		var created struct{ Peer struct{ ID int64 } }
		s.api.Call(t, 201, "POST", "/api/v1/peers", map[string]any{"name": name, "hostname": name}, &created)
		var config string
		s.api.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d/config", created.Peer.ID), nil, &config)
		return created.Peer.ID, lab.JoinForeign(t, ns, wireguardGo, config)
	}
	s.alphaID, s.alpha = join("alpha", a)
	_, s.beta = join("beta", b)
	return s
}

func (s *scene) prove(t *testing.T) {
	for _, step := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"handshake", s.handshake},
		{"resolves names of the zone", s.names},
		{"its web server through an HTTPS route", s.web},
		{"its echo through TCP and UDP routes", s.ports},
		{"another peer through the hub", s.hub},
		{"the world through the exit", s.exit},
		{"the host of the server stays out of reach", s.denied},
		{"disabling it cuts open connections", s.cut},
	} {
		if !t.Run(step.name, step.f) {
			return // each step builds on those before
		}
	}
}

func (s *scene) handshake(t *testing.T) {
	s.alpha.Run(t, "ping", "-c", "1", "-W", "5", "10.8.0.1")
	if s.alpha.LatestHandshake(t).IsZero() {
		t.Error("wg shows no handshake")
	}
	var status struct {
		Running bool
		Peers   []struct {
			AllowedIPs                string `json:"allowedIps"`
			Endpoint                  string
			LatestHandshake           int64
			TransferRx, TransferTx    int64
			IsOnline, HasPresharedKey bool
		}
	}
	s.api.Call(t, 200, "GET", "/api/v1/wg/status", nil, &status)
	for _, p := range status.Peers {
		if strings.HasPrefix(p.AllowedIPs, s.alpha.Addr.String()+"/") {
			if !p.IsOnline || !p.HasPresharedKey || p.TransferRx == 0 || p.TransferTx == 0 || !strings.HasPrefix(p.Endpoint, "10.99.1.2:") {
				t.Errorf("status of the peer: %+v", p)
			}
			return
		}
	}
	t.Errorf("the peer is not in the status: %+v", status)
}

func (s *scene) names(t *testing.T) {
	resolver := &net.Resolver{PreferGo: true, Dial: s.alpha.DialTo("10.8.0.1:53")}
	for name, want := range map[string]string{
		"beta.gc.internal.":   s.beta.Addr.String(),
		"alpha.gc.internal.":  s.alpha.Addr.String(),
		"server.gc.internal.": "10.8.0.1",
	} {
		got, err := resolver.LookupHost(t.Context(), name)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v %v, want %s", name, got, err, want)
		}
	}
	if got, err := resolver.LookupAddr(t.Context(), s.beta.Addr.String()); err != nil || len(got) != 1 || got[0] != "beta.gc.internal." {
		t.Errorf("reverse: %v %v", got, err)
	}
}

func (s *scene) web(t *testing.T) {
	serveHTTP(s.whole, s.alpha.Namespace, s.alpha.Addr.String()+":8000", "page of alpha")
	s.api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"domain": "web.example.test", "peer_id": s.alphaID, "target_port": "8000",
	}, nil)
	outside := s.httpClient(t, s.world, worldLink)
	if got := get(t, outside, "https://web.example.test:8443/"); got != "page of alpha" {
		t.Errorf("from outside: %q", got)
	}
	// The same name inside the tunnel leads to the tunnel address.
	resolver := &net.Resolver{PreferGo: true, Dial: s.beta.DialTo("10.8.0.1:53")}
	if got, err := resolver.LookupHost(t.Context(), "web.example.test."); err != nil || len(got) != 1 || got[0] != "10.8.0.1" {
		t.Fatalf("the route's domain inside the tunnel: %v %v", got, err)
	}
	inside := s.httpClient(t, s.beta.Namespace, "10.8.0.1")
	if got := get(t, inside, "https://web.example.test/"); got != "page of alpha" {
		t.Errorf("from a peer: %q", got)
	}
}

func (s *scene) ports(t *testing.T) {
	lab.EchoTCP(s.whole, s.alpha.Namespace, s.alpha.Addr.String()+":7000")
	lab.EchoUDP(s.whole, s.alpha.Namespace, s.alpha.Addr.String()+":7000")
	for _, network := range []string{"tcp", "udp"} {
		s.api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
			"route_type": "l4", "l4_protocol": network, "l4_listen_port": "17000", "l4_tls_mode": "none",
			"peer_id": s.alphaID, "target_port": 7000,
		}, nil)
		checkEcho(t, s.world, network, worldLink+":17000")
	}
}

func (s *scene) hub(t *testing.T) {
	lab.EchoTCP(s.whole, s.beta.Namespace, s.beta.Addr.String()+":7000")
	lab.EchoUDP(s.whole, s.beta.Namespace, s.beta.Addr.String()+":7000")
	s.alpha.Run(t, "ping", "-c", "2", "-W", "5", s.beta.Addr.String())
	checkEcho(t, s.alpha.Namespace, "tcp", s.beta.Addr.String()+":7000")
	checkEcho(t, s.alpha.Namespace, "udp", s.beta.Addr.String()+":7000")
}

func (s *scene) exit(t *testing.T) {
	serveHTTP(s.whole, s.world, world+":8000", "the world")
	client := s.httpClient(t, s.alpha.Namespace, world)
	if got := get(t, client, "http://"+world+":8000/"); got != "the world" {
		t.Errorf("through the exit: %q", got)
	}
	lab.EchoUDP(s.whole, s.world, world+":7000")
	checkEcho(t, s.alpha.Namespace, "udp", world+":7000")
}

func (s *scene) denied(t *testing.T) {
	lab.EchoTCP(s.whole, s.server, "0.0.0.0:"+privatePort)
	checkEcho(t, s.server, "tcp", "127.0.0.1:"+privatePort) // it is there
	for _, addr := range []string{linkLocal, worldLink, other, "10.99.2.1", "10.8.0.1"} {
		conn, err := dialTimeout(s.alpha.Namespace, "tcp", net.JoinHostPort(addr, privatePort))
		if err == nil {
			conn.Close()
			t.Errorf("the peer reached %s", addr)
		}
	}
	// A broadcast to the network that the exit may reach arrives nowhere.
	heard, err := s.world.ListenPacket("0.0.0.0:7100")
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	for _, addr := range []string{worldBroadcast, world} {
		conn, err := dialTimeout(s.alpha.Namespace, "udp", net.JoinHostPort(addr, "7100"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, addr); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 64)
	_ = heard.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _, err := heard.ReadFrom(buf); err != nil || string(buf[:n]) != world {
		t.Errorf("the world heard %q first: %v", buf[:n], err)
	}
	// Loopback of the server's host, from a peer whose own loopback steps aside.
	s.alpha.Run(t, "ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
	s.alpha.Run(t, "ip", "route", "add", "127.9.9.9", "dev", s.alpha.Interface())
	s.alpha.Run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
	before := s.alpha.SentPackets(t)
	if conn, err := dialTimeout(s.alpha.Namespace, "tcp", "127.9.9.9:"+privatePort); err == nil {
		conn.Close()
		t.Error("the peer reached the loopback of the host")
	}
	if s.alpha.SentPackets(t) == before {
		t.Error("nothing went into the tunnel: this showed nothing")
	}
}

func (s *scene) cut(t *testing.T) {
	through, err := dialTimeout(s.world, "tcp", worldLink+":17000")
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	exchange(t, through)
	// One through the hub, and one through the exit.
	hub, err := dialTimeout(s.alpha.Namespace, "tcp", s.beta.Addr.String()+":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	exchange(t, hub)
	outside, err := s.world.Listen(world + ":7200")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	out, err := dialTimeout(s.alpha.Namespace, "tcp", world+":7200")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	exited, err := outside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer exited.Close()

	s.api.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/peers/%d/toggle", s.alphaID), nil, nil)
	start := time.Now()
	for way, conn := range map[string]net.Conn{"a port route": through, "the exit": exited} {
		if err := conn.SetReadDeadline(start.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Read(make([]byte, 1))
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection of the disabled peer through %s is still open: %v", way, err)
		}
		t.Logf("%s: cut after %v: %v", way, time.Since(start), err)
	}
	// The hub keeps no connection, so what is left of one is silence.
	if _, err := hub.Write([]byte("echo")); err != nil {
		t.Fatal(err)
	}
	_ = hub.SetReadDeadline(time.Now().Add(2 * time.Second))
	if n, err := hub.Read(make([]byte, 4)); n > 0 {
		t.Errorf("bytes still pass between the peers: %d, %v", n, err)
	}
	if conn, err := dialTimeout(s.alpha.Namespace, "tcp", s.beta.Addr.String()+":7000"); err == nil {
		conn.Close()
		t.Error("the disabled peer still reaches another one")
	}
	checkEcho(t, s.beta.Namespace, "udp", s.beta.Addr.String()+":7000") // the others are untouched
	s.beta.Run(t, "ping", "-c", "1", "-W", "5", "10.8.0.1")
}

// httpClient returns a client inside ns that reaches every name at addr.
func (s *scene) httpClient(t *testing.T, ns *lab.Namespace, addr string) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots},
		DialContext:     ns.DialVia(addr),
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 15 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %s %v %s", url, res.Status, err, body)
	}
	return string(body)
}

func serveHTTP(t *testing.T, ns *lab.Namespace, addr, body string) {
	t.Helper()
	ln, err := ns.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
}

func dialTimeout(ns *lab.Namespace, network, addr string) (conn net.Conn, err error) {
	if nerr := ns.Do(func() { conn, err = net.DialTimeout(network, addr, 3*time.Second) }); nerr != nil {
		return nil, nerr
	}
	return conn, err
}

// checkEcho sends something to an echo server and wants it back.
func checkEcho(t *testing.T, ns *lab.Namespace, network, addr string) {
	t.Helper()
	conn, err := dialTimeout(ns, network, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, addr, err)
	}
	defer conn.Close()
	exchange(t, conn)
}

func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	want := bytes.Repeat([]byte("echo "), 200)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echo over %s %s: %v", conn.RemoteAddr().Network(), conn.RemoteAddr(), err)
	}
}
