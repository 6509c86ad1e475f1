package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTransfer moves 1 MiB over TLS, down from a backend on loopback that
// answers from memory, and up to it. cpu-µs/op is the time of the processor with
// both ends, which are the same for any proxy.
func BenchmarkTransfer(b *testing.B) {
	const size = 1 << 20
	answer := append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n", size), make([]byte, size)...)
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
				buf := make([]byte, 64<<10)
				for left := 0; ; {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if left == 0 && bytes.HasPrefix(buf[:n], []byte("POST")) {
						left = size + bytes.Index(buf[:n], []byte("\r\n\r\n")) + 4
					}
					if left = max(0, left-n); left > 0 {
						continue
					}
					if bytes.HasPrefix(buf[:n], []byte("GET")) {
						_, err = c.Write(answer)
					} else {
						_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: b\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n")
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	r := newRig(b, site(netip.MustParseAddrPort(ln.Addr().String())))
	for _, way := range []string{"down", "up"} {
		for _, p := range protocols {
			b.Run(way+"/"+p.name, func(b *testing.B) {
				c := p.client(r)
				body, sink := make([]byte, size), make([]byte, 64<<10)
				b.SetBytes(size)
				b.ReportAllocs()
				began := processorTime()
				for b.Loop() {
					var resp *http.Response
					var err error
					if way == "down" {
						resp, err = c.Get("https://app.test/")
					} else {
						resp, err = c.Post("https://app.test/", "", bytes.NewReader(body))
					}
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, sink); err != nil {
						b.Fatal(err)
					}
					resp.Body.Close()
				}
				b.ReportMetric(float64((processorTime()-began).Microseconds())/float64(b.N), "cpu-µs/op")
				c.CloseIdleConnections()
			})
		}
	}
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // never fails
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
