package app_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// TestCut takes a peer away while connections lead to it by every way, and wants
// all of them ended within a second, and those of another peer alive.
func TestCut(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, s *lab.Server, peer string){
		"disabled": func(t *testing.T, s *lab.Server, peer string) { s.API.Call(t, 200, "PUT", peer+"/toggle", nil, nil) },
		"deleted":  func(t *testing.T, s *lab.Server, peer string) { s.API.Call(t, 200, "DELETE", peer, nil, nil) },
		"expired": func(t *testing.T, s *lab.Server, peer string) {
			soon := time.Now().Add(500 * time.Millisecond)
			s.API.Call(t, 200, "PUT", peer, map[string]any{"expires_at": soon.Format(time.RFC3339Nano)}, nil)
			time.Sleep(time.Until(soon)) // its time comes
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := lab.Start(t)
			gone, kept := open(t, s, "gone"), open(t, s, "kept")
			take(t, s, fmt.Sprintf("/api/v1/peers/%d", gone.id))
			deadline := time.Now().Add(time.Second)
			for way, conn := range map[string]net.Conn{"the proxy": gone.web, "a port route": gone.port} {
				_ = conn.SetReadDeadline(deadline)
				if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("through %s: still open: %v", way, err)
				}
			}
			// The hub keeps no connection, so what is left of one is silence.
			if _, err := io.WriteString(gone.hub, "echo"); err != nil {
				t.Fatal(err)
			}
			_ = gone.hub.SetReadDeadline(time.Now().Add(2 * time.Second))
			if n, err := gone.hub.Read(make([]byte, 4)); n > 0 {
				t.Errorf("through the hub: bytes still pass: %v", err)
			}
			for _, conn := range []net.Conn{kept.web, kept.port, kept.hub} {
				exchange(t, conn)
			}
		})
	}
}

// opened is a peer and a connection to it by every way.
type opened struct {
	id             int64
	web, port, hub net.Conn
}

func open(t *testing.T, s *lab.Server, name string) opened {
	t.Helper()
	id, p := s.Peer(t, name)
	o := opened{id: id}
	echo, err := p.Listen(7000)
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, echo)
	ln, err := p.Listen(8000)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echoUpgrade)}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	domain, port := name+".example.test", lab.FreePort(t)
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": domain, "peer_id": id, "target_port": 8000}, nil)
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": port, "peer_id": id, "target_port": 7000}, nil)

	o.web = dialUpgrade(t, s, domain)
	if o.port, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.port.Close() })
	_, other := s.Peer(t, "friend-of-"+name)
	if o.hub, err = other.DialContext(t.Context(), "tcp", net.JoinHostPort(p.Addr.String(), "7000")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.hub.Close() })
	for _, conn := range []net.Conn{o.web, o.port, o.hub} {
		exchange(t, conn)
	}
	return o
}

// dialUpgrade opens a WebSocket, as far as the proxy can tell, to echoUpgrade
// behind a route.
func dialUpgrade(t *testing.T, s *lab.Server, domain string) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Addrs().HTTPS, &tls.Config{ServerName: domain, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+domain+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	head := bufio.NewReader(conn)
	for line, n := "", 0; line != "\r\n"; n++ {
		if line, err = head.ReadString('\n'); err != nil || n == 0 && !strings.Contains(line, " 101 ") {
			t.Fatalf("upgrade: %q %v", line, err)
		}
	}
	return conn
}

// echoUpgrade switches protocols and answers everything with itself.
func echoUpgrade(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, conn)
}
