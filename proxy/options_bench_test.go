package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"gatecontrol/model"
)

// BenchmarkOptions sends requests for a page of 1 KiB through routes that have what
// happens between the gates and the backend switched on, one option at a time.
func BenchmarkOptions(b *testing.B) {
	page := append([]byte("HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n"),
		bytes.Repeat([]byte("<p>a page "), 103)[:1024]...)
	target := func(i byte) Target {
		return Target{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, i}), 80)}
	}
	backends := []Backend{{target(1), 1}, {target(2), 1}, {target(3), 2}}
	headers := &model.Headers{
		Request:  []model.HeaderField{{Name: "X-Token", Value: "secret"}, {Name: "Host", Value: "inner.test"}},
		Response: []model.HeaderField{{Name: "X-Frame-Options", Value: "DENY"}, {Name: "Server", Value: "none"}},
	}
	paths := []Path{{Prefix: "/some", Strip: true}, {Prefix: "/other", Target: &Target{Addr: target(4).Addr}}, {Prefix: "/old", Redirect: "/new", Status: 301}}
	sticky := &model.Sticky{Enabled: true, Cookie: "gc_sticky", TTL: time.Hour}
	retry := &model.Retry{Enabled: true, Count: 3, Statuses: []int{502, 503, 504}}
	for _, bb := range []struct {
		name    string
		options RouteOptions
	}{
		{"none", RouteOptions{}},
		{"backends", RouteOptions{Backends: backends}},
		{"sticky", RouteOptions{Backends: backends, Sticky: sticky}},
		{"retry", RouteOptions{Retry: retry}},
		{"headers", RouteOptions{Headers: headers}},
		{"paths", RouteOptions{Paths: paths}},
		{"compress", RouteOptions{Compress: true}},
		{"mirror", RouteOptions{Mirrors: []Target{target(9)}}},
		{"all but mirror", RouteOptions{Backends: backends, Sticky: sticky, Retry: retry, Headers: headers, Paths: paths, Compress: true}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			request := fmt.Appendf(nil, browserHead, "GET", "")
			front, back := fasthttputil.NewInmemoryListener(), fasthttputil.NewInmemoryListener()
			go func() {
				for {
					c, err := back.Accept()
					if err != nil {
						return
					}
					go func() {
						buf := make([]byte, 16<<10)
						for {
							if _, err := c.Read(buf); err != nil {
								return
							}
							if _, err := c.Write(page); err != nil {
								return
							}
						}
					}()
				}
			}()
			s := benchServer(b, back.Dial)
			cfg := manyRoutes(1000)
			cfg.Routes[7].Options = &bb.options
			p, err := s.Prepare(cfg)
			if err != nil {
				b.Fatal(err)
			}
			p.Commit()
			go s.Serve(front)
			c, err := front.Dial()
			if err != nil {
				b.Fatal(err)
			}
			// The first answer tells how long they all are.
			var first bytes.Buffer
			_, _ = c.Write(request)
			resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, &first)), nil)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				b.Fatal(resp.Status, err)
			}
			buf := make([]byte, first.Len())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
			c.Close()
			s.Close()
			back.Close()
		})
	}
}
