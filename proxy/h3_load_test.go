package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestIdleMemoryHTTP3 holds idle connections that have had an answer. The figure
// includes the client's side of each, which shares one socket.
func TestIdleMemoryHTTP3(t *testing.T) {
	n := 1000
	if testing.Short() || raceEnabled {
		n = 100
	}
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })))
	socket := clientSocket(t)
	to, err := net.ResolveUDPAddr("udp", r.quic())
	if err != nil {
		t.Fatal(err)
	}
	open := func() *quic.Conn {
		cfg := r.trust()
		cfg.ServerName, cfg.NextProtos = "app.test", []string{"h3"}
		ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
		defer cancel()
		c, err := socket.Dial(ctx, to, cfg, &quic.Config{KeepAlivePeriod: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseWithError(h3NoError, "") })
		if got := askHTTP3(t, c, ask{method: "GET", target: "/", host: "app.test"}); got.body != "hello" {
			t.Fatalf("%+v", got)
		}
		return c
	}
	open()
	measure := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before, goroutines := measure(), runtime.NumGoroutine()
	for range n {
		open()
	}
	each := (measure() - before) / int64(n)
	t.Logf("%d bytes and %.1f goroutines per idle connection, both sides together", each, float64(runtime.NumGoroutine()-goroutines)/float64(n))
	// Most of it is what quic-go and crypto/tls keep, alike on both sides.
	if bound := int64(2 * 64 << 10); each > bound && !raceEnabled {
		t.Errorf("%d bytes per idle connection", each)
	}
}

func clientSocket(t testing.TB) *quic.Transport {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	socket := &quic.Transport{Conn: pc}
	t.Cleanup(func() {
		_ = socket.Close()
		_ = pc.Close()
	})
	return socket
}

// askHTTP3 sends one request on an open connection.
func askHTTP3(t testing.TB, c *quic.Conn, a ask) reply {
	t.Helper()
	str, err := c.OpenStreamSync(c.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = str.SetDeadline(time.Now().Add(speakingTime))
	_, _ = str.Write(fieldSection(a.head()))
	_ = str.Close()
	return readHTTP3(str)
}

// TestHandshakeFlood has strangers begin handshakes that they never end, each from
// another port. Who is connected is served on, and who comes new has to prove its
// address first, and gets in.
func TestHandshakeFlood(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })))
	to, err := net.ResolveUDPAddr("udp", r.quic())
	if err != nil {
		t.Fatal(err)
	}
	inside := r.dialQUIC(t, "app.test")
	var door *quicDoor
	r.srv.mu.Lock()
	for d := range r.srv.doors {
		door = d
	}
	r.srv.mu.Unlock()
	first := firstFlight(t)
	ctx, stop := context.WithCancel(context.Background())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer stop()
	flood.Go(func() {
		var socks []*net.UDPConn
		defer func() {
			for _, s := range socks {
				s.Close()
			}
		}()
		for i := 0; ctx.Err() == nil; i++ {
			if len(socks) < 400 {
				s, err := net.DialUDP("udp", nil, to)
				if err != nil {
					t.Error(err)
					return
				}
				socks = append(socks, s)
			}
			for _, p := range first(i) {
				_, _ = socks[i%len(socks)].Write(p)
			}
			if i%20 == 0 {
				time.Sleep(time.Millisecond) // the flood, not the wait for anything
			}
		}
	})
	eventually(t, "as many handshakes are open as may be", func() bool { return door.unvalidated.Load() >= maxUnvalidated })
	var slowest time.Duration
	for range 200 {
		began := time.Now()
		if got := askHTTP3(t, inside, ask{method: "GET", target: "/", host: "app.test"}); got.body != "hello" {
			t.Fatalf("who was inside got %+v", got)
		}
		slowest = max(slowest, time.Since(began))
	}
	began := time.Now()
	if got := speakHTTP3(t, r, ask{method: "GET", target: "/", host: "app.test"}); got.body != "hello" {
		t.Errorf("who came new got %+v", got)
	}
	t.Logf("slowest of 200 requests %v, a new connection %v, %d handshakes open", slowest, time.Since(began), door.unvalidated.Load())
	if n := door.unvalidated.Load(); n > maxUnvalidated+1 {
		t.Errorf("%d handshakes of unproven addresses", n)
	}
}

// firstFlight records the first packets of a client, and returns them with another
// connection id for each i: the key of an Initial packet follows from the id, so
// each has to be recorded anew, and a few are used in turn.
func firstFlight(t testing.TB) func(i int) [][]byte {
	var flights [][][]byte
	for range 150 {
		server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		cfg := &tls.Config{ServerName: "app.test", NextProtos: []string{"h3"}, InsecureSkipVerify: true} // it sees no server
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { // ended below
			defer close(done)
			_, _ = quic.DialAddr(ctx, server.LocalAddr().String(), cfg, nil)
		}()
		var flight [][]byte
		buf := make([]byte, 2048)
		_ = server.SetReadDeadline(time.Now().Add(speakingTime))
		for len(flight) < 2 { // a hybrid key share takes two packets
			n, err := server.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			flight = append(flight, append([]byte(nil), buf[:n]...))
		}
		cancel()
		<-done
		server.Close()
		flights = append(flights, flight)
	}
	return func(i int) [][]byte { return flights[i%len(flights)] }
}
