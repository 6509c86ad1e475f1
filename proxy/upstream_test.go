package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestKeepAlive(t *testing.T) {
	var conns sync.Map
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	r := newRig(t, site(addr))
	c := r.client()
	for i := range 20 {
		body := strings.Repeat("x", i*10_000)
		resp, err := c.Post("http://app.test/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if readAll(t, resp) != body {
			t.Error("not what was sent")
		}
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > 3 { // an upload may be told of as unfinished when its answer is very fast
		t.Errorf("%d backend connections for 20 requests in a row", n)
	}
}

// TestStalePool has a backend that closes its connections while they are kept.
func TestStalePool(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PURGE"} {
		t.Run(method, func(t *testing.T) {
			var requests atomic.Int32
			closeNow, closed := make(chan struct{}, 1), make(chan struct{}, 3)
			addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
				requests.Add(1)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				<-closeNow
				c.Close()
				closed <- struct{}{}
			})
			r := newRig(t, site(addr))
			c := r.client()
			for range 3 {
				req, _ := http.NewRequest(method, "http://app.test/", nil)
				if method == "POST" {
					req, _ = http.NewRequest(method, "http://app.test/", strings.NewReader("abc"))
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if readAll(t, resp); resp.StatusCode != 200 {
					t.Errorf("status %d", resp.StatusCode)
				}
				closeNow <- struct{}{}
				<-closed
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("the backend saw %d requests", n)
			}
		})
	}
}

// TestNoSecondTry has a backend that takes a request and dies.
func TestNoSecondTry(t *testing.T) {
	var requests atomic.Int32
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if requests.Add(1) > 1 {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	r := newRig(t, site(addr))
	c := r.client()
	for _, want := range []int{200, 502} {
		resp, err := c.Post("http://app.test/", "text/plain", strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		if readAll(t, resp); resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("the backend saw %d requests, one of them twice", n)
	}
}

func TestBackendFailures(t *testing.T) {
	refusing := netip.MustParseAddrPort("127.0.0.1:1")
	hang := make(chan struct{})
	for _, tt := range []struct {
		name   string
		dial   func(context.Context, string, netip.AddrPort) (net.Conn, error)
		accept string
		status int
		want   []string
	}{
		{"refuses", nil, "text/html", 502, []string{"app.test cannot be reached", "nas &lt;b&gt;", "request"}},
		{"refuses, json", nil, "application/json", 502, []string{`"error":"app.test cannot be reached"`, `"request_id":"`}},
		{"no route", func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("peer is offline")
		}, "", 502, []string{"nas"}},
		{"does not answer", func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-hang:
				return nil, net.ErrClosed
			}
		}, "", 502, []string{"nas"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := site(refusing)
			cfg.Routes[0].Target.PeerName = "nas <b>"
			r := newRig(t, cfg, func(o *Options, l *limits) {
				l.dial = 100 * time.Millisecond
				if tt.dial != nil {
					o.Dial = tt.dial
				}
			})
			req, _ := http.NewRequest("GET", "http://app.test/secret-path", nil)
			req.Header.Set("Accept", tt.accept)
			resp, err := r.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body := readAll(t, resp)
			if resp.StatusCode != tt.status || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Date") == "" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			for _, part := range tt.want {
				if !strings.Contains(body, part) {
					t.Errorf("no %q in %s", part, body)
				}
			}
			if strings.Contains(body, "secret-path") || strings.Contains(r.log.String(), "secret-path") {
				t.Error("the path of the request is repeated")
			}
			if n := strings.Count(r.log.String(), "backend failed"); n != 1 {
				t.Errorf("logged %d times", n)
			}
			get(t, r.client(), "http://app.test/")
			if n := strings.Count(r.log.String(), "backend failed"); n != 1 {
				t.Errorf("logged %d times after two failures", n)
			}
		})
	}
}

func TestTLSBackend(t *testing.T) {
	names := make(chan string, 1)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case names <- r.TLS.ServerName:
		default:
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}))
	defer s.Close()
	cfg := site(netip.MustParseAddrPort(s.Listener.Addr().String()))
	cfg.Routes[0].Target.TLS = true
	r := newRig(t, cfg)
	c := r.client()
	for range 3 {
		resp, err := c.Post("https://app.test/", "text/plain", strings.NewReader(strings.Repeat("x", 200_000)))
		if err != nil {
			t.Fatal(err)
		}
		if len(readAll(t, resp)) != 200_000 {
			t.Error("not what was sent")
		}
	}
	if name := <-names; name != "app.test" {
		t.Errorf("SNI %q", name)
	}
}

func TestIdleBackends(t *testing.T) {
	addr := echoHead(t, "")
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.backendIdle = 60 * time.Millisecond })
	for range 2 {
		get(t, r.client(), "http://app.test/")
		eventually(t, "the unused connection is closed", func() bool {
			r.srv.mu.Lock()
			defer r.srv.mu.Unlock()
			return len(r.srv.backends) == 0
		})
	}
}
