package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// metered is a connection to a backend that counts what is read of it.
type metered struct {
	net.Conn
	read   atomic.Int64
	closed sync.Once
	end    func(read int64)
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.read.Add(int64(n))
	return n, err
}

func (m *metered) Close() error {
	m.closed.Do(func() { m.end(m.read.Load()) })
	return m.Conn.Close()
}

// endless is a backend whose answers have no end.
func endless(t testing.TB) netip.AddrPort {
	return backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
}

// TestUnreadAnswer has clients ask for answers without end and read nothing. What is
// fetched for each is bounded: 256 KiB on their way through this process in one
// direction of a stream, and what the kernel is left. In the end each is given up.
func TestUnreadAnswer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the kernel decides how much it takes")
	}
	const bound = 256<<10 + maxUnsent
	var mu sync.Mutex
	var ends []int64
	r := newRig(t, site(endless(t)), func(o *Options, l *limits) {
		l.stall = 250 * time.Millisecond
		o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr.String())
			if err != nil {
				return nil, err
			}
			return &metered{Conn: c, end: func(n int64) {
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, n)
			}}, nil
		}
	})
	r.narrow = true
	const plainHead = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	wide := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: maxWindow}}
	for _, tt := range []struct {
		name    string
		streams int
		open    func(streams int)
	}{
		{"HTTP/1.1", 1, func(int) { _, _ = io.WriteString(r.dial(), plainHead) }},
		{"HTTP/1.1 over TLS", 1, func(int) { _, _ = io.WriteString(r.dialTLS("app.test"), plainHead) }},
		{"HTTP/1.0", 1, func(int) { _, _ = io.WriteString(r.dial(), "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n") }},
		{"HTTP/2, no window", h2MaxStreams, func(n int) {
			c := r.h2silent(t, "app.test")
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			c.requests(n)
		}},
		{"HTTP/2, windows and no reading", h2MaxStreams, func(n int) {
			c := r.h2silent(t, "app.test")
			c.greet(wide...)
			c.try(c.WriteWindowUpdate(0, maxWindow-h2DefaultWindow))
			c.requests(n)
		}},
		{"HTTP/3", maxStreams, func(n int) {
			c := r.dialQUIC(t, "app.test")
			for range n {
				str, err := c.OpenStream()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = str.Write(fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head()))
				_ = str.Close()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mu.Lock()
			ends = nil
			mu.Unlock()
			tt.open(tt.streams)
			eventually(t, "all are given up", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(ends) == tt.streams
			})
			var most, sum int64
			for _, n := range ends {
				most, sum = max(most, n), sum+n
			}
			if most > bound {
				t.Errorf("%d KiB were fetched for one stream", most>>10)
			}
			t.Logf("%d streams: at most %d KiB of one, %d KiB of all", tt.streams, most>>10, sum>>10)
		})
	}
}

// TestUnreadWhileSending has clients of HTTP/1.1, HTTP/2 and HTTP/3 send bytes of a body
// again and again, and read nothing of the answer, which has begun. What they send is
// no sign that they read.
func TestUnreadWhileSending(t *testing.T) {
	const stall = 250 * time.Millisecond
	for _, tt := range []struct {
		name string
		open func(t *testing.T, r *rig) (more func() error)
	}{
		{"HTTP/1.1", func(_ *testing.T, r *rig) func() error {
			c := r.dial()
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\n")
			return func() error { _, err := io.WriteString(c, "x"); return err }
		}},
		{"HTTP/2", func(t *testing.T, r *rig) func() error {
			c := r.h2silent(t, "app.test")
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			c.request(1, strings.Replace(plainGET, "GET", "POST", 1), false)
			return func() error { return c.WriteData(1, false, []byte("x")) }
		}},
		{"HTTP/3", func(t *testing.T, r *rig) func() error {
			str, err := r.dialQUIC(t, "app.test").OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = str.Write(fieldSection(ask{method: "POST", target: "/", host: "app.test"}.head()))
			return func() error { _, err := str.Write([]byte(wireFrame(dataFrame, "x"))); return err }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended := make(chan struct{})
			addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				_ = http.NewResponseController(w).EnableFullDuplex()
				for piece := make([]byte, 64<<10); ; {
					if _, err := w.Write(piece); err != nil {
						return
					}
				}
			})
			r := newRig(t, site(addr), func(_ *Options, l *limits) { l.stall = stall })
			r.narrow = true
			more := tt.open(t, r)
			tick := time.NewTicker(stall / 10)
			defer tick.Stop()
			late := time.After(10 * time.Second)
			for {
				select {
				case <-tick.C:
					_ = more()
				case <-ended:
					return
				case <-late:
					t.Fatal("the backend still sends")
				}
			}
		})
	}
}

