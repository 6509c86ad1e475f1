package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// pattern is an endless stream that a test can check without keeping it. Its
// period fits no buffer size, so that no piece can be lost or doubled unseen.
type pattern struct{ at int }

const period = 65521

var slab = func() []byte {
	b := make([]byte, 2*period)
	for i := range b {
		b[i] = byte(i % period * 31 >> 3)
	}
	return b
}()

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, slab[p.at:p.at+period])
	p.at = (p.at + n) % period
	return n, nil
}

// checker takes the same stream and counts it.
type checker struct {
	at    int
	n     int64
	wrong bool
}

func (c *checker) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), period)
		if !bytes.Equal(b[:n], slab[c.at:c.at+n]) {
			c.wrong = true
		}
		c.at = (c.at + n) % period
		b = b[n:]
	}
	c.n += int64(total)
	return total, nil
}

// heapGrowth runs f and returns by how much the heap in use grew meanwhile.
func heapGrowth(f func()) uint64 {
	var before, m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				done <- most - min(most, before.HeapInuse)
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	return <-done
}

func TestStreaming(t *testing.T) {
	const size = 96 << 20
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			var c checker
			_, err := io.Copy(&c, r.Body)
			fmt.Fprintf(w, "%d %v %v", c.n, c.wrong, err)
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.CopyN(w, new(pattern), size)
	})
	r := newRig(t, site(addr))
	c := r.client()
	const bound = 24 << 20
	for _, scheme := range []string{"http", "https"} {
		for _, path := range []string{"/length", "/chunked"} {
			t.Run("down "+scheme+path, func(t *testing.T) {
				grew := heapGrowth(func() {
					resp, err := c.Get(scheme + "://app.test" + path)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					var c checker
					if _, err := io.Copy(&c, resp.Body); c.n != size || c.wrong || err != nil {
						t.Errorf("%d bytes, wrong %v, %v", c.n, c.wrong, err)
					}
				})
				if grew > bound {
					t.Errorf("heap grew by %d MiB", grew>>20)
				}
			})
			t.Run("up "+scheme+path, func(t *testing.T) {
				grew := heapGrowth(func() {
					req, _ := http.NewRequest("POST", scheme+"://app.test/", io.LimitReader(new(pattern), size))
					if path == "/length" {
						req.ContentLength = size
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					if got, want := readAll(t, resp), fmt.Sprintf("%d false <nil>", size); got != want {
						t.Errorf("got %s, want %s", got, want)
					}
				})
				if grew > bound {
					t.Errorf("heap grew by %d MiB", grew>>20)
				}
			})
		}
	}
}

// TestBackpressure has a client that reads nothing: the backend must come to a
// halt, and the client get every byte in the end.
func TestBackpressure(t *testing.T) {
	const size = 64 << 20
	var sent atomic.Int64
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		b := make([]byte, 64<<10)
		for range size / len(b) {
			if _, err := w.Write(b); err != nil {
				return
			}
			sent.Add(int64(len(b)))
		}
	})
	r := newRig(t, site(addr))
	c := r.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	eventually(t, "the backend starts", func() bool { return sent.Load() > 0 })
	halted := int64(-1)
	eventually(t, "the backend halts", func() bool {
		was := halted
		halted = sent.Load()
		time.Sleep(50 * time.Millisecond)
		return was == halted
	})
	if halted > size/2 {
		t.Errorf("%d MiB were taken from the backend for nobody", halted>>20)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestEventStream(t *testing.T) {
	step := make(chan struct{})
	ended := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
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
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.patience = 20 * time.Millisecond })
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://app.test/", nil)
	resp, err := r.client().Do(req) // returns with the head alone
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		step <- struct{}{}
		line, err := br.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		br.ReadString('\n')
	}
	// The backend is silent when the client leaves: it must hear of that.
	resp.Body.Close()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("the backend was not told that the client left")
	}
}

func TestSlowBodyWithLength(t *testing.T) {
	step := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		for range 3 {
			w.(http.Flusher).Flush()
			<-step
			io.WriteString(w, "x")
		}
	})
	r := newRig(t, site(addr))
	resp, err := r.client().Get("http://app.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 3 {
		step <- struct{}{}
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDuplex has a backend that answers while it reads.
func TestDuplex(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := br.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(c, size)
			line, _ := br.ReadString('\n')
			io.WriteString(c, line)
			if size == "0\r\n" {
				return
			}
		}
	})
	r := newRig(t, site(addr))
	c := r.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		fmt.Fprintf(c, "2\r\n%d\n\r\n", i)
		b := make([]byte, 2)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != fmt.Sprintf("%d\n", i) {
			t.Fatalf("%q %v", b, err)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
}
