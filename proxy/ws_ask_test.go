package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

// TestWebSocketNegotiation asks for sub-protocols and extensions, and has the backend
// choose. What both say of them is theirs, to the byte.
func TestWebSocketNegotiation(t *testing.T) {
	offers := []string{`permessage-deflate; client_max_window_bits; x="a, \"b\""`, "x-webkit-deflate-frame,  other"}
	const chosen = `permessage-deflate;server_max_window_bits=10 ; x="y"`
	got := make(chan *http.Request, 1)
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, req *http.Request) {
		got <- req
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n"+
			"Sec-WebSocket-Extensions: %s\r\nSec-WebSocket-Protocol: chat.v2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nX-Extra: yes\r\n\r\n",
			acceptOf(req.Header.Get("Sec-WebSocket-Key")), chosen)
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})))
	// Bytes that are no frames at all, compressed or not: they go as they are.
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, way := range socketWays {
		t.Run(way.name, func(t *testing.T) {
			c, err := way.dial(t, r)("/chat?a=%2f&b", http.Header{
				"Sec-Websocket-Extensions": offers, "Sec-Websocket-Protocol": {"chat.v1, chat.v2"},
				"Origin": {"https://elsewhere.test"}, "Cookie": {"session=1"},
			})
			if err != nil || c.duplex == nil {
				t.Fatalf("%d %v", c.status, err)
			}
			defer c.Close()
			req := <-got
			h := req.Header
			if req.Method != "GET" || req.RequestURI != "/chat?a=%2f&b" || req.Host != "app.test" || req.Proto != "HTTP/1.1" {
				t.Errorf("the backend got %s %s %s for %s", req.Method, req.RequestURI, req.Proto, req.Host)
			}
			if !slices.Equal(h["Sec-Websocket-Extensions"], offers) || h.Get("Sec-WebSocket-Protocol") != "chat.v1, chat.v2" {
				t.Errorf("the backend got %q and %q", h["Sec-Websocket-Extensions"], h["Sec-Websocket-Protocol"])
			}
			for name, want := range map[string]string{
				"Origin": "https://elsewhere.test", "Cookie": "session=1", "Sec-Websocket-Version": "13", "Upgrade": "websocket", "Connection": "Upgrade",
			} {
				if v := h[name]; len(v) != 1 || v[0] != want {
					t.Errorf("%s is %q, want %q", name, v, want)
				}
			}
			if len(h["Sec-Websocket-Key"]) != 1 || len(h.Get("Sec-WebSocket-Key")) != 24 {
				t.Errorf("the key is %q", h["Sec-Websocket-Key"])
			}
			if c.header.Get("Sec-WebSocket-Extensions") != chosen || c.header.Get("Sec-WebSocket-Protocol") != "chat.v2" ||
				c.header.Get("X-Extra") != "yes" || !slices.Equal(c.header["Set-Cookie"], []string{"a=b", "c=d"}) {
				t.Errorf("the client got %v", c.header)
			}
			if streams := c.status == 200; streams {
				for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept", "Transfer-Encoding", "Content-Length"} {
					if v, ok := c.header[name]; ok {
						t.Errorf("the client of a stream got %s %q", name, v)
					}
				}
			}
			go c.Write(noise) // ends with the socket
			back := make([]byte, len(noise))
			if _, err := io.ReadFull(c, back); err != nil || !bytes.Equal(back, noise) {
				t.Errorf("other bytes came back, %v", err)
			}
		})
	}
}

