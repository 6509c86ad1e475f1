package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
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

// TestLastRecords counts the writes of answers that end their connection: a short one
// leaves with the alert, a long one does not wait for it.
func TestLastRecords(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Write(make([]byte, n))
	})
	r := newRig(t, site(addr))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: ln}
	served := make(chan error)
	go func() { served <- r.srv.ServeTLS(l) }()
	const end = "Connection: close\r\n"
	for _, tt := range []struct {
		name   string
		sizes  []int
		last   string
		writes int64 // after the handshake, at most
	}{
		{"short", []int{1000}, end, 1},
		{"short, behind others", []int{1000, 1000, 1000}, end, 3},
		{"longer than what waits", []int{maxLast + 1}, end, 6},
		{"of several records", []int{60_000}, end, 60},
		{"asked by both", []int{1000}, end + "Connection: close\r\n", 1},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+"/"+tls.VersionName(version), func(t *testing.T) {
				c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{ServerName: "app.test", InsecureSkipVerify: true, MaxVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				in := bufio.NewReader(c)
				var before int64
				for i, size := range tt.sizes {
					fields := ""
					if i == len(tt.sizes)-1 {
						fields = tt.last
					}
					if i == 0 {
						fmt.Fprintf(c, "GET /0 HTTP/1.1\r\nHost: app.test\r\n\r\n")
						readLength(t, in, 0)
						before = l.writes.Load()
					}
					fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: app.test\r\n%s\r\n", size, fields)
					readLength(t, in, size)
				}
				if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("no clean end: %d, %v", n, err) // without the alert it is io.ErrUnexpectedEOF
				}
				if n := l.writes.Load() - before; n > tt.writes {
					t.Errorf("%d writes, want %d at most", n, tt.writes)
				}
			})
		}
	}
	_ = ln.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// readLength reads an answer with a body of size bytes.
func readLength(t *testing.T, in *bufio.Reader, size int) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != int64(size) || err != nil {
		t.Fatalf("%d of %d, %v", n, size, err)
	}
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
