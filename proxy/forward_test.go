package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// echoHead answers with the raw head that it got.
func echoHead(t testing.TB, fields string) netip.AddrPort {
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				head.WriteString(line)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 Fine\r\n%sContent-Length: %d\r\n\r\n%s", fields, head.Len(), head.String())
		}
	})
}

// has reports whether a raw head has exactly this line.
func has(head, line string) bool { return strings.Contains("\r\n"+head, "\r\n"+line+"\r\n") }

func TestRequestFields(t *testing.T) {
	addr := echoHead(t, "")
	cfg := site(addr)
	trusting := site(addr)
	trusting.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		name    string
		cfg     Config
		send    []string
		want    []string
		unwoken []string // must not be part of any line, in lower case
	}{
		{name: "ours are set", cfg: cfg,
			want: []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: app.test:81", "X-Forwarded-Proto: http", "X-Forwarded-Port: 81",
				"X-Real-IP: 127.0.0.1", "Via: 1.1 gatecontrol", "Host: app.test:81"}},
		{name: "theirs are not believed", cfg: cfg,
			send: []string{"X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 7.7.7.7", "X_Forwarded_For: 6.6.6.6", "X-Forwarded_Proto: evil", "X-Real-Ip: 6.6.6.6",
				"Forwarded: for=6.6.6.6", "X-Gateway-Target: evil", "x_gateway_anything: evil", "X-Route-Domain: evil", "X-Forwarded-Host: evil", "X-Forwarded-Proto: evil", "X-Forwarded-Port: 666"},
			want:    []string{"X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "X-Forwarded-Proto: http"},
			unwoken: []string{"6.6.6.6", "7.7.7.7", "evil", "666", "x_forwarded", "forwarded: for", "gateway-target"}},
		{name: "a trusted proxy is believed", cfg: trusting,
			send: []string{"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: out.test", "X-Forwarded-Port: 443",
				"X-Real-IP: 6.6.6.6", "X_Forwarded_Proto: evil"},
			want: []string{"X-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: out.test", "X-Forwarded-Port: 443",
				"X-Real-IP: 127.0.0.1"},
			unwoken: []string{"evil"}},
		{name: "fields of the hop", cfg: cfg,
			send: []string{"Connection: keep-alive, X-Hop, close2", "Connection: X-Other", "X-Hop: gone", "x-other: gone", "Close2: gone", "Keep-Alive: gone",
				"Proxy-Connection: gone", "Proxy-Authorization: gone", "Proxy-Anything: gone", "TE: gzip, trailers", "Upgrade: gone", "HTTP2-Settings: gone", "Expect-Not: stays"},
			want:    []string{"TE: trailers", "Connection: TE", "Expect-Not: stays"},
			unwoken: []string{"gone", "keep-alive"}},
		{name: "what connection cannot remove", cfg: cfg,
			send: []string{"Connection: Host, Cookie, Authorization, Content-Type, X-Forwarded-For, X-Real-IP, Via", "Cookie: a=b", "Authorization: Bearer x", "Content-Type: text/x"},
			want: []string{"Host: app.test:81", "Cookie: a=b", "Authorization: Bearer x", "Content-Type: text/x", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Via: 1.1 gatecontrol"}},
		{name: "h2c is no upgrade", cfg: cfg,
			send:    []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"},
			unwoken: []string{"h2c", "upgrade", "settings"}},
		{name: "a list of protocols is no upgrade", cfg: cfg,
			send:    []string{"Connection: Upgrade", "Upgrade: websocket, h2c"},
			unwoken: []string{"upgrade", "websocket"}},
		{name: "upgrade without connection", cfg: cfg, send: []string{"Upgrade: websocket"}, unwoken: []string{"upgrade"}},
		{name: "our cookies", cfg: cfg,
			send:    []string{`Cookie: a="b c"; gc.sid=secret1; x=;gc.route.sid=secret2;  gc.sidx=y; =z`},
			want:    []string{`Cookie: a="b c"; x=;  gc.sidx=y; =z`},
			unwoken: []string{"secret"}},
		{name: "our cookie first", cfg: cfg, send: []string{"Cookie: gc.sid=secret1; a=b"}, want: []string{"Cookie: a=b"}, unwoken: []string{"secret"}},
		{name: "our cookies alone", cfg: cfg, send: []string{"Cookie: gc.sid=secret1"}, unwoken: []string{"cookie"}},
		{name: "names keep their spelling", cfg: cfg,
			send: []string{"sec-WebSocket-kEY: x", "x-y_z: 1", "X-y_z: 2", "User-Agent: u", "ACCEPT-encoding: zstd", "Content-TYPE: a", "date: d"},
			want: []string{"sec-WebSocket-kEY: x", "x-y_z: 1", "X-y_z: 2", "User-Agent: u", "ACCEPT-encoding: zstd", "Content-TYPE: a", "date: d"}},
		{name: "no field is added beside ours", cfg: cfg, unwoken: []string{"user-agent", "accept", "content-type", "content-length", "transfer-encoding", "connection"}},
		{name: "via grows", cfg: cfg, send: []string{"Via: 1.0 front"}, want: []string{"Via: 1.0 front", "Via: 1.1 gatecontrol"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			c := r.dial()
			fmt.Fprintf(c, "GET /%%41/../b?c=d HTTP/1.1\r\nHost: app.test:81\r\n%s\r\n\r\n", strings.Join(append(tt.send, "X-Last: 1"), "\r\n"))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(t, resp)
			for _, line := range append(tt.want, "GET /%41/../b?c=d HTTP/1.1", "X-Last: 1") {
				if !has(got, line) {
					t.Errorf("no line %q", line)
				}
			}
			for _, part := range tt.unwoken {
				if strings.Contains(strings.ToLower(got), part) {
					t.Errorf("%q is still there", part)
				}
			}
			if t.Failed() {
				t.Logf("backend got\n%s", got)
			}
		})
	}
}

func TestSecureFields(t *testing.T) {
	r := newRig(t, site(echoHead(t, "")))
	resp, body := get(t, r.client(), "https://app.test/")
	for _, line := range []string{"X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: app.test"} {
		if !has(body, line) {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
	if resp.Header.Get("Via") != "1.1 gatecontrol" {
		t.Errorf("Via of the answer is %q", resp.Header.Get("Via"))
	}
}

func TestAnswerFields(t *testing.T) {
	addr := echoHead(t, "Connection: X-Hop, Keep-Alive\r\nX-Hop: gone\r\nKeep-Alive: gone\r\nProxy-Authenticate: gone\r\nUpgrade: gone\r\n"+
		"Date: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: Backend/1\r\nset-cookie: a=b; Path=/x\r\nSet-Cookie: a=b; Path=/y\r\n"+
		"Set-Cookie: gc.sid=stolen\r\nSet-Cookie: gc.route.sid = stolen\r\nx-SpellED: Kept\r\nX-Twice: 1\r\nX-Twice: 2\r\nVia: 1.1 inner\r\n")
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

// pattern is an endless stream that a test can check without keeping it. Its
// period fits no buffer size, so that no piece can be lost or doubled unseen.
type pattern struct{ at int }

const period = 65521

var slab = func() []byte {
	b := make([]byte, 2*period)
	for i := range b {
		b[i] = byte(i % period * 31 >> 3)
	}
	return b
}()

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, slab[p.at:p.at+period])
	p.at = (p.at + n) % period
	return n, nil
}

// checker takes the same stream and counts it.
type checker struct {
	at    int
	n     int64
	wrong bool
}

func (c *checker) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), period)
		if !bytes.Equal(b[:n], slab[c.at:c.at+n]) {
			c.wrong = true
		}
		c.at = (c.at + n) % period
		b = b[n:]
	}
	c.n += int64(total)
	return total, nil
}

