package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/valyala/fasthttp/fasthttputil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// memoryBackend answers every GET with 1 KiB, over pipes and without allocating.
func memoryBackend(b *testing.B) func() (net.Conn, error) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	ln := fasthttputil.NewInmemoryListener()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				buf, n := make([]byte, 16<<10), 0
				for {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						if _, err := c.Write(answer); err != nil {
							return
						}
						n = 0
					}
				}
			})
		}
	})
	b.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Dial
}

// benchSite is a Server with 1000 routes that serves TLS over pipes.
func benchSite(b *testing.B) (s *Server, dial func(proto string) *tls.Conn) {
	back := memoryBackend(b)
	s, err := New(Options{
		Log:         slog.New(slog.DiscardHandler),
		Certificate: testAuthority().Certificate,
		Dial:        func(context.Context, string, netip.AddrPort) (net.Conn, error) { return back() },
	})
	if err != nil {
		b.Fatal(err)
	}
	p, err := s.Prepare(manyRoutes(1000))
	if err != nil {
		b.Fatal(err)
	}
	p.Commit()
	front := fasthttputil.NewInmemoryListener()
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.ServeTLS(front) })
	b.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	return s, func(proto string) *tls.Conn {
		nc, err := front.Dial()
		if err != nil {
			b.Fatal(err)
		}
		c := tls.Client(nc, &tls.Config{ServerName: "host-7.example.test", NextProtos: []string{proto}, InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
}

// browserFields are those of browserHead.
func browserFields(add func(name, value string)) {
	for _, f := range [...][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":authority", "host-7.example.test"}, {":path", "/some/path?with=query"},
		{"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		{"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
		{"accept-language", "en-US,en;q=0.5"}, {"accept-encoding", "gzip, deflate, br, zstd"},
		{"cookie", "session=0123456789abcdef0123456789abcdef"}, {"cookie", "theme=dark"},
		{"upgrade-insecure-requests", "1"}, {"sec-fetch-dest", "document"}, {"sec-fetch-mode", "navigate"}, {"sec-fetch-site", "none"},
	} {
		add(f[0], f[1])
	}
}

func BenchmarkStreamHead(b *testing.B) {
	var h streamHead
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		browserFields(h.add)
		if h.finish(true) != 0 {
			b.Fatal("refused")
		}
		text = h.appendText(text[:0])
		h.reset()
	}
}

// BenchmarkH2 sends GETs of 1 KiB through TLS and the whole proxy, HTTP/1.1 beside
// HTTP/2 with one and with many streams at a time. What the client costs is in it.
func BenchmarkH2(b *testing.B) {
	b.Run("http1", func(b *testing.B) {
		_, dial := benchSite(b)
		c := dial("http/1.1")
		request := fmt.Appendf(nil, browserHead, "GET", "")
		buf := make([]byte, 16<<10)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Write(request); err != nil {
				b.Fatal(err)
			}
			for n := 0; n < 1024 || !bytes.Contains(buf[:n], []byte("\r\n\r\n"+strings.Repeat("x", 8))) || n < 1024+bytes.Index(buf[:n], []byte("\r\n\r\n"))+4; {
				m, err := c.Read(buf[n:])
				if err != nil {
					b.Fatal(err)
				}
				n += m
			}
		}
	})
	for _, streams := range []int{1, 16} {
		b.Run(fmt.Sprintf("http2-%d", streams), func(b *testing.B) {
			_, dial := benchSite(b)
			c := dial("h2")
			var first, block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			add := func(name, value string) { _ = enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
			browserFields(add) // fills the table
			fr := http2.NewFramer(&first, c)
			fr.SetReuseFrames()
			_, _ = io.WriteString(&first, http2.ClientPreface)
			_ = fr.WriteSettings()
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			if _, err := c.Write(first.Bytes()); err != nil {
				b.Fatal(err)
			}
			wait := func(n int) {
				for n > 0 {
					f, err := fr.ReadFrame()
					if err != nil {
						b.Fatal(err)
					}
					if h := f.Header(); h.Type == http2.FrameData && h.Flags.Has(http2.FlagDataEndStream) {
						n--
					} else if h.Type == http2.FrameRSTStream {
						b.Fatal(f)
					}
				}
			}
			wait(1)
			block.Reset()
			browserFields(add)
			id := uint32(3)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if n%streams != 0 { // one turn of the loop is one request
					continue
				}
				first.Reset()
				_ = fr.WriteWindowUpdate(0, uint32(1024*streams))
				for range streams {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
					id += 2
				}
				if _, err := c.Write(first.Bytes()); err != nil {
					b.Fatal(err)
				}
				wait(streams)
			}
		})
	}
}
