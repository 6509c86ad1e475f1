package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// TestH2Attacks sends what no client should, as raw frames, and compares what
// becomes of it. The backend must see those requests alone that are to reach it.
func TestH2Attacks(t *testing.T) {
	const post = ":method POST\n:scheme https\n:authority app.test\n:path /\n"
	repeat := func(n int, f func() error) {
		for range n {
			if f() != nil {
				return
			}
		}
	}
	for _, tt := range []struct {
		name   string
		send   func(*h2raw)
		want   string // of stream 1 or the connection
		seen   int32  // requests that reach the backend, -1: any number
		serves bool   // the connection goes on
	}{
		{name: "a good request", send: func(c *h2raw) { c.request(1, plainGET, true) }, want: "200", seen: 1, serves: true},

		{name: "flood of SETTINGS", send: func(c *h2raw) { repeat(5000, func() error { return c.WriteSettings() }) }, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of SETTINGS in one frame", send: func(c *h2raw) {
			all := make([]http2.Setting, h2MaxFrame/6)
			for i := range all {
				all[i] = http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)}
			}
			c.try(c.WriteSettings(all...))
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of PING", send: func(c *h2raw) { repeat(5000, func() error { return c.WritePing(false, [8]byte{}) }) }, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of PRIORITY", send: func(c *h2raw) {
			repeat(5000, func() error { return c.WritePriority(7, http2.PriorityParam{StreamDep: 3}) })
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of unknown frames", send: func(c *h2raw) {
			repeat(5000, func() error { return c.WriteRawFrame(0xee, 0, 0, nil) })
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of empty DATA", send: func(c *h2raw) {
			c.request(1, post, false)
			repeat(5000, func() error { return c.WriteData(1, false, nil) })
		}, want: "goaway ENHANCE_YOUR_CALM", seen: -1},
		{name: "flood of small windows", send: func(c *h2raw) {
			repeat(5000, func() error { return c.WriteWindowUpdate(0, 1) })
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of resets", send: func(c *h2raw) {
			for id := uint32(3); id < 5000; id += 2 {
				if !c.request(id, plainGET, false) || !c.try(c.WriteRSTStream(id, http2.ErrCodeCancel)) {
					return
				}
			}
		}, want: "goaway ENHANCE_YOUR_CALM", seen: -1},
		{name: "flood of malformed requests", send: func(c *h2raw) {
			for id := uint32(3); id < 5000; id += 2 {
				if !c.request(id, ":method GET\n", true) {
					return
				}
			}
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "flood of CONTINUATION", send: func(c *h2raw) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(plainGET), EndStream: true})
			repeat(5000, func() error { return c.WriteContinuation(1, false, nil) })
		}, want: "goaway ENHANCE_YOUR_CALM"},
		{name: "section without end", send: func(c *h2raw) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(plainGET), EndStream: true})
			junk := c.fields("x " + strings.Repeat("\x01", 8000) + "\n")
			repeat(5000, func() error { return c.WriteContinuation(1, false, junk) })
		}, want: "goaway ENHANCE_YOUR_CALM"},

		{name: "list too large", send: func(c *h2raw) {
			c.request(1, plainGET+strings.Repeat("y "+strings.Repeat("z", 1500)+"\n", 40), true)
		}, want: "431", serves: true},
		{name: "list that unfolds from the table", send: func(c *h2raw) {
			// One field of 4 KiB, named again and again by a byte each.
			block := append(c.fields(plainGET+"x "+strings.Repeat("a", 3900)+"\n"), []byte(strings.Repeat("\xbe", 10000))...)
			c.try(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true}))
		}, want: "431", serves: true},
		{name: "an index that does not exist", send: func(c *h2raw) {
			c.try(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0x7f}, EndStream: true, EndHeaders: true}))
		}, want: "goaway COMPRESSION_ERROR"},
		{name: "a table larger than allowed", send: func(c *h2raw) {
			c.try(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x3f, 0xff, 0xff, 0x03}, EndStream: true, EndHeaders: true}))
		}, want: "goaway COMPRESSION_ERROR"},
		{name: "frame too large", send: func(c *h2raw) {
			c.try(c.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, h2MaxFrame+1)))
		}, want: "goaway FRAME_SIZE_ERROR"},
		{name: "no preface", send: func(c *h2raw) {
			_, _ = io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
		}, want: "goaway PROTOCOL_ERROR"},

		{name: "more than the window", send: func(c *h2raw) {
			c.request(1, strings.Replace(post, ":path /", ":path /unread", 1), false)
			repeat(2000, func() error { return c.WriteData(1, false, make([]byte, h2MaxFrame)) })
		}, want: "reset FLOW_CONTROL_ERROR", seen: -1, serves: true},
		{name: "a window beyond the maximum", send: func(c *h2raw) {
			c.try(c.WriteWindowUpdate(0, 1<<31-1))
		}, want: "goaway FLOW_CONTROL_ERROR"},
		{name: "DATA on a stream that is not", send: func(c *h2raw) { c.try(c.WriteData(1, true, []byte("x"))) }, want: "goaway PROTOCOL_ERROR"},
		{name: "an even stream", send: func(c *h2raw) { c.request(2, plainGET, true) }, want: "goaway PROTOCOL_ERROR"},
		{name: "a push", send: func(c *h2raw) {
			c.try(c.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: c.fields(plainGET), EndHeaders: true}))
		}, want: "goaway PROTOCOL_ERROR"},

		{name: "no path", send: func(c *h2raw) { c.request(1, ":method GET\n:scheme https\n:authority app.test\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "path twice", send: func(c *h2raw) { c.request(1, plainGET+":path /admin\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "pseudo field late", send: func(c *h2raw) { c.request(1, plainGET+"x y\n:path /\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "a status", send: func(c *h2raw) { c.request(1, plainGET+":status 200\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "pseudo field in trailers", send: func(c *h2raw) {
			c.request(1, post, false)
			c.request(1, ":path /\n", true)
		}, want: "reset PROTOCOL_ERROR", seen: -1, serves: true},
		{name: "upper case", send: func(c *h2raw) { c.request(1, plainGET+"X-Y z\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "Connection", send: func(c *h2raw) { c.request(1, plainGET+"connection x-real-ip\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "Transfer-Encoding", send: func(c *h2raw) {
			c.request(1, post+"transfer-encoding chunked\n", false)
			c.try(c.WriteData(1, true, []byte("0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")))
		}, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "Upgrade", send: func(c *h2raw) { c.request(1, plainGET+"upgrade h2c\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "two requests in a value", send: func(c *h2raw) { c.request(1, plainGET+"x a\r\nhost: evil.test\r\n\r\nGET /admin HTTP/1.1\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "two requests in a name", send: func(c *h2raw) { c.request(1, plainGET+"x:a\r\ny b\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "two requests in the path", send: func(c *h2raw) {
			c.request(1, ":method GET\n:scheme https\n:authority app.test\n:path /\tHTTP/1.1\r\n", true)
		}, want: "400", serves: true},
		{name: "two requests in the method", send: func(c *h2raw) {
			c.request(1, ":method GET\t/admin\n:scheme https\n:authority app.test\n:path /\n", true)
		}, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "another Host", send: func(c *h2raw) { c.request(1, plainGET+"host other.test\n", true) }, want: "400", serves: true},
		{name: "another name than the connection's", send: func(c *h2raw) {
			c.request(1, strings.Replace(plainGET, "app.test", "other.test", 1), true)
		}, want: "421", serves: true},
		{name: "CONNECT", send: func(c *h2raw) { c.request(1, ":method CONNECT\n:authority app.test:22\n", false) }, want: "405", serves: true},
		{name: "TRACE", send: func(c *h2raw) { c.request(1, strings.Replace(plainGET, "GET", "TRACE", 1), true) }, want: "405", serves: true},
		{name: "another protocol", send: func(c *h2raw) {
			c.request(1, ":method CONNECT\n:protocol connect-udp\n:scheme https\n:authority app.test\n:path /\n", false)
		}, want: "501", serves: true},

		{name: "body shorter than its length", send: func(c *h2raw) {
			c.request(1, post+"content-length 10\n", false)
			c.try(c.WriteData(1, true, []byte("short")))
		}, want: "reset PROTOCOL_ERROR", seen: -1, serves: true},
		{name: "body longer than its length", send: func(c *h2raw) {
			c.request(1, post+"content-length 2\n", false)
			c.try(c.WriteData(1, true, []byte("longer")))
		}, want: "reset PROTOCOL_ERROR", seen: -1, serves: true},
		{name: "length without body", send: func(c *h2raw) { c.request(1, post+"content-length 2\n", true) }, want: "reset PROTOCOL_ERROR", serves: true},
		{name: "trailers instead of the rest", send: func(c *h2raw) {
			c.request(1, post+"content-length 10\n", false)
			c.request(1, "x y\n", true)
		}, want: "reset PROTOCOL_ERROR", seen: -1, serves: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen, whole atomic.Int32
			hold := make(chan struct{})
			defer close(hold)
			addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
				seen.Add(1)
				if r.URL.Path == "/unread" {
					<-hold
				} else if r.Method == "POST" {
					if _, err := io.ReadAll(r.Body); err == nil {
						whole.Add(1)
					}
				}
			})
			r := newRig(t, site(addr))
			c := r.h2silent(t, "app.test")
			if tt.name != "no preface" {
				c = r.h2()
			}
			tt.send(c)
			if got := c.outcome(1); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if n := r.srv.Counts().Limits["http2_flood"]; (n == 1) != (tt.want == "goaway ENHANCE_YOUR_CALM") {
				t.Errorf("%d floods counted", n)
			}
			if !tt.serves {
				if strings.HasPrefix(tt.want, "goaway") && !c.ended() {
					t.Error("the connection stays open")
				}
			} else {
				c.request(101, plainGET, true)
				if got := c.outcome(101); got != "200" {
					t.Errorf("the next request: %q", got)
				}
				seen.Add(-1)
			}
			if n := seen.Load(); tt.seen >= 0 && n != tt.seen && tt.want != "200" || tt.want == "200" && n != 1 {
				t.Errorf("the backend saw %d requests, want %d", n, tt.seen)
			}
			if tt.seen < 0 && whole.Load() > 0 {
				t.Error("the backend got a body as if it were whole")
			}
			if strings.Contains(r.log.String(), "panic") {
				t.Error(r.log.String())
			}
		})
	}
}

// TestH2StreamLimit holds as many requests open as there may be. The next one is
// refused, also if the client has reset some: their handlers still run.
func TestH2StreamLimit(t *testing.T) {
	let := make(chan struct{})
	var now, most atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		select {
		case <-let:
		case <-r.Context().Done():
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 1 << 40 })
	c := r.h2()
	id := uint32(1)
	for range h2MaxStreams {
		c.request(id, plainGET, true)
		id += 2
	}
	eventually(t, "all reach the backend", func() bool { return now.Load() == h2MaxStreams })
	c.request(id, plainGET, true)
	if got := c.outcome(id); got != "reset REFUSED_STREAM" {
		t.Errorf("one too many: %s", got)
	}
	for i := range uint32(50) {
		c.try(c.WriteRSTStream(1+2*i, http2.ErrCodeCancel))
	}
	id += 2
	c.request(id, plainGET, true)
	if got := c.outcome(id); got != "reset REFUSED_STREAM" {
		t.Errorf("with 50 reset: %s", got)
	}
	close(let)
	eventually(t, "handlers end", func() bool { return now.Load() == 0 })
	eventually(t, "there is room again", func() bool {
		id += 2
		c.request(id, plainGET, true)
		return c.outcome(id) == "200"
	})
	if n := most.Load(); n > h2MaxStreams {
		t.Errorf("%d requests at once", n)
	}
	if c.settings[http2.SettingMaxConcurrentStreams] != h2MaxStreams {
		t.Error(fmt.Sprint(c.settings))
	}
}
