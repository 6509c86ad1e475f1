package proxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"

	"gatecontrol/model"
)

func compressing(cfg Config) Config {
	if cfg.Routes[0].Options == nil {
		cfg.Routes[0].Options = new(RouteOptions)
	}
	cfg.Routes[0].Options.Compress = true
	return cfg
}

// decoder reads what is in a coding.
func decoder(t testing.TB, name string, r io.Reader) io.Reader {
	t.Helper()
	switch name {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return z
	case "br":
		return brotli.NewReader(r)
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)) // RFC 9659
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(z.Close)
		return z
	}
	return r
}

func TestCompress(t *testing.T) {
	text := strings.Repeat("some text that repeats, ", 400)
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(i * i * 31 >> 3)
	}
	for _, tt := range []struct {
		name, method string
		accept       string
		fields       []string // name, value, of the request
		status       int
		answer       []string // name, value, of the answer
		body         string
		length       bool
		coding       string
		plain        bool // no Vary is added
	}{
		{name: "gzip", accept: "gzip", length: true, coding: "gzip"},
		{name: "br", accept: "br", length: true, coding: "br"},
		{name: "zstd", accept: "zstd", length: true, coding: "zstd"},
		{name: "unknown length", accept: "gzip, deflate, br, zstd", coding: "zstd"},
		{name: "what a browser sends", accept: "gzip, deflate, br", coding: "br"},
		{name: "weights", accept: "zstd;q=0.1, br;q=0.5, gzip;q=0.9", coding: "gzip"},
		{name: "refused", accept: "zstd;q=0, br;q=0.000, gzip", coding: "gzip"},
		{name: "anything", accept: "*", coding: "zstd"},
		{name: "anything else", accept: "zstd;q=0, *;q=0.5", coding: "br"},
		{name: "identity first", accept: "identity, gzip;q=0.5"},
		{name: "none that we have", accept: "deflate, compress"},
		{name: "nothing"},
		{name: "upper case", accept: "GZIP;Q=1.0", coding: "gzip"},
		{name: "not a weight", accept: "gzip;q=1.5, br;q=x"},
		{name: "json", accept: "gzip", answer: []string{"Content-Type", "application/json; charset=utf-8"}, coding: "gzip"},
		{name: "problem json", accept: "gzip", answer: []string{"Content-Type", "application/problem+json"}, coding: "gzip"},
		{name: "svg", accept: "gzip", answer: []string{"Content-Type", "image/svg+xml"}, coding: "gzip"},
		{name: "picture", accept: "gzip", answer: []string{"Content-Type", "image/png"}, plain: true},
		{name: "grpc", accept: "gzip", answer: []string{"Content-Type", "application/grpc"}, plain: true},
		{name: "no type", accept: "gzip", answer: []string{"Content-Type", ""}, plain: true},
		{name: "short", accept: "gzip", body: text[:511], length: true, plain: true},
		{name: "just long enough", accept: "gzip", body: text[:512], length: true, coding: "gzip"},
		{name: "grows", accept: "gzip", body: string(noise[:600]), length: true},
		{name: "encoded already", accept: "gzip", answer: []string{"Content-Encoding", "deflate"}, plain: true},
		{name: "part", accept: "gzip", status: 206, answer: []string{"Content-Range", "bytes 0-9599/20000"}, plain: true},
		{name: "not to be changed", accept: "gzip", answer: []string{"Cache-Control", "public, no-transform"}, plain: true},
		{name: "client says so", accept: "gzip", fields: []string{"Cache-Control", "no-transform"}},
		{name: "digest", accept: "gzip", answer: []string{"Repr-Digest", "sha-256=:AA==:"}, plain: true},
		{name: "error page", accept: "gzip", status: 500, coding: "gzip"},
		{name: "varies already", accept: "gzip", answer: []string{"Vary", "Origin, Accept-Encoding"}, coding: "gzip", plain: true},
		{name: "varies by something else", accept: "gzip", answer: []string{"Vary", "Origin"}, coding: "gzip"},
		{name: "HEAD", method: "HEAD", accept: "gzip", length: true, coding: "gzip"},
		{name: "HEAD, short", method: "HEAD", accept: "gzip", body: text[:511], length: true, plain: true},
		{name: "HEAD, picture", method: "HEAD", accept: "gzip", length: true, answer: []string{"Content-Type", "image/png"}, plain: true},
	} {
		if tt.body == "" {
			tt.body = text
		}
		addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Type", "text/html")
			h.Set("ETag", `"tag"`)
			h.Set("Accept-Ranges", "bytes")
			for i := 0; i < len(tt.answer); i += 2 {
				h.Set(tt.answer[i], tt.answer[i+1])
			}
			if h.Get("Content-Type") == "" {
				h["Content-Type"] = nil
			}
			if tt.length {
				h.Set("Content-Length", fmt.Sprint(len(tt.body)))
			}
			if tt.status != 0 {
				w.WriteHeader(tt.status)
			}
			if !tt.length {
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, tt.body)
		})
		t.Run(tt.name, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				r := newRig(t, compressing(site(addr)))
				req, _ := http.NewRequest(tt.method, "https://app.test/", nil)
				if tt.accept != "" {
					req.Header.Set("Accept-Encoding", tt.accept)
				}
				for i := 0; i < len(tt.fields); i += 2 {
					req.Header.Set(tt.fields[i], tt.fields[i+1])
				}
				for range 2 { // the second one gets an encoder that was used
					resp, err := via(r).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					raw := readAll(t, resp)
					h := resp.Header
					if tt.method != "HEAD" {
						if b, err := io.ReadAll(decoder(t, tt.coding, strings.NewReader(raw))); err != nil || string(b) != tt.body {
							t.Errorf("%d bytes that are %d bytes, %v", len(raw), len(b), err)
						}
					}
					etag, ranges := `"tag"`, "bytes"
					if tt.coding != "" {
						etag, ranges = `W/"tag"`, ""
						if resp.ContentLength == int64(len(tt.body)) {
							t.Error("the length of another body")
						}
					}
					want := tt.coding
					if i := slices.Index(tt.answer, "Content-Encoding"); i >= 0 {
						want = tt.answer[i+1]
					}
					if got := h.Get("Content-Encoding"); got != want || len(h["Content-Encoding"]) > 1 {
						t.Errorf("Content-Encoding %q, want %q", h["Content-Encoding"], want)
					}
					if h.Get("ETag") != etag || h.Get("Accept-Ranges") != ranges {
						t.Errorf("ETag %q, Accept-Ranges %q", h.Get("ETag"), h.Get("Accept-Ranges"))
					}
					if got := slices.Contains(h["Vary"], "Accept-Encoding"); got == tt.plain {
						t.Errorf("Vary %q", h["Vary"])
					}
				}
				eventually(t, "no encoder is in use", func() bool { return r.srv.encoding.left.Load() == maxEncoders })
			})
		})
	}
}