// heapGrowth runs f and returns by how much the heap in use grew meanwhile.
func heapGrowth(f func()) uint64 {
	var before, m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				done <- most - min(most, before.HeapInuse)
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	return <-done
}

func TestStreaming(t *testing.T) {
	const size = 96 << 20
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			var c checker
			_, err := io.Copy(&c, r.Body)
			fmt.Fprintf(w, "%d %v %v", c.n, c.wrong, err)
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.CopyN(w, new(pattern), size)
	})
	r := newRig(t, site(addr))
	c := r.client()
	const bound = 24 << 20
	for _, scheme := range []string{"http", "https"} {
		for _, path := range []string{"/length", "/chunked"} {
			t.Run("down "+scheme+path, func(t *testing.T) {
				grew := heapGrowth(func() {
					resp, err := c.Get(scheme + "://app.test" + path)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					var c checker
					if _, err := io.Copy(&c, resp.Body); c.n != size || c.wrong || err != nil {
						t.Errorf("%d bytes, wrong %v, %v", c.n, c.wrong, err)
					}
				})
				if grew > bound {
					t.Errorf("heap grew by %d MiB", grew>>20)
				}
			})
			t.Run("up "+scheme+path, func(t *testing.T) {
				grew := heapGrowth(func() {
					req, _ := http.NewRequest("POST", scheme+"://app.test/", io.LimitReader(new(pattern), size))
					if path == "/length" {
						req.ContentLength = size
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					if got, want := readAll(t, resp), fmt.Sprintf("%d false <nil>", size); got != want {
						t.Errorf("got %s, want %s", got, want)
					}
				})
				if grew > bound {
					t.Errorf("heap grew by %d MiB", grew>>20)
				}
			})
		}
	}
}

