package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

// informed is a 1xx that a client got.
type informed struct {
	status int
	fields http.Header
}

// getInformed sends req and has each 1xx reported on got.
func getInformed(c *http.Client, req *http.Request, got chan informed) (*http.Response, error) {
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		select {
		case got <- informed{code, http.Header(h).Clone()}:
			return nil
		default:
			return errors.New("more than the test expects")
		}
	}}
	return c.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// answers is a backend that sends the same to every request.
func answers(t testing.TB, text string) netip.AddrPort {
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	})
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestInterim has a backend hint before it answers, and wait with the answer until
// the client has got the hints. Fields are those that would go on in an answer.
func TestInterim(t *testing.T) {
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		arrived := make(chan struct{})
		addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n"+
				"link: </b.js>\r\nX-Own: backend\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n"+
				"Set-Cookie: gc.sid=evil\r\nAlt-Svc: h3=\":1\"\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
			<-arrived
			_, _ = io.WriteString(c, fine)
		})
		cfg := site(addr)
		cfg.Routes[0].Options = &RouteOptions{Compress: true, Headers: &model.Headers{Response: []model.HeaderField{{Name: "X-Own", Value: "route"}}}}
		r := newRig(t, cfg, func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
		req, _ := http.NewRequest("GET", "https://app.test/", nil)
		got := make(chan informed, 3)
		done := make(chan struct{})
		var resp *http.Response
		var err error
		go func() { // awaited below
			defer close(done)
			resp, err = getInformed(via(r), req, got)
		}()
		hint, busy := await1xx(t, got), await1xx(t, got)
		close(arrived)
		<-done
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); resp.StatusCode != 200 || body != "ok" || len(got) > 0 || resp.Header.Get("Link") != "" || resp.Header.Get("X-Own") != "route" {
			t.Errorf("%d %q %v, %d more", resp.StatusCode, body, resp.Header, len(got))
		}
		if want := (http.Header{"Link": {"</a.css>; rel=preload", "</b.js>"}, "Via": {"1.1 gatecontrol"}}); hint.status != 103 || fmt.Sprint(hint.fields) != fmt.Sprint(want) {
			t.Errorf("%d %v", hint.status, hint.fields)
		}
		if busy.status != 102 {
			t.Errorf("%d %v", busy.status, busy.fields)
		}
	})
}

func await1xx(t testing.TB, got chan informed) informed {
	t.Helper()
	select {
	case i := <-got:
		return i
	case <-time.After(10 * time.Second):
		t.Fatal("no 1xx came")
		panic("unreachable")
	}
}

// TestInterimBounds: 1xx are bounded in number and size, and a 101 that nobody asked
// for is none.
func TestInterimBounds(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"as many as may be", strings.Repeat(hint, maxInterim) + fine, 200},
		{"one more", strings.Repeat(hint, maxInterim+1) + fine, 502},
		{"one more that is swallowed", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxInterim+1) + fine, 502},
		{"too long", "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("a", maxAnswerHead) + "\r\n\r\n" + fine, 502},
		{"too many fields", "HTTP/1.1 103 Early Hints\r\n" + strings.Repeat("X: 1\r\n", 2*maxFields+1) + "\r\n" + fine, 502},
		{"invalid", "HTTP/1.1 103 Early Hints\r\nX y: 1\r\n\r\n" + fine, 502},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + fine, 502},
		{"no answer behind it", hint, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := answers(t, tt.answer)
			if tt.status == 0 {
				addr, _ = recorder(t, tt.answer) // which closes
				tt.status = 502
			}
			r := newRig(t, site(addr))
			for _, s := range speakers {
				if rep := s.speak(t, r, ask{method: "GET", target: "/", host: "app.test"}); rep.status != tt.status || rep.broken {
					t.Errorf("%s: status %d, broken %v", s.name, rep.status, rep.broken)
				}
			}
		})
	}
}