// TestCompressVary has the route replace the Vary of the backend: caches still have to
// know that the coding depends on the client.
func TestCompressVary(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Vary", "Accept-Encoding, Cookie")
		io.WriteString(w, strings.Repeat("text ", 1000))
	})
	cfg := withHeaders(compressing(site(addr)), nil, []model.HeaderField{{Name: "Vary", Value: "Origin"}})
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		req, _ := http.NewRequest("GET", "https://app.test/", nil)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := via(newRig(t, cfg)).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if got := strings.Join(resp.Header.Values("Vary"), ", "); resp.Header.Get("Content-Encoding") != "gzip" || got != "Accept-Encoding, Origin" {
			t.Errorf("coding %q, Vary %q", resp.Header.Get("Content-Encoding"), got)
		}
	})
}

func TestCompressNot(t *testing.T) {
	text := strings.Repeat("text ", 1000)
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, text)
	})
	t.Run("for HTTP/1.0", func(t *testing.T) {
		got := newRig(t, compressing(site(addr))).raw("GET / HTTP/1.0\r\nHost: app.test\r\nAccept-Encoding: gzip\r\n\r\n")
		if !strings.HasSuffix(got, text) || strings.Contains(got, "Content-Encoding") {
			t.Errorf("%.300q", got)
		}
	})
	gzipped := func(r *rig) string {
		req, _ := http.NewRequest("GET", "https://app.test/", nil)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		return resp.Header.Get("Content-Encoding")
	}
	t.Run("switched off", func(t *testing.T) {
		if got := gzipped(newRig(t, several([]int{1}, addr))); got != "" {
			t.Error(got)
		}
	})
	t.Run("said otherwise by the route", func(t *testing.T) {
		if got := gzipped(newRig(t, withHeaders(compressing(site(addr)), nil, []model.HeaderField{{Name: "Content-Encoding", Value: "x"}}))); got != "x" {
			t.Error(got)
		}
	})
	t.Run("without a free encoder", func(t *testing.T) {
		r := newRig(t, compressing(site(addr)))
		var all []*encoder
		exhaust := func(events bool) { // for as many clients as it takes
			for {
				enc := r.srv.encoder(new(tally), gzipCoding, events)
				if enc == nil {
					return
				}
				all = append(all, enc)
			}
		}
		if exhaust(true); len(all) != maxEventEncoders-3 || gzipped(r) != "gzip" {
			t.Errorf("%d for event streams", len(all))
		}
		exhaust(false)
		if got := gzipped(r); got != "" || len(all) != maxEncoders-3 {
			t.Errorf("%q with %d in use", got, len(all))
		}
		for _, enc := range all {
			enc.release(r.srv)
		}
		if gzipped(r) != "gzip" {
			t.Error("they are not given back")
		}
	})
	t.Run("a WebSocket", func(t *testing.T) {
		r := newRig(t, compressing(site(echoSocket(t))))
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		c, _, err := websocket.Dial(ctx, "https://app.test/", &websocket.DialOptions{HTTPClient: r.client(), HTTPHeader: http.Header{"Accept-Encoding": {"gzip"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != text {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

// FuzzCoding shows that nobody gets a coding that he refused or did not name.
func FuzzCoding(f *testing.F) {
	f.Add("gzip, br;q=0.5, zstd;q=0")
	f.Add("*;q=0.1, identity;q=0")
	f.Add(",;q=,gzip;;q=1;q=0")
	f.Fuzz(func(t *testing.T, list string) {
		got := acceptable([]byte(list))
		low := strings.ToLower(list)
		if got != identity && !strings.Contains(low, codingNames[got]) && !strings.Contains(low, "*") {
			t.Errorf("%q for %q", codingNames[got], list)
		}
		if !strings.Contains(list, ",") && got != identity && strings.HasSuffix(strings.ReplaceAll(list, " ", ""), ";q=0") && strings.Count(list, ";") == 1 {
			t.Errorf("%q is refused by %q", codingNames[got], list)
		}
	})
}

// BenchmarkCompress is what an encoder of each kind costs on a page of 64 KiB.
func BenchmarkCompress(b *testing.B) {
	page := bytes.Repeat([]byte("<li class=\"item\"><a href=\"/page/17\">An entry of a list</a></li>\n"), 1000)
	s := benchServer(b, func() (net.Conn, error) { return nil, errors.New("no") })
	for c := gzipCoding; c < codings; c++ {
		b.Run(codingNames[c], func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(page)))
			for b.Loop() {
				enc := s.encoder(new(tally), c, false)
				_, _ = enc.w.Write(page)
				_ = enc.w.Close()
				enc.release(s)
			}
		})
	}
}
