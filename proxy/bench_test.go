package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/valyala/fasthttp/fasthttputil"
)

func manyRoutes(n int) Config {
	cfg := Config{Routes: make([]Route, n)}
	for i := range cfg.Routes {
		cfg.Routes[i] = Route{ID: routeID(i + 1), Host: fmt.Sprintf("host-%d.example.test", i),
			Target: Target{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), 8080)}}
	}
	return cfg
}

func benchServer(b *testing.B, dial func() (net.Conn, error)) *Server {
	s, err := New(Options{
		Log:         slog.New(slog.DiscardHandler),
		Certificate: testAuthority().Certificate,
		Dial:        func(context.Context, string, netip.AddrPort) (net.Conn, error) { return dial() },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkPrepare(b *testing.B) {
	s := benchServer(b, nil)
	cfg := manyRoutes(10_000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := s.Prepare(cfg)
		if err != nil {
			b.Fatal(err)
		}
		p.Commit()
	}
}

func BenchmarkMatch(b *testing.B) {
	s := benchServer(b, nil)
	p, err := s.Prepare(manyRoutes(10_000))
	if err != nil {
		b.Fatal(err)
	}
	snap := p.snap
	hosts := make([][]byte, 1024)
	for i := range hosts {
		hosts[i] = fmt.Appendf(nil, "Host-%d.Example.test:443", i*9)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if m := snap.match(hosts[i&1023], ""); m.route == nil {
			b.Fatal("no route")
		}
		i++
	}
}

// browserHead is what a browser sends for a page.
const browserHead = "%s /some/path?with=query HTTP/1.1\r\nHost: host-7.example.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n" +
	"Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n%s\r\n"

func BenchmarkRequestHead(b *testing.B) {
	head := fmt.Appendf(nil, browserHead, "GET", "")
	var h requestHead
	b.ReportAllocs()
	b.SetBytes(int64(len(head)))
	for b.Loop() {
		var scan headScan
		if n, status := scan.next(head); n != len(head) || status != 0 || h.parse(head) != 0 {
			b.Fatal("refused")
		}
	}
}

// BenchmarkRequest sends requests over one connection through the whole proxy to
// a backend that answers from memory; neither end allocates.
func BenchmarkRequest(b *testing.B) {
	kib := bytes.Repeat([]byte("x"), 1024)
	for _, bb := range []struct{ name, method, fields, body, answer string }{
		{"get-1k", "GET", "", "", "HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n" + string(kib)},
		{"get-chunked-1k", "GET", "", "", "HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + string(kib) + "\r\n0\r\n\r\n"},
		{"post-1k", "POST", "Content-Length: 1024\r\n", string(kib), "HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			request := fmt.Appendf(nil, browserHead+"%s", bb.method, bb.fields, bb.body)
			front, back := fasthttputil.NewInmemoryListener(), fasthttputil.NewInmemoryListener()
			go func() {
				c, err := back.Accept()
				if err != nil {
					return
				}
				buf, answer := make([]byte, 64<<10), []byte(bb.answer)
				end := []byte("\r\n\r\n" + bb.body)
				for n := 0; ; {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], end) {
						if _, err := c.Write(answer); err != nil {
							return
						}
						n = 0
					}
				}
			}()
			s := benchServer(b, back.Dial)
			p, err := s.Prepare(manyRoutes(1000))
			if err != nil {
				b.Fatal(err)
			}
			p.Commit()
			go s.Serve(front)
			c, err := front.Dial()
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 64<<10)
			size := 0
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				n := 0
				for {
					m, err := c.Read(buf[n:])
					if err != nil {
						b.Fatal(err)
					}
					n += m
					if n == size {
						break
					}
					if size == 0 { // the first answer tells how long they all are
						if bytes.Contains(buf[:n], []byte("\r\n\r\n")) && (bb.method == "POST" || bytes.HasSuffix(buf[:n], []byte("x")) || bytes.HasSuffix(buf[:n], []byte("0\r\n\r\n"))) {
							size = n
							break
						}
					}
				}
			}
			b.StopTimer()
			c.Close()
			s.Close()
			back.Close()
		})
	}
}

// BenchmarkTCP is the same over loopback sockets, for what system calls cost.
func BenchmarkTCP(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n" + string(bytes.Repeat([]byte("x"), 1024)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 16<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	s := benchServer(b, func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
	p, err := s.Prepare(manyRoutes(1000))
	if err != nil {
		b.Fatal(err)
	}
	p.Commit()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(front)
	request := fmt.Appendf(nil, browserHead, "GET", "")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 16<<10)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			if _, err := io.ReadAtLeast(c, buf, len(answer)+20); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	s.Close()
}
