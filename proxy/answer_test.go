package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAnswerFields(t *testing.T) {
	addr := echoHead(t, "Connection: X-Hop, Keep-Alive\r\nX-Hop: gone\r\nKeep-Alive: gone\r\nProxy-Authenticate: gone\r\nUpgrade: gone\r\n"+
		"Date: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: Backend/1\r\nset-cookie: a=b; Path=/x\r\nSet-Cookie: a=b; Path=/y\r\n"+
		"Set-Cookie: gc.sid=stolen\r\nSet-Cookie: gc.route.sid = stolen\r\nSet-Cookie: =gc.sid=stolen; Domain=test\r\n"+
		"Set-Cookie: = gc.route.sid=stolen\r\nSet-Cookie: gc.sid; Path=/stolen\r\nx-SpellED: Kept\r\nX-Twice: 1\r\nX-Twice: 2\r\nVia: 1.1 inner\r\n")
	r := newRig(t, site(addr))
	got := r.raw("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
	head, _, _ := strings.Cut(got, "\r\n\r\n")
	head += "\r\n"
	for _, line := range []string{"HTTP/1.1 200 Fine", "Date: Mon, 01 Jan 2001 00:00:00 GMT", "Server: Backend/1", "Set-Cookie: a=b; Path=/x",
		"Set-Cookie: a=b; Path=/y", "x-SpellED: Kept", "X-Twice: 1", "X-Twice: 2", "Via: 1.1 inner", "Via: 1.1 gatecontrol", "Connection: close"} {
		if !has(head, line) {
			t.Errorf("no line %q", line)
		}
	}
	for _, part := range []string{"gone", "stolen", "fasthttp", "X-Hop"} {
		if strings.Contains(head, part) {
			t.Errorf("%q is still there", part)
		}
	}
	if t.Failed() {
		t.Logf("client got\n%s", head)
	}
}

// TestAnswers feeds raw answers, and says what the client must see of them.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, request, answer string
		status                int
		body                  string
		broken                bool // the body ends in an error
		reuse                 bool // the backend connection serves the next request
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200, body: "abc", reuse: true},
		{name: "chunked", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n", status: 200, body: "abcde", reuse: true},
		{name: "until close", answer: "HTTP/1.1 200 OK\r\n\r\nabc", status: 200, body: "abc"},
		{name: "http 1.0", answer: "HTTP/1.0 200 OK\r\n\r\nabc", status: 200, body: "abc"},
		{name: "no reason", answer: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", status: 200, reuse: true},
		{name: "lone LF", answer: "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", status: 200, body: "abc", reuse: true},
		{name: "interim answers", answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", status: 200, body: "a", reuse: true},
		{name: "204 with a body", answer: "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", status: 204},
		{name: "304 with a length", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", status: 304, reuse: true},
		{name: "head", request: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", status: 200, reuse: true},
		{name: "head, no length", request: "HEAD", answer: "HTTP/1.1 200 OK\r\n\r\n", status: 200, reuse: true},
		{name: "head with a body", request: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200},
		{name: "more than promised", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen", status: 200, body: "abc"},
		{name: "close", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", status: 200, body: "abc"},
		{name: "shorter than promised", answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", status: 200, body: "abc", broken: true},
		{name: "chunks end early", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", status: 200, body: "abc", broken: true},
		{name: "bad chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", status: 200, body: "abc", broken: true},
		{name: "nothing", answer: "", status: 502},
		{name: "half a head", answer: "HTTP/1.1 200 OK\r\nContent-Le", status: 502},
		{name: "no http", answer: "SSH-2.0-x\r\n\r\n", status: 502},
		{name: "http 2", answer: "HTTP/2.0 200 OK\r\n\r\n", status: 502},
		{name: "bad status", answer: "HTTP/1.1 20x OK\r\n\r\n", status: 502},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", status: 502},
		{name: "length and coding", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 502},
		{name: "bad length", answer: "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", status: 502},
		{name: "other coding", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", status: 502},
		{name: "control byte", answer: "HTTP/1.1 200 OK\r\nX: a\x01\r\nContent-Length: 0\r\n\r\n", status: 502},
		{name: "folded", answer: "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", status: 502},
		{name: "unasked upgrade", answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", status: 502},
		{name: "endless interim answers", answer: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), status: 502},
		{name: "endless head", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10), status: 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var conns atomic.Int32
			addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
				conns.Add(1)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					if req.URL.Path == "/next" {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
						continue
					}
					io.WriteString(c, tt.answer)
					if !tt.reuse {
						return
					}
				}
			})
			r := newRig(t, site(addr))
			c := r.client()
			if tt.request == "" {
				tt.request = "GET"
			}
			req, _ := http.NewRequest(tt.request, "http://app.test/", nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.status || (err != nil) != tt.broken || tt.status != 502 && string(b) != tt.body {
				t.Errorf("got %d %q %v", resp.StatusCode, b, err)
			}
			if resp, body := get(t, c, "http://app.test/next"); resp.StatusCode != 200 || body != "next" {
				t.Errorf("next: %d %q", resp.StatusCode, body)
			}
			if n := conns.Load(); (n == 1) != tt.reuse {
				t.Errorf("%d backend connections", n)
			}
		})
	}
}

func TestAnswerToHTTP10(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "abc")
		w.(http.Flusher).Flush()
		io.WriteString(w, "def")
	})
	r := newRig(t, site(addr))
	got := r.raw("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n")
	if !strings.HasSuffix(got, "\r\n\r\nabcdef") || strings.Contains(got, "chunked") {
		t.Errorf("got %q", got)
	}
	c := r.dial()
	io.WriteString(c, "GET /cut HTTP/1.0\r\nHost: app.test\r\n\r\n")
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("a body that was cut ended clean: %q", b)
	}
}

func TestTrailers(t *testing.T) {
	var got http.Header
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum, Content-Length")
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = r.Trailer
		w.Write(b)
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "2")
	})
	r := newRig(t, site(addr))
	req, _ := http.NewRequest("POST", "http://app.test/", io.MultiReader(strings.NewReader("body")))
	req.Trailer = http.Header{"X-In": {"1"}, "X-Gateway-Y": {"evil"}}
	resp, err := r.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "body" {
		t.Errorf("%d, body %q", resp.StatusCode, body)
	}
	if got.Get("X-In") != "1" || got.Get("X-Gateway-Y") != "" {
		t.Errorf("backend got trailers %v", got)
	}
	if resp.Trailer.Get("X-Sum") != "2" {
		t.Errorf("client got trailers %v", resp.Trailer)
	}
}
