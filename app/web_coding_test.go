package app_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

func compression(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"compress_enabled": true})
	out := v.outside(t)
	accept := func(list string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Accept-Encoding", list) }
	}
	coded := func(got answer) string { return got.header.Get("Content-Encoding") }
	varies := func(got answer) string { return strings.Join(got.header.Values("Vary"), "; ") }
	plain := visit(t, out, domain, "/long")
	if coded(plain) != "" || varies(plain) != "Accept-Encoding" {
		t.Errorf("not asked for: %v", plain.header)
	}
	for list, want := range map[string]string{"gzip": "gzip", "gzip;q=0.5, br": "br", "zstd": "zstd", "gzip, deflate, br, zstd": "zstd"} {
		got := visit(t, out, domain, "/long", accept(list))
		if coded(got) != want || varies(got) != "Accept-Encoding" || got.header.Get("Content-Length") != "" || len(got.body) >= len(plain.body)/2 {
			t.Errorf("%s: %d bytes became %d, %v", list, len(plain.body), len(got.body), got.header)
		}
		if text := decoded(t, coded(got), got.body); text != plain.body {
			t.Errorf("%s: another text, of %d bytes", list, len(text))
		}
	}
	for name, c := range map[string]struct {
		path         string
		change       func(*http.Request)
		status       int
		coding, body string
	}{
		"short":             {"/" + strings.Repeat("a", 400), accept("gzip"), 200, "", ""},
		"unknown":           {"/long", accept("x-other, gzip;q=0"), 200, "", plain.body},
		"no text":           {"/long?type=image/png", accept("gzip"), 200, "", plain.body},
		"coded by the peer": {"/long?coding=x-own", accept("gzip"), 200, "x-own", plain.body},
		"a part": {"/long", func(r *http.Request) {
			accept("gzip")(r)
			r.Header.Set("Range", "bytes=0-999")
		}, 206, "", plain.body[:1000]},
	} {
		got := visit(t, out, domain, c.path, c.change)
		if got.wants(t, name, c.status, c.body); coded(got) != c.coding {
			t.Errorf("%s: %v", name, got.header)
		}
	}
	g.change(t, id, fields{"compress_enabled": false})
	if off := visit(t, out, domain, "/long", accept("gzip")); coded(off) != "" || varies(off) != "" || off.body != plain.body {
		t.Errorf("off: %v", off.header)
	}
}

// decoded is the text of a body in a content coding.
func decoded(t *testing.T, coding, body string) string {
	t.Helper()
	r, err := io.Reader(nil), error(nil)
	switch in := strings.NewReader(body); coding {
	case "gzip":
		r, err = gzip.NewReader(in)
	case "br":
		r = brotli.NewReader(in)
	case "zstd":
		r, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	default:
		return body
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v", coding, err)
	}
	return string(text)
}
