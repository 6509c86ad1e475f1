package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

// pieces is a client's connection on which the ClientHello leaves in records of few
// bytes, each in a segment of its own, or whole and in small segments.
type pieces struct {
	net.Conn
	size    int
	records bool
	sent    bool
}

func (c *pieces) Write(p []byte) (int, error) {
	if c.sent {
		return c.Conn.Write(p)
	}
	c.sent = true
	header, content := p[:5], p[5:]
	if !c.records {
		header, content = nil, p
	}
	for part := range slices.Chunk(content, c.size) {
		if c.records {
			part = append([]byte{header[0], header[1], header[2], byte(len(part) >> 8), byte(len(part))}, part...)
		}
		if _, err := c.Conn.Write(part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// TestHelloInPieces: however a ClientHello arrives, the policy is that of its name.
func TestHelloInPieces(t *testing.T) {
	ca := newTestCA(t, "one")
	cfg := mutual(t, map[string]*testCA{"one.test": ca})
	r := newRig(t, cfg)
	for _, records := range []bool{false, true} {
		for _, size := range []int{1, 7, 300} {
			t.Run(fmt.Sprint("records ", records, ", bytes ", size), func(t *testing.T) {
				ask := func(name string, cert *tls.Certificate) int {
					trust := r.trust()
					trust.ServerName = name
					trust.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
					nc, err := r.dialer().Dial("tcp", r.tls)
					if err != nil {
						t.Fatal(err)
					}
					defer nc.Close()
					_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
					c := tls.Client(&pieces{Conn: nc, size: size, records: records}, trust)
					fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
					resp, err := http.ReadResponse(newReader(drain(c)), nil)
					if err != nil {
						return 0
					}
					return resp.StatusCode
				}
				for _, tt := range []struct {
					name string
					cert *tls.Certificate
					want int
				}{{"open.test", new(tls.Certificate), 200}, {"one.test", ca.client("ann"), 200}, {"one.test", new(tls.Certificate), 0}, {"nobody.test", new(tls.Certificate), 0}} {
					if got := ask(tt.name, tt.cert); got != tt.want {
						t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
					}
				}
			})
		}
	}
}

func drain(c net.Conn) []byte {
	b, _ := io.ReadAll(c)
	return b
}

// TestNoHello: what is no ClientHello, does not end, or takes its time, is closed, and
// gets no more than an alert.
func TestNoHello(t *testing.T) {
	r := newRig(t, Config{}, func(_ *Options, l *limits) { l.handshake = 300 * time.Millisecond })
	record := func(content []byte) []byte {
		return append([]byte{22, 3, 1, byte(len(content) >> 8), byte(len(content))}, content...)
	}
	begun := record(append([]byte{1, 0xff, 0xff, 0xff}, make([]byte, 8<<10)...)) // of 16 MiB
	for _, tt := range []struct {
		name  string
		parts [][]byte
	}{
		{"plain HTTP", [][]byte{[]byte("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")}},
		{"another message", [][]byte{record([]byte{2, 0, 0, 4, 0, 0, 0, 0})}},
		{"empty records", slices.Repeat([][]byte{record(nil)}, 100)},
		{"one without end", append([][]byte{begun}, slices.Repeat([][]byte{record(make([]byte, 8<<10))}, 10)...)},
		{"a byte at a time", slices.Collect(slices.Chunk(begun, 1))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.tls)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			answer := make(chan []byte)
			go func() { answer <- drain(c) }()
			ended := false
			for _, p := range tt.parts {
				if _, err := c.Write(p); err != nil {
					ended = true
					break
				}
				if len(p) == 1 {
					time.Sleep(time.Millisecond)
				}
			}
			if got := <-answer; len(got) > 7 || len(got) > 0 && !bytes.HasPrefix(got, []byte{21, 3}) {
				t.Errorf("%q", got)
			}
			if len(tt.parts) > 1000 && !ended {
				t.Error("each byte begins the time anew")
			}
		})
	}
}
