package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quietConn can be looked at as a connection through the tunnel can.
type quietConn struct {
	net.Conn
	raw syscall.RawConn
}

func (c quietConn) Quiet() (quiet bool) {
	_ = c.raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
	})
	return quiet
}

func dialQuiet(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	return quietConn{c, raw}, err
}

// TestCompressedEvents has events that wait for each other: the next one is not sent
// before the client has read the last.
func TestCompressedEvents(t *testing.T) {
	for _, mediaType := range []string{"text/event-stream", "application/x-ndjson"} {
		for _, name := range codingNames {
			t.Run(mediaType+" "+name, func(t *testing.T) {
				forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
					// Each client has a backend: that of the last one may not know yet that it left.
					step := make(chan struct{})
					addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", mediaType)
						w.(http.Flusher).Flush()
						for i := 0; ; i++ {
							select {
							case <-step:
							case <-r.Context().Done():
								return
							}
							fmt.Fprintf(w, "data: %d\n\n", i)
							w.(http.Flusher).Flush()
						}
					})
					r := newRig(t, compressing(site(addr)), func(o *Options, l *limits) {
						l.patience = 20 * time.Millisecond
						if mediaType != "text/event-stream" {
							o.Dial = dialQuiet
						}
					})
					ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
					defer cancel()
					req, _ := http.NewRequestWithContext(ctx, "GET", "https://app.test/", nil)
					req.Header.Set("Accept-Encoding", name)
					resp, err := via(r).Do(req) // returns with the head alone
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					var br *bufio.Reader
					for i := range 5 {
						step <- struct{}{}
						if br == nil {
							br = bufio.NewReader(decoder(t, resp.Header.Get("Content-Encoding"), resp.Body))
						}
						line, err := br.ReadString('\n')
						if err != nil || line != fmt.Sprintf("data: %d\n", i) {
							t.Fatalf("%q %v", line, err)
						}
						br.ReadString('\n')
					}
					if want := name; want != "identity" && resp.Header.Get("Content-Encoding") != want {
						t.Errorf("coding %q", resp.Header.Get("Content-Encoding"))
					}
				})
			})
		}
	}
}

// TestCompressedStream sends much, in bounded memory and every byte of it.
func TestCompressedStream(t *testing.T) {
	const size = 48 << 20
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Header().Set("Trailer", "X-Sum")
		io.CopyN(w, new(pattern), size)
	})
	for _, name := range codingNames[1:] {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, compressing(site(addr)))
			req, _ := http.NewRequest("GET", "https://app.test/", nil)
			req.Header.Set("Accept-Encoding", name)
			const bound = 32 << 20
			if grew := heapGrowth(func() {
				resp, err := r.client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var c checker
				if _, err := io.Copy(&c, decoder(t, name, resp.Body)); c.n != size || c.wrong || err != nil || resp.Header.Get("Content-Encoding") != name {
					t.Errorf("%d bytes, wrong %v, %v", c.n, c.wrong, err)
				}
			}); grew > bound {
				t.Errorf("heap grew by %d MiB", grew>>20)
			}
		})
	}
}

func TestCompressCut(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 50_000))
		}
	})
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, compressing(site(addr)))
		req, _ := http.NewRequest("GET", "https://app.test/", nil)
		req.Header.Set("Accept-Encoding", "zstd")
		resp, err := via(r).Do(req)
		if err != nil {
			return // cut before the head was sent
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%d bytes and a clean end", n)
		}
	})
}
