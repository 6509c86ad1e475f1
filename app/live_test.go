package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"gatecontrol/demo"
	"gatecontrol/lab"
)

// trusting returns a client that trusts s alone and reaches every name at the
// TLS port of s.
func trusting(t testing.TB, s *lab.Server) *http.Client {
	t.Helper()
	return trustingAt(t, s.Dir, s.Addrs().HTTPS)
}

// trustingAt is the same for the server with the data in dir and its TLS port at
// addr.
func trustingAt(t testing.TB, dir, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: trustIn(t, dir), MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// publish serves body on port 8000 of p and routes domain there.
func publish(t testing.TB, s *lab.Server, id int64, p *demo.Peer, domain, body string) {
	t.Helper()
	ln, err := p.Listen(8000)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": domain, "peer_id": id, "target_port": 8000}, nil)
}

// TestChangesWhileServing makes 300 changes while requests run through a route
// and an echo runs through the hub. None of them may notice.
func TestChangesWhileServing(t *testing.T) {
	s := lab.Start(t)
	id, p := s.Peer(t, "steady")
	publish(t, s, id, p, "steady.example.test", "steady")
	_, other := s.Peer(t, "other")
	ln, err := other.Listen(7000)
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, ln)

	ctx, stop := context.WithCancel(t.Context())
	var requests, echoes atomic.Int64
	var load sync.WaitGroup
	client := trusting(t, s)
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				res, err := client.Get("https://steady.example.test/")
				if err != nil {
					t.Errorf("request %d: %v", requests.Load(), err)
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "steady" {
					t.Errorf("request %d: %s %v %q", requests.Load(), res.Status, err, body)
					return
				}
				requests.Add(1)
			}
		})
	}
	tunnel, err := p.DialContext(ctx, "tcp", net.JoinHostPort(other.Addr.String(), "7000"))
	if err != nil {
		t.Fatal(err)
	}
	load.Go(func() {
		defer tunnel.Close()
		buf := make([]byte, 1000)
		for ctx.Err() == nil {
			if _, err := tunnel.Write(buf); err != nil {
				t.Errorf("echo %d: %v", echoes.Load(), err)
				return
			}
			if _, err := io.ReadFull(tunnel, buf); err != nil {
				t.Errorf("echo %d: %v", echoes.Load(), err)
				return
			}
			echoes.Add(1)
		}
	})

	const rounds = 25
	changes := 0
	call := func(want int, method, path string, body, out any) {
		t.Helper()
		s.API.Call(t, want, method, path, body, out)
		changes++
	}
	for i := range rounds {
		var peer struct{ Peer struct{ ID int64 } }
		var web, port struct{ Route struct{ ID int64 } }
		call(201, "POST", "/api/v1/peers", map[string]any{"name": fmt.Sprintf("extra %d", i), "hostname": fmt.Sprintf("extra-%d", i)}, &peer)
		call(201, "POST", "/api/v1/routes", map[string]any{"domain": fmt.Sprintf("r%d.example.test", i), "peer_id": peer.Peer.ID, "target_port": 80}, &web)
		call(201, "POST", "/api/v1/routes", map[string]any{
			"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": lab.FreePort(t), "peer_id": peer.Peer.ID, "target_port": 80}, &port)
		peerPath := fmt.Sprintf("/api/v1/peers/%d", peer.Peer.ID)
		webPath, portPath := fmt.Sprintf("/api/v1/routes/%d", web.Route.ID), fmt.Sprintf("/api/v1/routes/%d", port.Route.ID)
		call(200, "PUT", peerPath, map[string]any{"description": "changed", "persistentKeepalive": 7}, nil)
		call(200, "PUT", webPath, map[string]any{"target_port": 81, "https_enabled": false}, nil)
		call(200, "PUT", portPath, map[string]any{"l4_listen_port": lab.FreePort(t)}, nil)
		call(200, "PUT", peerPath+"/toggle", nil, nil)
		call(200, "PUT", webPath+"/toggle", nil, nil)
		call(200, "PUT", portPath+"/toggle", nil, nil)
		call(200, "DELETE", portPath, nil, nil)
		call(200, "DELETE", webPath, nil, nil)
		call(200, "DELETE", peerPath, nil, nil)
	}
	stop()
	load.Wait()
	t.Logf("%d changes, %d requests, %d echoes", changes, requests.Load(), echoes.Load())
	if changes != 12*rounds || requests.Load() < 100 || echoes.Load() < 100 {
		t.Error("too little happened to show anything")
	}
}

// TestTakenPort asks for a port that another process holds.
func TestTakenPort(t *testing.T) {
	s := lab.Start(t)
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, taken)
	port := taken.Addr().(*net.TCPAddr).Port

	open := lab.FreePort(t)
	route := func(port int) map[string]any {
		return map[string]any{"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": port, "target_ip": "", "target_port": 9}
	}
	first := route(open)
	first["target_port"] = port
	s.API.Call(t, 201, "POST", "/api/v1/routes", first, nil)
	through, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", open))
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	exchange(t, through)

	var other struct{ Route struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/routes", route(lab.FreePort(t)), &other)
	var before, after, refused string
	s.API.Call(t, 200, "GET", "/api/v1/routes", nil, &before)
	s.API.Call(t, 409, "POST", "/api/v1/routes", route(port), &refused)
	var answer struct {
		OK     bool
		Error  string
		Fields map[string]string
	}
	decode(t, refused, &answer)
	if answer.OK || answer.Error == "" || answer.Fields["l4_listen_port"] == "" {
		t.Errorf("the answer does not name the field: %s", refused)
	}
	s.API.Call(t, 409, "PUT", fmt.Sprintf("/api/v1/routes/%d", other.Route.ID), map[string]any{"l4_listen_port": port}, nil)
	s.API.Call(t, 200, "GET", "/api/v1/routes", nil, &after)
	if before != after {
		t.Errorf("something was stored:\n%s\n%s", before, after)
	}
	exchange(t, through) // nothing was closed
	again, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", open))
	if err != nil {
		t.Fatalf("the port of the other route: %v", err)
	}
	defer again.Close()
	exchange(t, again)
}