// TestWebSocketRefused shows what a client gets instead of a WebSocket: from backends
// that do not want to or cannot, and from the gates of a route.
func TestWebSocketRefused(t *testing.T) {
	say := func(answer string) func(testing.TB) netip.AddrPort {
		return func(t testing.TB) netip.AddrPort {
			return backend(t, func(w http.ResponseWriter, _ *http.Request) {
				if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
					_, _ = io.WriteString(c, answer)
					_ = c.Close()
				}
			})
		}
	}
	for _, tt := range []struct {
		name    string
		backend func(testing.TB) netip.AddrPort
		options *RouteOptions
		status  int
		fields  map[string]string // of the answer on HTTP/1.1
		gone    []string          // of these, on streams
		body    string            // "" if it is a page of ours
		streams int               // the status there, if another
	}{
		{name: "403", backend: say("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nX-Why: origin\r\n\r\nnot you.\n"),
			status: 403, fields: map[string]string{"X-Why": "origin"}, body: "not you.\n"},
		{name: "426", backend: say("HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13, 8\r\nContent-Length: 3\r\n\r\nold"),
			status: 426, fields: map[string]string{"Sec-Websocket-Version": "13, 8", "Upgrade": "websocket", "Connection": "Upgrade"},
			gone: []string{"Upgrade", "Connection"}, body: "old"},
		{name: "a challenge", backend: say("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nno"),
			status: 401, fields: map[string]string{"Www-Authenticate": `Basic realm="x"`}, body: "no"},
		{name: "a redirect", backend: say("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 2\r\n\r\ngo"),
			status: 302, fields: map[string]string{"Location": "/login"}, body: "go"},
		{name: "in chunks", backend: say("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlate\r\n1\r\nr\r\n0\r\n\r\n"), status: 503, body: "later"},
		// To a client of a stream, success would be a WebSocket.
		{name: "success", backend: say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), status: 200, body: "hi", streams: 502},
		{name: "another protocol", backend: say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"), status: 502},
		{name: "silence", backend: say(""), status: 502},
		{name: "nobody there", backend: func(t testing.TB) netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:1") }, status: 502},

		{name: "gate of peers", backend: echoSocket, options: &RouteOptions{ACL: &ACL{}}, status: 403},
		{name: "gate of addresses", backend: echoSocket, options: &RouteOptions{IPFilter: &model.IPFilter{Mode: model.FilterWhitelist}}, status: 403},
		{name: "breaker", backend: echoSocket, options: &RouteOptions{Breaker: &Breaker{RetryAfter: 7 * time.Second}}, status: 503, fields: map[string]string{"Retry-After": "7"}},
		{name: "outside of the tunnel", backend: echoSocket, options: &RouteOptions{Internal: &model.BlockReply{Action: model.BlockEmpty}}, status: 200, streams: 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := site(tt.backend(t))
			cfg.Routes[0].Options = tt.options
			r := newRig(t, cfg)
			for _, way := range socketWays {
				t.Run(way.name, func(t *testing.T) {
					streams := strings.HasPrefix(way.name, "HTTP2") || strings.HasPrefix(way.name, "HTTP3")
					want, body := tt.status, tt.body
					if streams && tt.streams != 0 {
						want, body = tt.streams, ""
					}
					got, err := way.dial(t, r)("/", nil)
					if err != nil || got.duplex != nil || got.status != want || body != "" && got.body != body {
						t.Fatalf("%d %q %v, want %d %q", got.status, got.body, err, want, body)
					}
					for name, value := range tt.fields {
						if streams && slices.Contains(tt.gone, name) {
							value = ""
						}
						if v := got.header.Get(name); v != value {
							t.Errorf("%s is %q, want %q", name, v, value)
						}
					}
					r.srv.upgrades.mu.Lock()
					defer r.srv.upgrades.mu.Unlock()
					if len(r.srv.upgrades.open) != 0 {
						t.Error("an upgrade is registered")
					}
				})
			}
		})
	}
}

// TestWebSocketProof has a backend agree without having read the key. Clients of
// HTTP/1.1 look at that themselves; those of streams get no key, and so we do.
func TestWebSocketProof(t *testing.T) {
	r := newRig(t, site(rawUpgrade(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
		acceptOf(socketKey)+"\r\n\r\n", func(c net.Conn, br *bufio.Reader) { _, _ = io.Copy(c, br) })))
	for _, way := range socketWays {
		t.Run(way.name, func(t *testing.T) {
			want := 502
			if strings.HasSuffix(way.name, "HTTP1") {
				want = 101 // for this key it is the right answer
			}
			got, err := way.dial(t, r)("/", nil)
			if err != nil || got.status != want {
				t.Errorf("%d %v, want %d", got.status, err, want)
			}
			if got.duplex != nil {
				got.Close()
			}
		})
	}
	eventually(t, "no upgrade is open", func() bool {
		r.srv.upgrades.mu.Lock()
		defer r.srv.upgrades.mu.Unlock()
		return len(r.srv.upgrades.open) == 0
	})
}