// requests sends n heads.
func (c *h2raw) requests(n int) {
	for i := range n {
		if !c.request(uint32(2*i+1), plainGET, true) {
			c.t.Fatal(fmt.Errorf("request %d could not be sent", i))
		}
	}
}

// TestStalledStreams has many streams of a few connections stall in reading. Each
// holds little, others keep their latency, and in the end all of it is given back.
func TestStalledStreams(t *testing.T) {
	const (
		conns   = 3
		perConn = 50
		bound   = 128 << 10 // of each stream, with its connection to the backend and that one's end of it
	)
	endlessPiece := make([]byte, 16<<10)
	var busy atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			_, _ = io.WriteString(w, "short")
			return
		}
		busy.Add(1)
		defer busy.Add(-1)
		for {
			if _, err := w.Write(endlessPiece); err != nil {
				return
			}
		}
	})
	for _, tt := range []struct {
		name   string
		client func(r *rig) *http.Client
		open   func(r *rig)
	}{
		{"HTTP/2", (*rig).via2, func(r *rig) {
			c := r.h2silent(t, "app.test")
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			c.requests(perConn)
		}},
		{"HTTP/3", func(r *rig) *http.Client { return &http.Client{Transport: transportHTTP3(r)} }, func(r *rig) {
			c := r.dialQUIC(t, "app.test")
			for range perConn {
				str, err := c.OpenStream()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = str.Write(fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head()))
				_ = str.Close()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, calm := newRig(t, site(addr), func(_ *Options, l *limits) { l.stall = 5 * time.Second }), newRig(t, site(addr))
			clients := []*http.Client{tt.client(calm), tt.client(r)}
			// The median at each server; in turns, so that whatever else this machine
			// does is felt by both.
			measure := func() (quiet, held time.Duration) {
				var times [2][]time.Duration
				for range 200 {
					for i, client := range clients {
						began := time.Now()
						if _, body := get(t, client, "https://app.test/short"); body != "short" {
							t.Fatal(body)
						}
						times[i] = append(times[i], time.Since(began))
					}
				}
				slices.Sort(times[0])
				slices.Sort(times[1])
				return times[0][len(times[0])/2], times[1][len(times[1])/2]
			}
			measure() // connections and pools exist then
			before := memoryInUse()
			r.narrow = true
			for range conns {
				tt.open(r)
			}
			eventually(t, "all are being answered", func() bool { return busy.Load() == conns*perConn })
			alone, during := measure()
			held := memoryInUse() - before
			if each := held / (conns * perConn); each > bound {
				t.Errorf("%d KiB are held by each stream", each>>10)
			}
			if during > 5*alone+2*time.Millisecond {
				t.Errorf("requests of others take %s, and %s while %d streams stall", alone, during, conns*perConn)
			}
			eventually(t, "all are given up", func() bool { return busy.Load() == 0 })
			left := memoryInUse() - before
			t.Logf("%s alone, %s beside %d streams of %d KiB; %d KiB are left in the end", alone, during, conns*perConn, held/(conns*perConn)>>10, left>>10)
			if left > held/4 {
				t.Errorf("%d KiB of %d are not given back", left>>10, held>>10)
			}
		})
	}
}

// memoryInUse is what the heap and stacks hold that somebody can still reach.
func memoryInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have for one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
