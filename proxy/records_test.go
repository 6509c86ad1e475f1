package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// counted is a listener whose connections count what is written to them.
type counted struct {
	net.Listener
	writes, most atomic.Int64
}

type countedConn struct {
	net.Conn
	by *counted
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l}, nil
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.by.writes.Add(1)
	c.by.most.Store(max(c.by.most.Load(), int64(len(p))))
	return c.Conn.Write(p)
}

// TestRecordsTogether counts the writes of a long answer: two records in each.
func TestRecordsTogether(t *testing.T) {
	const size = 16 << 20
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		var all bytes.Buffer
		io.CopyN(&all, new(pattern), size)
		w.Write(all.Bytes())
	})
	r := newRig(t, site(addr))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: ln}
	served := make(chan error)
	go func() { served <- r.srv.ServeTLS(l) }()
	r.tls = ln.Addr().String()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			l.writes.Store(0)
			c := r.client()
			c.Transport.(*http.Transport).TLSClientConfig.MaxVersion = version
			resp, err := c.Get("https://app.test/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var check checker
			if _, err := io.Copy(&check, resp.Body); check.n != size || check.wrong || err != nil {
				t.Errorf("%d bytes, wrong %v, %v", check.n, check.wrong, err)
			}
			c.CloseIdleConnections()
			// What has arrived is sent on, so that a piece may be short.
			t.Logf("%d writes for %d records, the longest of %d bytes", l.writes.Load(), size/maxRecord, l.most.Load())
			if l.most.Load() < pieceSize || l.writes.Load() > size/maxRecord {
				t.Errorf("%d writes, the longest of %d bytes", l.writes.Load(), l.most.Load())
			}
		})
	}
	ln.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestRecordWriter has other goroutines write while pieces are gathered, as
// crypto/tls may do: their bytes must stay whole, and those of a piece in order.
func TestRecordWriter(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	w := &recordWriter{socket: &socket{Conn: near, stall: defaultLimits().stall}}
	const pieces, parts = 200, 5
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(far)
		got <- b
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		for range pieces {
			w.Write(bytes.Repeat([]byte{'#'}, 100))
		}
	})
	part := bytes.Repeat([]byte{'.'}, 10_000)
	for i := range pieces {
		w.gather(make([]byte, 0, 35_000+i))
		for n := range parts {
			part[0], part[len(part)-1] = byte('0'+n), '|'
			w.Write(part)
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	near.Close()
	b := <-got
	if n := bytes.Count(b, bytes.Repeat([]byte{'#'}, 100)); n != pieces || len(b) != pieces*(100+parts*len(part)) {
		t.Fatalf("%d whole, %d bytes", n, len(b))
	}
	b = bytes.ReplaceAll(b, []byte{'#'}, nil)
	for i := 0; len(b) > 0; i++ {
		if b[0] != byte('0'+i%parts) || b[len(part)-1] != '|' {
			t.Fatalf("part %d is %c", i, b[0])
		}
		b = b[len(part):]
	}
}
