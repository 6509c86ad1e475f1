package l4

import (
	"io"
	"net"
	"strconv"
	"testing"
)

// BenchmarkTCPBulk sends through a flow, 1 MiB at a time.
func BenchmarkTCPBulk(b *testing.B) {
	for _, tt := range []struct {
		name string
		dial func(*Options)
	}{
		{"host to host", func(*Options) {}},
		{"host to tunnel", func(o *Options) { o.Dial = dialPlain }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			const chunk = 1 << 20
			got := make(chan int64, 1)
			s, port := newServer(b, tt.dial), freePort(b)
			apply(b, s, route(1, "tcp", port, tcpTarget(b, func(c *net.TCPConn) {
				buf, n := make([]byte, 256<<10), int64(0)
				for {
					m, err := c.Read(buf)
					if n += int64(m); err != nil {
						got <- n
						return
					}
				}
			})))
			c, buf, n := dialPort(b, port), make([]byte, chunk), int64(0)
			b.SetBytes(chunk)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				n += chunk
			}
			_ = c.CloseWrite()
			if m := <-got; m != n {
				b.Fatalf("%d of %d bytes arrived", m, n)
			}
		})
	}
}

// BenchmarkTCPConnect opens a connection through a port, exchanges a byte and
// closes it.
func BenchmarkTCPConnect(b *testing.B) {
	s, port := newServer(b), freePort(b)
	target := tcpTarget(b, func(c *net.TCPConn) { _, _ = io.CopyN(c, c, 1) })
	apply(b, s, route(1, "tcp", port, target))
	for name, to := range map[string]uint16{"direct": target.Port(), "forwarded": port} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(to))))
				if err != nil {
					b.Fatal(err)
				}
				ping(b, c)
				_ = c.(*net.TCPConn).SetLinger(0) // leaves no TIME_WAIT
				_ = c.Close()
			}
		})
	}
}

// BenchmarkUDP sends a datagram and waits for its echo: four datagrams in all,
// of which two are ours to pass on.
func BenchmarkUDP(b *testing.B) {
	s, port, target := newServer(b), freePort(b), udpEcho(b)
	apply(b, s, route(1, "udp", port, target))
	for _, tt := range []struct {
		name   string
		port   uint16
		window int
	}{{"direct", target.Port(), 1}, {"forwarded", port, 1}, {"direct window 32", target.Port(), 32}, {"forwarded window 32", port, 32}} {
		b.Run(tt.name, func(b *testing.B) {
			c, out, in := dialUDP(b, tt.port), make([]byte, 1200), make([]byte, 2048)
			for range tt.window {
				_, _ = c.Write(out)
			}
			b.SetBytes(int64(len(out)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Read(in); err != nil {
					b.Fatal(err)
				}
				_, _ = c.Write(out)
			}
		})
	}
}

// BenchmarkPrepare changes one of 10 000 routes.
func BenchmarkPrepare(b *testing.B) {
	var c Config
	for i := range 10_000 {
		c.Routes = append(c.Routes, route(1, "tcp", uint16(i+10_000), anyTarget))
	}
	s := newServer(b)
	owners, err := c.owners()
	if err != nil {
		b.Fatal(err)
	}
	for key, own := range owners { // as if open
		s.ports[key] = newPort(s, key, own)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Routes[77].ID++
		apply(b, s, c.Routes...)
	}
}
