package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

func retrying(cfg Config, count int, statuses ...int) Config {
	if cfg.Routes[0].Options == nil {
		cfg.Routes[0].Options = new(RouteOptions)
	}
	cfg.Routes[0].Options.Retry = &model.Retry{Enabled: true, Count: count, Statuses: statuses}
	return cfg
}

func soon(_ *Options, l *limits) { l.retryPause = time.Millisecond }

// failing is a backend whose first fails requests end as how says: by a status,
// or without an answer if that is 0. The others answer with the request's body.
func failing(t testing.TB, fails, how int) (netip.AddrPort, *atomic.Int32) {
	seen := new(atomic.Int32)
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			n := int(seen.Add(1))
			switch {
			case n > fails:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
				c.Write(body)
			case how == 0:
				return
			default:
				fmt.Fprintf(c, "HTTP/1.1 %d Failed\r\nContent-Length: 4\r\n\r\nno %d", how, n)
			}
		}
	}), seen
}

func TestRetry(t *testing.T) {
	kib, mib := strings.Repeat("0123456789abcdef", 64), strings.Repeat("0123456789abcdef", 64<<10)
	for _, tt := range []struct {
		name, method, body string
		chunked            bool
		fails, how, count  int
		status, attempts   int
		want               string
	}{
		{name: "no answer", method: "GET", fails: 2, count: 2, status: 200, attempts: 3},
		{name: "no answer at all", method: "GET", fails: 9, count: 2, status: 502, attempts: 3},
		{name: "status", method: "GET", fails: 1, how: 503, count: 3, status: 200, attempts: 2},
		{name: "last answer as it is", method: "GET", fails: 9, how: 503, count: 3, status: 503, attempts: 4, want: "no 4"},
		{name: "another status", method: "GET", fails: 9, how: 500, count: 3, status: 500, attempts: 1, want: "no 1"},
		{name: "HEAD", method: "HEAD", fails: 1, count: 3, status: 200, attempts: 2},
		{name: "OPTIONS", method: "OPTIONS", fails: 1, count: 3, status: 200, attempts: 2},
		{name: "DELETE", method: "DELETE", fails: 1, count: 3, status: 200, attempts: 2},
		{name: "POST", method: "POST", body: "x", fails: 1, count: 3, status: 502, attempts: 1},
		{name: "POST without a body", method: "POST", fails: 1, count: 3, status: 502, attempts: 1},
		{name: "POST and a status", method: "POST", body: "x", fails: 1, how: 503, count: 3, status: 503, attempts: 1, want: "no 1"},
		{name: "PATCH", method: "PATCH", body: "x", fails: 1, count: 3, status: 502, attempts: 1},
		{name: "PUT", method: "PUT", body: "tiny", fails: 2, count: 3, status: 200, attempts: 3, want: "tiny"},
		{name: "PUT 100 KiB", method: "PUT", body: strings.Repeat(kib, 100), fails: 2, count: 3, status: 200, attempts: 3, want: strings.Repeat(kib, 100)},
		{name: "PUT 100 KiB in chunks", method: "PUT", body: strings.Repeat(kib, 100), chunked: true, fails: 2, count: 3, status: 200, attempts: 3, want: strings.Repeat(kib, 100)},
		{name: "PUT 100 KiB and a status", method: "PUT", body: strings.Repeat(kib, 100), fails: 2, how: 502, count: 3, status: 200, attempts: 3, want: strings.Repeat(kib, 100)},
		{name: "PUT 1 MiB", method: "PUT", body: mib, fails: 1, count: 3, status: 200, attempts: 2, want: mib},
		{name: "PUT 1 MiB in chunks", method: "PUT", body: mib, chunked: true, fails: 1, count: 3, status: 200, attempts: 2, want: mib},
		{name: "PUT more", method: "PUT", body: mib + "x", fails: 1, count: 3, status: 502, attempts: 1},
		{name: "PUT more in chunks", method: "PUT", body: mib + mib, chunked: true, fails: 1, count: 3, status: 502, attempts: 1},
		{name: "PUT more, works", method: "PUT", body: mib + mib, count: 3, status: 200, attempts: 1, want: mib + mib},
		{name: "PUT more in chunks, works", method: "PUT", body: mib + mib, chunked: true, count: 3, status: 200, attempts: 1, want: mib + mib},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				addr, seen := failing(t, tt.fails, tt.how)
				r := newRig(t, retrying(site(addr), tt.count, 502, 503), soon)
				var body io.Reader
				if tt.body != "" {
					body = strings.NewReader(tt.body)
					if tt.chunked {
						body = io.MultiReader(body)
					}
				}
				req, _ := http.NewRequest(tt.method, "https://app.test/", body)
				resp, err := via(r).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got := readAll(t, resp)
				if resp.StatusCode != tt.status || int(seen.Load()) != tt.attempts {
					t.Errorf("%d after %d attempts, want %d after %d", resp.StatusCode, seen.Load(), tt.status, tt.attempts)
				}
				if tt.want != "" && got != tt.want {
					t.Errorf("%d bytes %.20q, want %d %.20q", len(got), got, len(tt.want), tt.want)
				}
				eventually(t, "nothing is held", func() bool { return r.srv.heldBodies.left.Load() == heldBudget })
			})
		})
	}
}

