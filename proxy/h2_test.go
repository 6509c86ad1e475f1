package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// via2 is an HTTP/2 client of the rig.
func (r *rig) via2() *http.Client { return &http.Client{Transport: transportHTTP2(r)} }

// random is n bytes that a hash tells from any others.
func random(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1, 2, 3}), n)
}

func sumOf(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestH2Large carries 100 MiB each way at once, with and without a length.
func TestH2Large(t *testing.T) {
	size := int64(100 << 20)
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got := make(chan hash.Hash)
		go func() {
			h := sha256.New()
			_, _ = io.Copy(h, r.Body)
			got <- h
		}()
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		if r.Header.Get("X-Length") != "" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = io.Copy(w, random(size))
		w.Header().Set("X-Sum", fmt.Sprintf("%x", (<-got).Sum(nil)))
	})
	r := newRig(t, site(addr))
	for _, length := range []int64{size, -1} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			want := sumOf(t, random(size))
			req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(random(size)))
			if req.ContentLength = length; length > 0 {
				req.Header.Set("X-Length", "yes")
			}
			resp, err := r.via2().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := sumOf(t, resp.Body); got != want {
				t.Error("the download differs")
			}
			if got := resp.Trailer.Get("X-Sum"); length < 0 && got != want {
				t.Errorf("the upload differs: %q", got)
			}
		})
	}
}

// TestH2Duplex has a backend answer each line before the next one is sent.
func TestH2Duplex(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "%s!\n", lines.Text())
			_ = rc.Flush()
		}
	})
	r := newRig(t, site(addr))
	in, out := io.Pipe()
	req, _ := http.NewRequest("POST", "https://app.test/", in)
	resp, err := r.via2().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 20 {
		fmt.Fprintf(out, "line %d\n", i)
		if got, err := answers.ReadString('\n'); err != nil || got != fmt.Sprintf("line %d!\n", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestH2Trailers(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Seen, X-Real-IP")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Seen", fmt.Sprint(r.Trailer))
		w.Header().Set("X-Real-IP", "192.0.2.1")
	})
	r := newRig(t, site(addr))
	req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(strings.NewReader("x")))
	req.ContentLength = -1
	req.Header.Set("TE", "trailers")
	req.Trailer = http.Header{"X-Sum": {"42"}}
	resp, err := r.via2().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "body" {
		t.Errorf("body %q", body)
	}
	if got := fmt.Sprint(resp.Trailer); got != "map[X-Seen:[map[X-Sum:[42]]]]" {
		t.Errorf("trailers %s", got)
	}
}

// TestH2Cancel resets a request while the backend is silent, while it answers, and
// while it reads: each time the backend must learn of it.
func TestH2Cancel(t *testing.T) {
	for _, state := range []string{"silent", "answering", "reading"} {
		t.Run(state, func(t *testing.T) {
			begun, gone := make(chan struct{}), make(chan struct{})
			addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
				close(begun)
				defer close(gone)
				switch state {
				case "answering":
					for r.Context().Err() == nil {
						if _, err := w.Write(make([]byte, 1<<10)); err != nil {
							return
						}
					}
				case "reading":
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						t.Error("a cut body was taken for a whole one")
					}
				default:
					<-r.Context().Done()
				}
			})
			r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
			ctx, cancel := context.WithCancel(context.Background())
			var body io.Reader
			if state == "reading" {
				in, out := io.Pipe()
				defer out.Close()
				body = in
			}
			req, _ := http.NewRequestWithContext(ctx, "POST", "https://app.test/", body)
			done := make(chan struct{})
			go func() {
				defer close(done)
				resp, err := r.via2().Do(req)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			<-begun
			cancel()
			<-done
			<-gone
		})
	}
}

