package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
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

	"golang.org/x/net/http2"
)

// TestH2Shutdown lets a request end, ends what idles at once, and takes no new one.
func TestH2Shutdown(t *testing.T) {
	begun, let := make(chan struct{}), make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-let
		}
		_, _ = io.WriteString(w, "done")
	})
	r := newRig(t, site(addr))
	idle, busy := r.h2(), r.h2()
	idle.request(1, plainGET, true)
	if got := idle.outcome(1); got != "200" {
		t.Fatal(got)
	}
	busy.request(1, strings.Replace(plainGET, ":path /", ":path /slow", 1), true)
	<-begun
	ended := make(chan error)
	go func() { ended <- r.srv.Shutdown(context.Background()) }()
	if got := idle.outcome(99); got != "goaway NO_ERROR" || !idle.ended() {
		t.Errorf("idle: %s", got)
	}
	if got := busy.outcome(99); got != "goaway NO_ERROR" {
		t.Errorf("busy: %s", got)
	}
	busy.request(3, plainGET, true) // too late, and not answered
	close(let)
	if got := busy.outcome(1); got != "200" {
		t.Errorf("the request in flight: %s", got)
	}
	if data, end := busy.body(1); data != "done" || end != "end" {
		t.Errorf("%q, %s", data, end)
	}
	if got := busy.outcome(3); got != "closed" {
		t.Errorf("the late request: %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestH2Close ends everything with requests in every state.
func TestH2Close(t *testing.T) {
	var begun atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		begun.Add(1)
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	r := newRig(t, site(addr))
	c := r.h2()
	c.request(1, plainGET, true)
	c.request(3, strings.Replace(plainGET, ":path /", ":path /stream", 1), true)
	c.request(5, strings.Replace(plainGET, "GET", "POST", 1), false)
	eventually(t, "all have begun", func() bool { return begun.Load() == 3 })
	if err := r.srv.Close(); err != nil {
		t.Error(err)
	}
	if !c.ended() {
		t.Error("still open")
	}
}

// TestH2Limits shortens the limits of time and waits for each to end something.
func TestH2Limits(t *testing.T) {
	const soon = 80 * time.Millisecond
	post := ":method POST\n:scheme https\n:authority app.test\n:path /\n"
	for _, tt := range []struct {
		name string
		tune func(*limits)
		send func(*h2raw)
		want string
	}{
		{"no preface", func(l *limits) { l.head = soon }, func(c *h2raw) {}, "closed"},
		{"half a preface", func(l *limits) { l.head = soon }, func(c *h2raw) { _, _ = io.WriteString(c.conn, http2.ClientPreface[:10]) }, "closed"},
		{"no request", func(l *limits) { l.idle = soon }, func(c *h2raw) { c.greet() }, "goaway NO_ERROR"},
		{"half a frame", func(l *limits) { l.head = soon }, func(c *h2raw) {
			c.greet()
			_, _ = c.conn.Write([]byte{0, 0, 20, 1})
		}, "closed"},
		{"half a section", func(l *limits) { l.head = soon }, func(c *h2raw) {
			c.greet()
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(plainGET)})
		}, "closed"},
		{"half a body", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet()
			c.request(1, post, false)
			c.try(c.WriteData(1, false, []byte("half")))
		}, "reset INTERNAL_ERROR"},
		{"half a frame of a body", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet()
			c.request(1, post, false)
			_, _ = c.conn.Write([]byte{0, 1, 0, 0, 0, 0, 0, 0, 1, 'x'})
		}, "closed"},
		{"a closed window", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			c.request(1, plainGET, true)
		}, "reset INTERNAL_ERROR"},
		{"a closed window and settings all the time", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			c.request(1, plainGET, true)
			c.repeat(soon/8, func() error { return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}) })
		}, "reset INTERNAL_ERROR"},
		{"a closed window and room on the connection all the time", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			c.request(1, plainGET, true)
			c.repeat(soon/8, func() error { return c.WriteWindowUpdate(0, 1) })
		}, "reset INTERNAL_ERROR"},
		{"half a body and nothing all the time", func(l *limits) { l.stall = soon }, func(c *h2raw) {
			c.greet()
			c.request(1, post, false)
			c.repeat(soon/8, func() error { return c.WriteData(1, false, nil) })
		}, "reset"}, // or STREAM_CLOSED for what came behind
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					_, _ = w.Write(make([]byte, 1000))
				}
			})
			r := newRig(t, site(addr), func(_ *Options, l *limits) { tt.tune(l) })
			c := r.h2silent(t, "app.test")
			tt.send(c)
			_ = c.conn.SetReadDeadline(time.Now().Add(4 * time.Second)) // before patience with so many frames ends
			got := c.outcome(1)
			if got == "200" {
				_, got = c.body(1)
			}
			for strings.HasPrefix(got, "reset") && strings.HasPrefix(tt.want, "closed") {
				got = c.outcome(1)
			}
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// repeat writes a frame again and again, until the test ends.
func (c *h2raw) repeat(pause time.Duration, write func() error) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(pause):
				if write() != nil {
					return
				}
			}
		}
	})
	c.t.Cleanup(func() { close(done); running.Wait() })
}

func (c *h2raw) greet(settings ...http2.Setting) {
	_, err := io.WriteString(c.conn, http2.ClientPreface)
	c.try(errors.Join(err, c.WriteSettings(settings...)))
}