// TestRetryDial has backends that cannot be connected to, which any method may be
// told again.
func TestRetryDial(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PURGE"} {
		t.Run(method, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				addr, seen := failing(t, 0, 0)
				var sw switchboard
				sw.set(addr)
				r := newRig(t, retrying(site(addr), 5), func(o *Options, l *limits) {
					o.Dial = sw.dial
					l.retryPause = 20 * time.Millisecond
				})
				go func() {
					for sw.count(addr) < 2 {
						time.Sleep(time.Millisecond)
					}
					sw.set()
				}()
				body := strings.Repeat("b", 3<<20)
				req, _ := http.NewRequest(method, "https://app.test/", strings.NewReader(body))
				resp, err := via(r).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, resp); resp.StatusCode != 200 || got != body || seen.Load() != 1 || sw.count(addr) < 3 {
					t.Errorf("%d, %d bytes, %d requests, %d dials", resp.StatusCode, len(got), seen.Load(), sw.count(addr))
				}
			})
		})
	}
}

// TestRetryNext has one backend of three that works.
func TestRetryNext(t *testing.T) {
	b, seenB := failing(t, 99, 503)
	c, seenC := failing(t, 0, 0)
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	for _, sticky := range []bool{false, true} {
		t.Run(fmt.Sprintf("sticky %v", sticky), func(t *testing.T) {
			cfg := retrying(several([]int{1, 1, 1}, dead, b, c), 2, 503)
			if sticky {
				cfg.Routes[0].Options.Sticky = stickySite(b).Routes[0].Options.Sticky
			}
			r := newRig(t, cfg, soon)
			for range 12 {
				seenB.Store(0)
				seenC.Store(0)
				resp, err := r.client().Post("https://app.test/", "", nil)
				if err != nil {
					t.Fatal(err)
				}
				if readAll(t, resp); resp.StatusCode == 503 {
					continue // as it should: a POST that was answered
				}
				resp, _ = get(t, r.client(), "https://app.test/")
				if resp.StatusCode != 200 || seenB.Load() > 1 {
					t.Errorf("%d, the one that fails was asked %d times", resp.StatusCode, seenB.Load())
				}
				if sticky {
					last := r.srv.snapshot.Load().routes[1].balance.members[2].mark
					if got := resp.Cookies(); len(got) != 1 || got[0].Value != last {
						t.Errorf("the cookie is not that of who answered: %v", got)
					}
				}
			}
		})
	}
}