// TestBackpressure has a client that reads nothing: the backend must come to a
// halt, and the client get every byte in the end.
func TestBackpressure(t *testing.T) {
	const size = 64 << 20
	var sent atomic.Int64
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		b := make([]byte, 64<<10)
		for range size / len(b) {
			if _, err := w.Write(b); err != nil {
				return
			}
			sent.Add(int64(len(b)))
		}
	})
	r := newRig(t, site(addr))
	c := r.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	eventually(t, "the backend starts", func() bool { return sent.Load() > 0 })
	halted := int64(-1)
	eventually(t, "the backend halts", func() bool {
		was := halted
		halted = sent.Load()
		time.Sleep(50 * time.Millisecond)
		return was == halted
	})
	if halted > size/2 {
		t.Errorf("%d MiB were taken from the backend for nobody", halted>>20)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestEventStream(t *testing.T) {
	step := make(chan struct{})
	ended := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for i := 0; ; i++ {
			select {
			case <-step:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://app.test/", nil)
	resp, err := r.client().Do(req) // returns with the head alone
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		step <- struct{}{}
		line, err := br.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		br.ReadString('\n')
	}
	// The backend is silent when the client leaves: it must hear of that.
	resp.Body.Close()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("the backend was not told that the client left")
	}
}

func TestSlowBodyWithLength(t *testing.T) {
	step := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		for range 3 {
			w.(http.Flusher).Flush()
			<-step
			io.WriteString(w, "x")
		}
	})
	r := newRig(t, site(addr))
	resp, err := r.client().Get("http://app.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 3 {
		step <- struct{}{}
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDuplex has a backend that answers while it reads.
func TestDuplex(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := br.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(c, size)
			line, _ := br.ReadString('\n')
			io.WriteString(c, line)
			if size == "0\r\n" {
				return
			}
		}
	})
	r := newRig(t, site(addr))
	c := r.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		fmt.Fprintf(c, "2\r\n%d\n\r\n", i)
		b := make([]byte, 2)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != fmt.Sprintf("%d\n", i) {
			t.Fatalf("%q %v", b, err)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil {
		t.Errorf("%q %v", b, err)
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
			closeNow := make(chan struct{}, 1)
			addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
				requests.Add(1)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				<-closeNow
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
				time.Sleep(20 * time.Millisecond) // lets the end arrive; without it the test passes as well
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
		}, "", 504, []string{"does not answer"}},
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

func TestAdminHost(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "gc.sid", Value: "new"})
		fmt.Fprintf(w, "%s|%s|%s|%s", r.Host, r.Header.Get("Cookie"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	})}
	go api.Serve(ln)
	defer api.Close()
	r := newRig(t, Config{AdminHosts: []string{"admin.test", "127.0.0.1"}}, func(o *Options, _ *limits) {
		o.HTTPSPort = 8443
		o.DialAdmin = func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	})
	c := r.client()
	resp, _ := get(t, c, "http://admin.test/x?y=z")
	if resp.StatusCode != 308 || resp.Header.Get("Location") != "https://admin.test:8443/x?y=z" {
		t.Errorf("%d %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	req, _ := http.NewRequest("GET", "https://admin.test/", nil)
	req.Header.Set("Cookie", "gc.sid=old")
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	resp, err = c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "admin.test|gc.sid=old|https|127.0.0.1" {
		t.Errorf("API saw %q", body)
	}
	if resp.Header.Get("Set-Cookie") != "gc.sid=new" {
		t.Errorf("Set-Cookie %q", resp.Header.Get("Set-Cookie"))
	}
	// Without SNI, by address.
	if resp, body := get(t, c, "https://127.0.0.1/"); resp.StatusCode != 200 || !strings.HasPrefix(body, "127.0.0.1|") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}
