package proxy

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkHTTP3 has one request after the other on one connection; the client's
// side is in the figures.
func BenchmarkHTTP3(b *testing.B) {
	body := make([]byte, 1024)
	r := newRig(b, site(backend(b, func(w http.ResponseWriter, r *http.Request) { w.Write(body) })))
	c := http3Client(r)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get("https://app.test/")
		if err != nil {
			b.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != 1024 {
			b.Fatal(n)
		}
	}
}

// BenchmarkHTTP3Download is one large answer.
func BenchmarkHTTP3Download(b *testing.B) {
	const size = 64 << 20
	piece := make([]byte, 1<<20)
	r := newRig(b, site(backend(b, func(w http.ResponseWriter, r *http.Request) {
		for range size / len(piece) {
			w.Write(piece)
		}
	})))
	c := http3Client(r)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get("https://app.test/")
		if err != nil {
			b.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != size {
			b.Fatal(n)
		}
	}
}