func TestRetryNever(t *testing.T) {
	t.Run("upgrade", func(t *testing.T) {
		var sw switchboard
		addr := netip.MustParseAddrPort("127.0.0.1:1")
		sw.set(addr)
		r := newRig(t, retrying(site(addr), 3), soon, func(o *Options, _ *limits) { o.Dial = sw.dial })
		got := r.raw("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, close\r\nUpgrade: custom/2\r\n\r\n")
		if statuses(got) != "502" || sw.count(addr) != 1 {
			t.Errorf("%s, %d dials", statuses(got), sw.count(addr))
		}
	})
	t.Run("after the answer has begun", func(t *testing.T) {
		var seen atomic.Int32
		addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				seen.Add(1)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			}
		})
		r := newRig(t, retrying(site(addr), 3), soon)
		if resp, err := r.client().Get("http://app.test/"); err == nil {
			if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || seen.Load() != 1 {
				t.Errorf("%q %v after %d attempts", b, err, seen.Load())
			}
			resp.Body.Close()
		}
	})
	t.Run("switched off", func(t *testing.T) {
		addr, seen := failing(t, 1, 0)
		r := newRig(t, several([]int{1}, addr))
		if resp, _ := get(t, r.client(), "http://app.test/"); resp.StatusCode != 502 || seen.Load() != 1 {
			t.Errorf("%d after %d attempts", resp.StatusCode, seen.Load())
		}
	})
	t.Run("for a client that has left", func(t *testing.T) {
		addr := netip.MustParseAddrPort("127.0.0.1:1")
		var sw switchboard
		sw.set(addr)
		r := newRig(t, retrying(site(addr), 3), func(o *Options, l *limits) {
			o.Dial = sw.dial
			l.retryPause = 3 * time.Second
		})
		c := r.dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
		eventually(t, "the first attempt", func() bool { return sw.count(addr) == 1 })
		c.Close()
		eventually(t, "no connection is left", func() bool {
			r.srv.census.mu.Lock()
			defer r.srv.census.mu.Unlock()
			return r.srv.census.total == 0
		})
		if n := sw.count(addr); n != 1 {
			t.Errorf("%d dials", n)
		}
	})
	t.Run("beyond its time", func(t *testing.T) {
		addr, seen := failing(t, 99, 503)
		r := newRig(t, retrying(site(addr), 10, 503), func(_ *Options, l *limits) { l.retryPause = time.Hour })
		if resp, _ := get(t, r.client(), "http://app.test/"); resp.StatusCode != 503 || seen.Load() != 1 {
			t.Errorf("%d after %d attempts", resp.StatusCode, seen.Load())
		}
		if retryLimit(1) != 5*time.Second || retryLimit(10) != 20*time.Second {
			t.Error(retryLimit(1), retryLimit(10))
		}
	})
}

// TestRetryPause measures that attempts do not come at once.
func TestRetryPause(t *testing.T) {
	addr, _ := failing(t, 2, 503)
	r := newRig(t, retrying(site(addr), 3, 503), func(_ *Options, l *limits) { l.retryPause = 40 * time.Millisecond })
	began := time.Now()
	if resp, _ := get(t, r.client(), "http://app.test/"); resp.StatusCode != 200 || time.Since(began) < 80*time.Millisecond {
		t.Errorf("%d after %v", resp.StatusCode, time.Since(began))
	}
}

// TestRetryContinue has a client that waits before it sends a body.
func TestRetryContinue(t *testing.T) {
	addr, seen := failing(t, 1, 0)
	r := newRig(t, retrying(site(addr), 3), soon)
	c := r.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "PUT / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
		if line, err := br.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q %v", line, err)
		}
	}
	io.WriteString(c, "abc")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "abc" || seen.Load() != 2 {
		t.Errorf("%q after %d attempts", body, seen.Load())
	}
}

// TestRetryNoRoom has the memory for bodies used up: requests are sent once.
func TestRetryNoRoom(t *testing.T) {
	addr, seen := failing(t, 0, 0)
	r := newRig(t, retrying(site(addr), 3), soon)
	r.srv.heldBodies.left.Store(4 * pieceSize)
	for _, body := range []string{strings.Repeat("b", 500<<10), "small"} {
		req, _ := http.NewRequest("PUT", "https://app.test/", strings.NewReader(body))
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != body {
			t.Errorf("%d bytes, want %d", len(got), len(body))
		}
	}
	if seen.Load() != 2 {
		t.Errorf("%d attempts", seen.Load())
	}
}

// TestRetryEmptyChunks repeats a request whose body is in chunks, and turns out to be
// empty: each attempt has the end of it.
func TestRetryEmptyChunks(t *testing.T) {
	var attempts atomic.Int32
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(speakingTime / 2))
			if n, err := io.Copy(io.Discard, req.Body); n != 0 || err != nil {
				t.Errorf("attempt %d: %d bytes, %v", attempts.Load()+1, n, err)
				return
			}
			answer := fine
			if attempts.Add(1) < 3 {
				answer = "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n"
			}
			_, _ = io.WriteString(c, answer)
		}
	})
	r := newRig(t, retrying(site(addr), 3, 503), soon)
	for _, s := range speakers {
		attempts.Store(0)
		got := s.speak(t, r, ask{method: "PUT", target: "/", host: "app.test", noLength: true})
		if got.status != 200 || attempts.Load() != 3 {
			t.Errorf("%s: %d after %d attempts", s.name, got.status, attempts.Load())
		}
	}
}