// TestInterimRaw looks at the bytes that clients of HTTP/1 get: those of 1.0 no 1xx,
// those that wait for 100 that first, and those of an upgrade the hint before it.
func TestInterimRaw(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	const passed = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 gatecontrol\r\n\r\n"
	r := newRig(t, site(answers(t, "HTTP/1.1 100 Continue\r\n\r\n"+hint+fine)))
	if got := r.raw("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || strings.Contains(got, "103") {
		t.Errorf("HTTP/1.0: %q", got)
	}
	get := "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	got := r.raw(get + strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	if !strings.HasPrefix(got, passed+"HTTP/1.1 200 OK\r\n") || strings.Count(got, "ok"+passed+"HTTP/1.1 200") != 1 {
		t.Errorf("pipelined: %q", got)
	}

	c := r.dial()
	br := bufio.NewReader(c)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	first := make([]byte, len(proceed))
	if _, err := io.ReadFull(br, first); err != nil || string(first) != proceed {
		t.Fatalf("%q, %v", first, err)
	}
	_, _ = io.WriteString(c, "abc")
	if rest, err := io.ReadAll(br); err != nil || !strings.HasPrefix(string(rest), passed+"HTTP/1.1 200 OK\r\n") {
		t.Errorf("behind 100: %q, %v", rest, err)
	}

	r = newRig(t, site(rawUpgrade(t, hint+switching+"bytes", func(net.Conn, *bufio.Reader) {})))
	got = r.raw("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
	if !strings.HasPrefix(got, passed+"HTTP/1.1 101 Switching Protocols\r\n") || !strings.HasSuffix(got, "\r\n\r\nbytes") {
		t.Errorf("upgrade: %q", got)
	}
}

// TestInterimRetry: an attempt after one that had sent hints goes on as without them,
// but a kept connection that sent some was no dead one.
func TestInterimRetry(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\n\r\n"
	t.Run("by status", func(t *testing.T) {
		var n atomic.Int32
		addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
			for {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				if i := n.Add(1); i == 1 {
					fmt.Fprintf(c, hint+"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n", i)
				} else {
					fmt.Fprintf(c, hint+fine, i)
				}
			}
		})
		forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
			n.Store(0)
			r := newRig(t, retrying(site(addr), 3, 503), soon)
			req, _ := http.NewRequest("GET", "https://app.test/", nil)
			got := make(chan informed, 2)
			resp, err := getInformed(via(r), req, got)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			a, b := await1xx(t, got), await1xx(t, got)
			if links := a.fields.Get("Link") + b.fields.Get("Link"); resp.StatusCode != 200 || links != "</1></2>" {
				t.Errorf("%d, %s", resp.StatusCode, links)
			}
		})
	})
	t.Run("kept connection", func(t *testing.T) {
		var asked []string
		served := make(chan string, 10)
		addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
			for {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				served <- req.URL.Path
				if req.URL.Path == "/dies" {
					fmt.Fprintf(c, hint, 1)
					return
				}
				_, _ = io.WriteString(c, fine)
			}
		})
		r := newRig(t, site(addr))
		c := r.client()
		get(t, c, "http://app.test/first")
		resp, _ := get(t, c, "http://app.test/dies")
		for len(served) > 0 {
			asked = append(asked, <-served)
		}
		if resp.StatusCode != 502 || !slices.Equal(asked, []string{"/first", "/dies"}) {
			t.Errorf("%d, the backend was asked for %v", resp.StatusCode, asked)
		}
	})
}

// TestInterimGRPC has a backend of HTTP/2 hint.
func TestInterimGRPC(t *testing.T) {
	for _, tt := range []struct{ hints, status int }{{3, 200}, {maxInterim, 200}, {maxInterim + 1, 502}, {4 * maxInterim, 502}} {
		t.Run(fmt.Sprint(tt.hints), func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for i := range tt.hints {
					if tt.status == 200 || i == 0 { // net/http may still write the fields of a stream that was reset
						w.Header().Set("Link", fmt.Sprintf("</%d>", i))
					}
					w.WriteHeader(http.StatusEarlyHints)
				}
				if tt.status != 200 {
					return
				}
				w.Header().Del("Link")
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				_, _ = io.WriteString(w, "message")
			}))
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
			t.Cleanup(s.Close)
			r := newRig(t, site(netip.MustParseAddrPort(s.Listener.Addr().String())))
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "POST", "https://app.test/", strings.NewReader("question"))
			req.Header.Set("Content-Type", "application/grpc")
			req.Header.Set("Te", "trailers")
			got := make(chan informed, 5*maxInterim)
			resp, err := getInformed(r.via2(), req, got)
			if err != nil {
				t.Fatal(err)
			}
			body := readAll(t, resp)
			if resp.StatusCode != tt.status || len(got) > maxInterim {
				t.Fatalf("%d, %d hints", resp.StatusCode, len(got))
			}
			if tt.status != 200 {
				return
			}
			if body != "message" || resp.Trailer.Get("Grpc-Status") != "0" || len(got) != tt.hints {
				t.Errorf("%q %v, %d hints", body, resp.Trailer, len(got))
			}
			for i := range tt.hints {
				if link := (<-got).fields.Get("Link"); link != fmt.Sprintf("</%d>", i) {
					t.Errorf("hint %d is %s", i, link)
				}
			}
		})
	}
}
