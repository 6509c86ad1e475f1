package netstack

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Close comes back although both directions are full and nobody reads.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	w, d, a, _ := behindExit(t)
	full := make([]byte, 1<<20)
	var writers sync.WaitGroup
	push := func(c net.Conn) {
		writers.Go(func() {
			for {
				if _, err := c.Write(full); err != nil {
					return
				}
			}
		})
	}
	a.listen(80, func(c net.Conn) { push(c); <-t.Context().Done() })
	for range 4 {
		push(dialPeer(t, d, "tcp", a.addr, 80))
		c := a.mustDial("tcp", "1.1.1.1:80")
		s, err := w.tcp.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		push(s)
		push(c)
	}
	closed := make(chan struct{})
	go func() {
		_ = d.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("Close hangs")
	}
	a.wg.Close() // its writers end with it
	writers.Wait()
}

// After load, nothing of it is left: flows, endpoints, goroutines.
func TestResourcesReturn(t *testing.T) {
	w, d, a, _ := behindExit(t)
	serve(t, w.tcp, echo)
	listen(t, d, 80, echo)
	exchange(t, a.mustDial("tcp", "1.1.1.1:80"), []byte("warm up"))
	before := runtime.NumGoroutine()
	var users sync.WaitGroup
	for i := range 100 {
		users.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			target := "1.1.1.1:80"
			switch i % 4 {
			case 1:
				target = "10.8.0.1:80"
			case 2:
				target = "10.8.0.1:81" // closed
			}
			c, err := a.net.DialContext(ctx, "tcp", target)
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write([]byte("hello"))
			_, _ = io.ReadFull(c, make([]byte, 5))
		})
	}
	users.Wait()
	eventually(t, "end of all flows but one", func() bool { return d.Status().Exit.TCPFlows <= 1 })
	eventually(t, "return of goroutines", func() bool { return runtime.NumGoroutine() <= before })
	apply(t, d, Config{})
	eventually(t, "return of endpoints", func() bool {
		n := 0
		for _, ep := range d.stack.RegisteredEndpoints() {
			if _, connected := remoteAddress(ep); connected {
				n++
			}
		}
		return n == 0
	})
}

// Several goroutines at once do everything that a device offers.
func TestConcurrentUse(t *testing.T) {
	a := newForeign(t, 2)
	d := started(t, nil, peers(a))
	a.join(d)
	a.listen(80, echo)
	others := manyPeers(8)
	var users sync.WaitGroup
	use := func(f func()) {
		users.Go(func() {
			for range 50 {
				f()
			}
		})
	}
	use(func() { d.Status() })
	use(func() { d.Owns(netip.MustParseAddr("10.9.0.1")) })
	use(func() {
		if p, err := d.Prepare(Config{Peers: append([]Peer{a.config()}, others[:rand.IntN(8)]...)}); err == nil {
			p.Commit()
		}
	})
	use(func() {
		if p, err := d.Prepare(Config{}); err == nil {
			p.Abort()
		}
	})
	use(func() {
		if l, err := d.Listen(0); err == nil {
			_ = l.Close()
		}
		if p, err := d.ListenPacket(0); err == nil {
			_ = p.Close()
		}
	})
	for range 20 {
		c := dialPeer(t, d, "tcp", a.addr, 80)
		exchange(t, c, []byte("hello"))
		_ = c.Close()
	}
	users.Wait()
}