// TestH2Events reads each event before the next one is sent.
func TestH2Events(t *testing.T) {
	next := make(chan int)
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for n := range next {
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush()
		}
	})
	r := newRig(t, site(addr))
	resp, err := r.via2().Get("https://app.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	for n := range 20 {
		next <- n
		for _, want := range []string{fmt.Sprintf("data: %d\n", n), "\n"} {
			if got, err := events.ReadString('\n'); err != nil || got != want {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	close(next)
	if _, err := events.ReadByte(); err != io.EOF {
		t.Errorf("no clean end: %v", err)
	}
}

// TestH2Short has a backend that ends its body short. The client must not take
// the part for the whole.
func TestH2Short(t *testing.T) {
	for _, head := range []string{"Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"} {
		t.Run(head, func(t *testing.T) {
			addr := rawBackend(t, func(c net.Conn, b *bufio.Reader) {
				if _, err := http.ReadRequest(b); err != nil {
					return
				}
				part := "a part"
				if strings.Contains(head, "chunked") {
					part = "6\r\n" + part + "\r\n"
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n"+part)
			})
			c := newRig(t, site(addr)).h2()
			c.request(1, plainGET, true)
			if got := c.outcome(1); got != "200" {
				t.Fatal(got)
			}
			if data, end := c.body(1); data != "a part" || end != "reset INTERNAL_ERROR" {
				t.Errorf("%q, %s", data, end)
			}
		})
	}
}

// TestH2Expect has the body wait until the backend was reached.
func TestH2Expect(t *testing.T) {
	const post = ":method POST\n:scheme https\n:authority %s\n:path /\nexpect 100-continue\ncontent-length 5\n"
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	r := newRig(t, site(addr))
	c := r.h2()
	c.request(1, fmt.Sprintf(post, "app.test"), false)
	if got := c.outcome(1); got != "100" {
		t.Fatalf("before the body: %s", got)
	}
	c.try(c.WriteData(1, true, []byte("hello")))
	if got := c.outcome(1); got != "200" {
		t.Fatal(got)
	}
	if data, end := c.body(1); data != "hello" || end != "end" {
		t.Errorf("%q, %s", data, end)
	}
	c.request(3, fmt.Sprintf(post, "other.test"), false)
	if got := c.outcome(3); got != "421" {
		t.Errorf("refused by a gate: %s before anything else", got)
	}
	if _, end := c.body(3); end != "end" {
		t.Error(end)
	}
	if got := c.outcome(3); got != "reset NO_ERROR" {
		t.Errorf("behind the answer: %s", got)
	}
}

// TestH2Heads compares methods and answers that have no body.
func TestH2Heads(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.Header().Set("X-MiXed", "Case")
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})
	c := newRig(t, site(addr)).h2()
	for i, tt := range []struct{ method, path, status, length string }{
		{"HEAD", "/", "200", "5"},
		{"GET", "/", "200", "5"},
		{"GET", "/204", "204", ""},
		{"GET", "/304", "304", ""},
	} {
		id := uint32(2*i + 1)
		c.request(id, ":method "+tt.method+"\n:scheme https\n:authority app.test\n:path "+tt.path+"\n", true)
		var e event
		for e = c.next(); e.StreamID != id; e = c.next() {
		}
		if e.status != tt.status || e.fields["content-length"] != tt.length || e.fields["via"] != "1.1 gatecontrol" || e.fields["date"] == "" {
			t.Errorf("%s %s: %v", tt.method, tt.path, e.fields)
		}
		for _, name := range []string{"connection", "transfer-encoding", "keep-alive"} {
			if e.fields[name] != "" {
				t.Errorf("%s %s: %s", tt.method, tt.path, name)
			}
		}
		if bodiless := tt.length == "" || tt.method == "HEAD"; bodiless != e.Flags.Has(http2.FlagHeadersEndStream) {
			t.Errorf("%s %s: end %v", tt.method, tt.path, e.Flags)
		} else if !bodiless {
			if e.fields["x-mixed"] != "Case" || e.fields["set-cookie"] != "b=2" {
				t.Error(e.fields)
			}
			if data, end := c.body(id); data != "hello" || end != "end" {
				t.Errorf("%q %s", data, end)
			}
		}
	}
}

// TestH2WebSocket opens a WebSocket by extended CONNECT (RFC 8441) to a backend
// that speaks HTTP/1.1.
func TestH2WebSocket(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" {
			w.WriteHeader(200) // no upgrade
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			_ = c.Write(r.Context(), kind, append([]byte("echo "), data...))
		}
	})
	connect := ":method CONNECT\n:protocol websocket\n:scheme https\n:authority app.test\n:path %s\nsec-websocket-version 13\nsec-websocket-protocol echo\n"
	r := newRig(t, site(addr))
	c := r.h2()
	c.request(1, fmt.Sprintf(connect, "/ws"), false)
	var e event
	for e = c.next(); e.StreamID != 1; e = c.next() {
	}
	if e.status != "200" || e.fields["sec-websocket-protocol"] != "echo" || e.fields["sec-websocket-accept"] != "" || e.fields["upgrade"] != "" {
		t.Fatalf("answer %v", e.fields)
	}
	if c.settings[http2.SettingEnableConnectProtocol] != 1 {
		t.Error("extended CONNECT is not announced")
	}
	message := func(text string) []byte { // a masked text frame (RFC 6455, section 5.2)
		b := []byte{0x81, 0x80 | byte(len(text)), 1, 2, 3, 4}
		for i := range len(text) {
			b = append(b, text[i]^byte(i%4+1))
		}
		return b
	}
	for _, text := range []string{"one", "two"} {
		c.try(c.WriteData(1, false, message(text)))
		want := "\x81" + string(rune(len("echo "+text))) + "echo " + text
		for got := ""; got != want; {
			if e = c.next(); e.err != nil || !strings.HasPrefix(want, got+e.data) {
				t.Fatalf("%q and %v, want %q", got+e.data, e.err, want)
			}
			got += e.data
		}
	}
	c.try(c.WriteData(1, true, []byte{0x88, 0x80, 0, 0, 0, 0})) // close
	if _, end := c.body(1); end != "end" {
		t.Errorf("the end: %s", end)
	}

	c.request(3, fmt.Sprintf(connect, "/none"), false)
	if got := c.outcome(3); got != "502" {
		t.Errorf("a backend that does not upgrade: %s", got)
	}
	eventually(t, "no upgrade is open", func() bool {
		r.srv.upgrades.mu.Lock()
		defer r.srv.upgrades.mu.Unlock()
		return len(r.srv.upgrades.open) == 0
	})
}
