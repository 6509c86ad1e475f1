package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzH2 sends any bytes behind the greeting. The connection must come to an end
// with its input, without a panic, and a backend must never get a request whose
// head HTTP/1.1 would refuse.
func FuzzH2(f *testing.F) {
	var b bytes.Buffer
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for line := range strings.Lines(plainGET) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		_ = enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = fr.WriteData(1, false, []byte("hello"))
	_ = fr.WriteWindowUpdate(1, 5)
	_ = fr.WritePing(false, [8]byte{1})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0, 1, 'x', 1, 'y'}, EndHeaders: true, EndStream: true})
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	f.Add(b.Bytes())
	var bad atomic.Pointer[string]
	to := rawBackend(f, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
					text := err.Error()
					bad.Store(&text)
				}
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
	r := newRig(f, site(to))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := r.h2silent(t, "app.test")
		defer c.conn.Close()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, c.conn)
		}()
		_, _ = io.WriteString(c.conn, http2.ClientPreface)
		_ = c.WriteSettings()
		_, _ = c.conn.Write(data)
		_ = c.conn.(*tls.Conn).CloseWrite()
		<-read
		if text := bad.Load(); text != nil {
			t.Fatalf("the backend got a bad request: %s", *text)
		}
		if strings.Contains(r.log.String(), "panic") {
			t.Fatal(r.log.String())
		}
	})
}
