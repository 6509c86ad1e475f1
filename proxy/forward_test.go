package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestContinue(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s, expect %q", b, r.Header.Get("Expect"))
	})
	r := newRig(t, site(addr))
	t.Run("after the gates", func(t *testing.T) {
		c := r.dial()
		br := bufio.NewReader(c)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q %v", line, err)
		}
		br.ReadString('\n')
		io.WriteString(c, "abc")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); body != `got abc, expect ""` {
			t.Errorf("got %q", body)
		}
	})
	t.Run("not before them", func(t *testing.T) {
		got := r.raw("POST / HTTP/1.1\r\nHost: unknown.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		if statuses(got) != "404" || !strings.Contains(got, "Connection: close") {
			t.Errorf("got %q", got)
		}
	})
}

// TestEarlyAnswer has a request answered before its body is there.
func TestEarlyAnswer(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, br)
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.discard = 500 * time.Millisecond })
	for _, tt := range []struct {
		name, host string
		size       int
		chunked    bool
		want       string
	}{
		{"refused here, small rest", "unknown.test", 100 << 10, false, "404 404"},
		{"refused here, large rest", "unknown.test", 4 << 20, false, "404"},
		{"refused here, small rest in chunks", "unknown.test", 100 << 10, true, "404 404"},
		{"refused here, large rest in chunks", "unknown.test", 4 << 20, true, "404"},
		{"refused by the backend, small rest", "app.test", 100 << 10, false, "413 404"},
		{"refused by the backend, large rest", "app.test", 64 << 20, false, "413"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial()
			go func() {
				body := strings.Repeat("x", tt.size)
				if tt.chunked {
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", tt.host, tt.size, body)
				} else {
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", tt.host, tt.size, body)
				}
				io.WriteString(c, "GET /x HTTP/1.1\r\nHost: unknown.test\r\nConnection: close\r\n\r\n")
			}()
			b, _ := io.ReadAll(c)
			if got := statuses(string(b)); got != tt.want {
				t.Errorf("answers %q, want %q", got, tt.want)
			}
		})
	}
}

// TestEarlyAnswerArrives has the client still sending when the connection ends. A
// reset would take the answer from it.
func TestEarlyAnswerArrives(t *testing.T) {
	r := newRig(t, site(netip.MustParseAddrPort("127.0.0.1:1")))
	for _, tt := range []struct{ name, framing string }{
		{"length", "Content-Length: 900000"},
		{"unread expectation", "Content-Length: 900000\r\nExpect: 100-continue"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial()
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: unknown.test\r\n"+tt.framing+"\r\n\r\n"+strings.Repeat("x", 3*firstBuffer))
			b, err := io.ReadAll(c)
			if err != nil || statuses(string(b)) != "404" {
				t.Errorf("%q, %v", statuses(string(b)), err)
			}
		})
	}
}

func TestClientLeaves(t *testing.T) {
	for _, tt := range []struct{ name, request string }{
		{"while the backend is silent", "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"},
		{"within its body", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 99999\r\n\r\nabc"},
		{"within a chunked body", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan error, 1)
			addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				close(began)
				_, err = io.Copy(io.Discard, req.Body)
				if err == nil {
					_, err = br.ReadByte()
				}
				ended <- err
			})
			r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
			c := r.dial()
			io.WriteString(c, tt.request)
			<-began
			c.Close()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the backend took the part for the whole")
				}
			case <-time.After(10 * time.Second):
				t.Error("the backend was not told")
			}
			eventually(t, "no connection is left", func() bool {
				r.srv.census.mu.Lock()
				defer r.srv.census.mu.Unlock()
				return r.srv.census.total == 0
			})
		})
	}
}

func TestPipelining(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "[%s %s]", r.RequestURI, b)
	})
	r := newRig(t, site(addr))
	var all strings.Builder
	const n = 50
	for i := range n {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: app.test\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\n%02d", i, i)
		case 2:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: unknown.test\r\n\r\n", i)
		case 3:
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: unknown.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n", i)
		case 4:
			fmt.Fprintf(&all, "HEAD /%d HTTP/1.1\r\nHost: app.test\r\n\r\n", i)
		}
	}
	got := r.raw(all.String() + "GET /last HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
	if want := strings.Repeat("200 200 404 404 200 ", n/5) + "200"; statuses(got) != want {
		t.Errorf("answers %s", statuses(got))
	}
	at := 0
	for i := range n {
		if i%5 < 2 {
			j := strings.Index(got[at:], fmt.Sprintf("[/%d ", i))
			if j < 0 {
				t.Fatalf("no answer to %d in order", i)
			}
			at += j
		}
	}
}

// TestSwapUnderLoad changes the configuration all the time while requests run.
func TestSwapUnderLoad(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "ok %s", b)
	})
	r := newRig(t, site(addr))
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	var served, failed atomic.Int64
	for i := range 16 {
		c := r.client()
		wg.Go(func() {
			for ctx.Err() == nil {
				scheme := []string{"http", "https"}[i%2]
				resp, err := c.Post(scheme+"://app.test/", "text/plain", strings.NewReader("body"))
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok body" {
					failed.Add(1)
					t.Errorf("%d %q %v", resp.StatusCode, b, err)
				}
				resp.Body.Close()
				served.Add(1)
			}
		})
	}
	swaps := 0
	for ; ctx.Err() == nil; swaps++ {
		cfg := site(addr)
		if swaps%2 == 1 { // the target moves between pools: with and without a neighbour
			cfg.Routes = append(cfg.Routes, Route{ID: 2, Host: "b.test", Target: Target{Addr: netip.MustParseAddrPort("127.0.0.1:9")}})
			cfg.AdminHosts = nil
		}
		if swaps%3 == 1 {
			cfg.Routes[0].ID = 7
		}
		r.commit(cfg)
		time.Sleep(3 * time.Millisecond)
	}
	wg.Wait()
	if served.Load() < 100 || failed.Load() > 0 {
		t.Errorf("%d served, %d failed", served.Load(), failed.Load())
	}
	t.Logf("%d requests over %d configurations", served.Load(), swaps)
}
