package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// echoSocket is a WebSocket backend that sends back what it gets.
func echoSocket(t testing.TB) netip.AddrPort {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, site(echoSocket(t)))
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
			defer cancel()
			c, _, err := websocket.Dial(ctx, scheme+"://app.test/ws", &websocket.DialOptions{HTTPClient: r.client()})
			if err != nil {
				t.Fatal(err)
			}
			c.SetReadLimit(-1)
			for _, size := range []int{1, 1000, 100_000, 3_000_000} {
				msg := strings.Repeat("m", size)
				go c.Write(ctx, websocket.MessageText, []byte(msg))
				if _, b, err := c.Read(ctx); err != nil || string(b) != msg {
					t.Fatalf("%d bytes of %d, %v", len(b), size, err)
				}
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// rawUpgrade is a backend that answers an upgrade with answer and then calls f.
func rawUpgrade(t testing.TB, answer string, f func(net.Conn, *bufio.Reader)) netip.AddrPort {
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.URL.Path == "/plain" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			return
		}
		io.WriteString(c, answer)
		f(c, br)
	})
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Custom/2\r\nX-Extra: yes\r\n\r\n"

// TestIdleUpgradeMemory holds many WebSockets on which nothing happens.
func TestIdleUpgradeMemory(t *testing.T) {
	const n, bound = 200, 50 << 10
	r := newRig(t, site(rawUpgrade(t, switching, func(c net.Conn, br *bufio.Reader) { br.ReadByte() })))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		c := r.dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both directions of all run", func() bool {
		r.srv.upgrades.mu.Lock()
		defer r.srv.upgrades.mu.Unlock()
		return len(r.srv.upgrades.open) == n
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / n; each > bound {
		t.Errorf("%d bytes per idle upgrade", each)
	} else {
		t.Logf("%d bytes per idle upgrade", each)
	}
}

// TestUpgradeHalfClose ends one direction at a time, with bytes that come in one
// piece with the heads.
func TestUpgradeHalfClose(t *testing.T) {
	addr := rawUpgrade(t, switching+"early from backend|", func(c net.Conn, br *bufio.Reader) {
		b, _ := io.ReadAll(br) // until the client has ended its direction
		fmt.Fprintf(c, "got %s", b)
	})
	r := newRig(t, site(addr))
	type halfConn interface {
		net.Conn
		CloseWrite() error
	}
	for name, c := range map[string]halfConn{"plain": r.dial().(*net.TCPConn), "tls": r.dialTLS("app.test")} {
		t.Run(name, func(t *testing.T) {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\nearly from client|")
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "Custom/2" || resp.Header.Get("X-Extra") != "yes" {
				t.Fatalf("%v %v", resp, err)
			}
			io.WriteString(c, "more")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(br)
			if want := "early from backend|got early from client|more"; err != nil || string(b) != want {
				t.Errorf("%q %v, want %q", b, err, want)
			}
		})
	}
}

func TestUpgradeBackendEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	addr := rawUpgrade(t, switching, func(c net.Conn, br *bufio.Reader) {
		io.WriteString(c, "bye")
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(br)
		got <- string(b)
	})
	r := newRig(t, site(addr))
	c := r.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(b), "\r\n\r\nbye") {
		t.Fatalf("%q %v", b, err)
	}
	io.WriteString(c, "still here")
	c.Close()
	if s := <-got; s != "still here" {
		t.Errorf("backend got %q", s)
	}
}

func TestUpgradeRefused(t *testing.T) {
	for _, tt := range []struct {
		name, answer, request string
		status                string
	}{
		{"backend does not want to", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "Connection: Upgrade\r\nUpgrade: custom/2", "403"},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n", "Connection: Upgrade\r\nUpgrade: custom/2", "502"},
		{"no connection field", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: custom/2\r\n\r\n", "Connection: Upgrade\r\nUpgrade: custom/2", "502"},
		{"not asked for", switching, "X: y", "502"},
		{"h2c", switching, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x", "502"},
		{"with a body", switching, "Connection: Upgrade\r\nUpgrade: custom/2\r\nContent-Length: 1", "502"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, site(rawUpgrade(t, tt.answer, func(net.Conn, *bufio.Reader) {})))
			end := ""
			if strings.Contains(tt.request, "Content-Length") {
				end = "x"
			}
			got := r.raw("GET / HTTP/1.1\r\nHost: app.test\r\n" + tt.request + "\r\n\r\n" + end +
				"GET /plain HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
			if statuses(got) != tt.status+" 200" {
				t.Errorf("got %q", got)
			}
		})
	}
}
