package app_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatecontrol/lab"
)

// webClients are clients that trust s alone and reach every name at its TLS port,
// one for each HTTP version.
func webClients(t testing.TB, s *lab.Server) map[string]*http.Client {
	t.Helper()
	third := &http3.Transport{
		TLSClientConfig: trustIn(t, s.Dir),
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, s.Addrs().HTTPS, cfg, q)
		},
	}
	t.Cleanup(func() { _ = third.Close() })
	second := &http.Transport{
		TLSClientConfig: trustIn(t, s.Dir), Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Addrs().HTTPS)
		},
	}
	second.Protocols.SetHTTP2(true)
	t.Cleanup(second.CloseIdleConnections)
	return map[string]*http.Client{"HTTP/1.1": trusting(t, s), "HTTP/2.0": {Transport: second}, "HTTP/3.0": {Transport: third}}
}

// TestRouteChangesUnderLoad changes routes every 50 ms, the one that is under load
// among them, while it is asked over every HTTP version. Each answer is that of a
// backend which the route had while it was asked, and none fails.
func TestRouteChangesUnderLoad(t *testing.T) {
	const changes, pause = 100, 50 * time.Millisecond
	s := lab.Start(t)
	id, p := s.Peer(t, "steady")
	for port := 8001; port <= 8002; port++ {
		ln, err := p.Listen(uint16(port))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "port %d took %d bytes", port, n)
		})}
		go func() { _ = srv.Serve(ln) }() // ends with Close
		t.Cleanup(func() { _ = srv.Close() })
	}
	var made struct{ Route struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": "steady.example.test", "peer_id": id, "target_port": 8001}, &made)
	path := "/api/v1/routes/" + strconv.FormatInt(made.Route.ID, 10)

	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer load.Wait()
	defer stop()
	counts := make(map[string]*atomic.Int64)
	for version, client := range webClients(t, s) {
		count := new(atomic.Int64)
		counts[version] = count
		for worker := range 3 {
			load.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					method, size := "GET", int64(0)
					if i%2 == 1 {
						method, size = "POST", int64(worker)*40_000
					}
					if err := ask(client, version, method, size); err != nil {
						t.Errorf("%s, request %d: %v", version, count.Load(), err)
						return
					}
					count.Add(1)
				}
			})
		}
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	var extra struct{ Route struct{ ID int64 } }
	for i := range changes {
		<-ticker.C
		switch i % 4 {
		case 0:
			s.API.Call(t, 200, "PUT", path, map[string]any{"target_port": 8001 + i/4%2}, nil)
		case 1:
			s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": fmt.Sprintf("r%d.example.test", i), "peer_id": id, "target_port": 80}, &extra)
		case 2:
			s.API.Call(t, 200, "PUT", path, map[string]any{"description": fmt.Sprint("change ", i)}, nil)
		case 3:
			s.API.Call(t, 200, "DELETE", "/api/v1/routes/"+strconv.FormatInt(extra.Route.ID, 10), nil, nil)
		}
	}
	stop()
	load.Wait()
	for version, count := range counts {
		t.Logf("%s: %d requests during %d changes", version, count.Load(), changes)
		if count.Load() < changes {
			t.Errorf("%s: only %d requests, so little was shown", version, count.Load())
		}
	}
}

// ask sends one request with a body of size bytes, and checks its answer.
func ask(c *http.Client, version, method string, size int64) error {
	req, err := http.NewRequest(method, "https://steady.example.test/", io.LimitReader(zeros{}, size))
	if err != nil {
		return err
	}
	if req.ContentLength = size; size == 0 {
		req.Body = http.NoBody
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	for port := 8001; port <= 8002; port++ {
		if res.StatusCode == 200 && res.Proto == version && string(body) == fmt.Sprintf("port %d took %d bytes", port, size) {
			return nil
		}
	}
	return fmt.Errorf("%s over %s: %q", res.Status, res.Proto, body)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