// TestH2Swap changes the Config all the time while requests run.
func TestH2Swap(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	r := newRig(t, site(addr))
	client := r.via2()
	stop := make(chan struct{})
	var running sync.WaitGroup
	var served atomic.Int32
	for range 8 {
		running.Go(func() {
			body := bytes.Repeat([]byte("x"), 20<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Post("https://app.test/", "text/plain", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || !bytes.Equal(b, body) {
					t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(b), err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := 0; served.Load() < 500 && !t.Failed(); i++ {
		cfg := site(addr)
		cfg.Routes = append(cfg.Routes, Route{ID: 2, Host: fmt.Sprintf("other-%d.test", i), Target: Target{Addr: netip.MustParseAddrPort("127.0.0.1:9")}})
		r.commit(cfg)
		time.Sleep(time.Millisecond) // the pace of changes
	}
	close(stop)
	running.Wait()
}

// TestH2Preferred is what ALPN comes to.
func TestH2Preferred(t *testing.T) {
	r := newRig(t, site(backend(t, func(http.ResponseWriter, *http.Request) {})))
	for _, tt := range []struct {
		offer []string
		want  string
	}{
		{[]string{"http/1.1", "h2"}, "h2"},
		{[]string{"http/1.1"}, "http/1.1"},
		{nil, ""},
	} {
		cfg := r.trust()
		cfg.ServerName, cfg.NextProtos = "app.test", tt.offer
		c, err := tls.Dial("tcp", r.tls, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != tt.want {
			t.Errorf("%v: %q", tt.offer, got)
		}
		c.Close()
	}
}

// TestH2Panic has one request meet a panic. It gets an error, and the others on
// the connection notice nothing.
func TestH2Panic(t *testing.T) {
	let := make(chan struct{})
	var begun atomic.Bool
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		begun.Store(true)
		<-let
	})
	cfg := site(addr)
	var panics atomic.Bool
	r := newRig(t, cfg, func(o *Options, _ *limits) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			if panics.Load() {
				panic("dialer")
			}
			return dial(ctx, network, to)
		}
	})
	c := r.h2()
	c.request(1, plainGET, true)
	eventually(t, "the first is at the backend", begun.Load)
	panics.Store(true)
	c.request(3, plainGET, true)
	if got := c.outcome(3); got != "500" {
		t.Errorf("the one that panics: %s", got)
	}
	close(let)
	if got := c.outcome(1); got != "200" {
		t.Errorf("the other: %s", got)
	}
	if n := strings.Count(r.log.String(), "panic in"); n != 1 {
		t.Errorf("%d panics logged", n)
	}
}

// TestH2Retire demands certificates on a route. A connection that was made before
// is of no use any more, and says so.
func TestH2Retire(t *testing.T) {
	cert, _, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cfg := site(backend(t, func(http.ResponseWriter, *http.Request) {}))
	r := newRig(t, cfg)
	c := r.h2()
	c.request(1, plainGET, true)
	if got := c.outcome(1); got != "200" {
		t.Fatal(got)
	}
	cfg.Routes[0].Options = &RouteOptions{ClientCA: string(cert)}
	r.commit(cfg)
	c.request(3, plainGET, true)
	for _, want := range []string{"goaway NO_ERROR", "421"} {
		if got := c.outcome(3); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if !c.ended() {
		t.Error("still open")
	}
}

// TestH2KillLate ends an upgrade that has ended already, as whoever ends upgrades of
// routes that are gone may do. Nobody else may be hit.
func TestH2KillLate(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, b *bufio.Reader) {
		req, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]))
		_, _ = io.Copy(c, b)
	})
	r := newRig(t, site(addr))
	c := r.h2()
	c.request(1, ":method CONNECT\n:protocol websocket\n:scheme https\n:authority app.test\n:path /\n", false)
	if got := c.outcome(1); got != "200" {
		t.Fatal(got)
	}
	var open *upgrade
	r.srv.upgrades.mu.Lock()
	for u := range r.srv.upgrades.open {
		open = u
	}
	r.srv.upgrades.mu.Unlock()
	c.try(c.WriteData(1, true, []byte("bye")))
	if data, end := c.body(1); data != "bye" || end != "end" {
		t.Errorf("%q, %s", data, end)
	}
	eventually(t, "the upgrade has ended", func() bool {
		r.srv.upgrades.mu.Lock()
		defer r.srv.upgrades.mu.Unlock()
		return len(r.srv.upgrades.open) == 0
	})
	for id := uint32(3); id < 40; id += 2 {
		c.request(id, ":method CONNECT\n:protocol websocket\n:scheme https\n:authority app.test\n:path /\n", false)
		if got := c.outcome(id); got != "200" {
			t.Fatal(got)
		}
		open.kill()
		c.try(c.WriteData(id, true, []byte("bye")))
		if data, end := c.body(id); data != "bye" || end != "end" {
			t.Errorf("%q, %s", data, end)
		}
	}
}

// TestH2SmallerWindow has a client make its windows smaller than what has been sent on
// a stream, so that the window of that is below zero: an end needs none (RFC 9113,
// section 6.9.2).
func TestH2SmallerWindow(t *testing.T) {
	half := strings.Repeat("x", 20_000)
	end := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
		<-end
	})
	c := newRig(t, site(addr)).h2()
	c.request(1, plainGET, true)
	for n := 0; n < len(half); {
		e := c.next()
		if e.err != nil {
			t.Fatal(e.err)
		}
		n += len(e.data)
	}
	c.try(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
	c.try(c.WritePing(false, [8]byte{1}))
	for e := c.next(); e.Type != http2.FramePing; e = c.next() { // the settings are taken
		if e.err != nil {
			t.Fatal(e.err)
		}
	}
	close(end)
	if data, how := c.body(1); data != "" || how != "end" {
		t.Errorf("%d bytes more, %s", len(data), how)
	}
}
