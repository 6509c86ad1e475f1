package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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

// rawSocket is a backend that agrees to every WebSocket and leaves it to f.
func rawSocket(t testing.TB, f func(*net.TCPConn, *bufio.Reader)) netip.AddrPort {
	return rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			acceptOf(req.Header.Get("Sec-WebSocket-Key")))
		f(c.(*net.TCPConn), br)
	})
}

// forEachWay runs f with each way for a WebSocket to go.
func forEachWay(t *testing.T, r *rig, f func(t *testing.T, way string, open func(*testing.T) duplex)) {
	for _, way := range socketWays {
		t.Run(way.name, func(t *testing.T) {
			ask := way.dial(t, r)
			f(t, way.name, func(t *testing.T) duplex {
				t.Helper()
				c, err := ask("/", nil)
				if err != nil || c.duplex == nil {
					t.Fatalf("%d %v", c.status, err)
				}
				t.Cleanup(func() { c.Close() })
				return c.duplex
			})
		})
	}
}

// cuts is how clients see an end that was no clean one and yet leaves alone what came
// before. On HTTP/1.1 only the missing alert of TLS tells, which crypto/tls does not.
var cuts = map[string]string{
	"plain HTTP1": "clean", "HTTP1": "clean", "HTTP2": "CANCEL",
	"HTTP3": "H3_REQUEST_CANCELLED", "HTTP3 with RESET_STREAM_AT": "H3_REQUEST_CANCELLED",
}

// TestWebSocketHalfClose ends one direction at a time, with bytes still to come in
// the other.
func TestWebSocketHalfClose(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	t.Run("client first", func(t *testing.T) {
		r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
			n, err := io.Copy(io.Discard, br)
			fmt.Fprintf(c, "%d %v;", n, err)
			_, _ = c.Write(big)
		})))
		forEachWay(t, r, func(t *testing.T, _ string, open func(*testing.T) duplex) {
			c := open(t)
			if _, err := c.Write(big); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if want := fmt.Sprint(len(big), " <nil>;"); err != nil || string(b) != want+string(big) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	})
	t.Run("backend first", func(t *testing.T) {
		got := make(chan string, 1)
		r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
			_, _ = c.Write(big)
			_ = c.CloseWrite()
			n, err := io.Copy(io.Discard, br)
			got <- fmt.Sprint(n, " ", err)
		})))
		forEachWay(t, r, func(t *testing.T, _ string, open func(*testing.T) duplex) {
			c := open(t)
			if b, err := io.ReadAll(c); err != nil || !bytes.Equal(b, big) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if _, err := c.Write(big); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if s := <-got; s != fmt.Sprint(len(big), " <nil>") {
				t.Errorf("the backend got %s", s)
			}
		})
	})
}

// TestWebSocketCut ends WebSockets with an error on one side, and looks for it on the
// other one.
func TestWebSocketCut(t *testing.T) {
	t.Run("by the backend", func(t *testing.T) {
		r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
			_, _ = br.ReadString('\n')
			_, _ = io.WriteString(c, "last word")
			_, _ = br.ReadString('\n')
			_ = c.SetLinger(0)
		})))
		forEachWay(t, r, func(t *testing.T, way string, open func(*testing.T) duplex) {
			c := open(t)
			_, _ = io.WriteString(c, "hello\n")
			last := make([]byte, len("last word"))
			if _, err := io.ReadFull(c, last); err != nil || string(last) != "last word" {
				t.Fatalf("%q %v", last, err)
			}
			_, _ = io.WriteString(c, "now\n")
			_, err := c.Read(make([]byte, 1))
			if got := howEnded(err); got != cuts[way] {
				t.Errorf("the end is %s (%v), want %s", got, err, cuts[way])
			}
		})
	})
	t.Run("by the client", func(t *testing.T) {
		got := make(chan error, 1)
		r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
			_, _ = br.ReadString('\n')
			_, _ = io.WriteString(c, "hello")
			_, err := br.ReadByte()
			got <- err
		})))
		forEachWay(t, r, func(t *testing.T, _ string, open func(*testing.T) duplex) {
			c := open(t)
			_, _ = io.WriteString(c, "hello\n")
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			c.Cut()
			if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the backend met %v", err)
			}
		})
	})
}

// TestWebSocketLastWord has a backend say something and close while the client is
// still sending, as it does with a message that is too big: its socket is reset then,
// but what it said arrives.
func TestWebSocketLastWord(t *testing.T) {
	last := strings.Repeat("too big! ", 500)
	r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.ReadFull(br, make([]byte, 10_000))
		_, _ = io.WriteString(c, last)
	})), func(_ *Options, l *limits) { l.goodbye = 50 * time.Millisecond })
	flood := bytes.Repeat([]byte("m"), 1<<20)
	forEachWay(t, r, func(t *testing.T, _ string, open func(*testing.T) duplex) {
		for range 20 {
			c := open(t)
			sent := make(chan struct{})
			go func() { // ends with the socket
				defer close(sent)
				_, _ = c.Write(flood)
			}()
			got := make([]byte, len(last))
			if n, err := io.ReadFull(c, got); err != nil || string(got) != last {
				t.Fatalf("%d bytes of %d, %v", n, len(last), err)
			}
			if end := func() string { _, err := c.Read(got); return howEnded(err) }(); end == "never" {
				t.Error("no end comes")
			}
			c.Close()
			<-sent
		}
	})
}

// TestWebSocketStall has a client talk and not listen.
func TestWebSocketStall(t *testing.T) {
	const stall = 300 * time.Millisecond
	gone := make(chan error, 1)
	r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) {
		go io.Copy(io.Discard, br) // ends with the connection
		piece := make([]byte, 64<<10)
		for {
			if _, err := c.Write(piece); err != nil {
				gone <- err
				return
			}
		}
	})), func(_ *Options, l *limits) { l.stall = stall })
	forEachWay(t, r, func(t *testing.T, way string, open func(*testing.T) duplex) {
		c := open(t)
		stop := make(chan struct{})
		talked := make(chan struct{})
		go func() { // ends with stop
			defer close(talked)
			for {
				select {
				case <-stop:
					return
				case <-time.After(stall / 10):
					if _, err := io.WriteString(c, "x"); err != nil {
						return
					}
				}
			}
		}()
		select {
		case <-gone:
		case <-time.After(speakingTime):
			t.Error("the backend is not let go")
		}
		close(stop)
		<-talked
	})
}

// TestWebSocketFloods has both sides send more than all windows hold before either
// one reads the rest, with other sockets of the same connection in between.
func TestWebSocketFloods(t *testing.T) {
	const size = 8 << 20
	r := newRig(t, site(rawSocket(t, func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(c, br); _ = c.CloseWrite() })))
	forEachWay(t, r, func(t *testing.T, _ string, open func(*testing.T) duplex) {
		flood, small := open(t), open(t)
		sent := make(chan error, 1)
		go func() { // awaited below
			var err error
			piece := bytes.Repeat([]byte("x"), 1<<20)
			for range size / len(piece) {
				if _, err = flood.Write(piece); err != nil {
					break
				}
			}
			if err == nil {
				err = flood.CloseWrite()
			}
			sent <- err
		}()
		ping := make([]byte, 4)
		pong := func() {
			t.Helper()
			if _, err := io.WriteString(small, "ping"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(small, ping); err != nil || string(ping) != "ping" {
				t.Fatalf("%q %v", ping, err)
			}
		}
		pong()
		var n int64
		for buf := make([]byte, 64<<10); ; {
			m, err := flood.Read(buf)
			if n += int64(m); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if n>>20 != (n-int64(m))>>20 {
				pong()
			}
		}
		if err := <-sent; err != nil || n != size {
			t.Errorf("%d bytes of %d came back, %v", n, size, err)
		}
	})
}

// TestWebSocketRouteChanges shows when a WebSocket ends: a while after its route has,
// unless that is back by then, and with the server.
func TestWebSocketRouteChanges(t *testing.T) {
	echo := func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(c, br) }
	addr, other := rawSocket(t, echo), rawSocket(t, echo)
	for _, way := range socketWays {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, site(addr), func(_ *Options, l *limits) { l.grace = 50 * time.Millisecond })
			ask := way.dial(t, r)
			open := func() duplex {
				c, err := ask("/", nil)
				if err != nil || c.duplex == nil {
					t.Fatalf("%d %v", c.status, err)
				}
				t.Cleanup(func() { c.Close() })
				return c.duplex
			}
			alive := func(c duplex, what string) {
				t.Helper()
				b := make([]byte, 1)
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			dead := func(c duplex, what string) {
				t.Helper()
				want := cuts[way.name]
				if want == "clean" {
					want = "cut" // nobody waits for a last word: the socket is reset
				}
				_, err := c.Read(make([]byte, 1))
				if got := howEnded(err); got != want {
					t.Errorf("%s: the end is %s (%v), want %s", what, got, err, want)
				}
			}
			doomed := func() (n int) {
				r.srv.upgrades.mu.Lock()
				defer r.srv.upgrades.mu.Unlock()
				for u := range r.srv.upgrades.open {
					if u.doom != nil {
						n++
					}
				}
				return n
			}

			c := open()
			cfg := site(addr)
			cfg.Routes[0].Options = &RouteOptions{Compress: true}
			cfg.Routes = append(cfg.Routes, Route{ID: 2, Host: "b.test", Target: Target{Addr: other}})
			r.commit(cfg) // nothing that matters to where it goes
			if doomed() != 0 {
				t.Error("a change that does not matter dooms it")
			}
			r.commit(Config{}) // its route is gone
			if doomed() != 1 {
				t.Error("it is not doomed with its route")
			}
			r.commit(site(addr)) // and back
			alive(c, "back in time")
			eventually(t, "its time of grace is over", func() bool { return doomed() == 0 })
			alive(c, "saved")

			r.commit(Config{})
			dead(c, "route deleted")
			r.commit(site(addr))
			c = open()
			alive(c, "a new one")
			r.commit(site(other))
			dead(c, "another target")
			c = open()
			alive(c, "at the other target")
			gated := site(other)
			gated.Routes[0].Options = &RouteOptions{ACL: &ACL{}}
			r.commit(gated)
			dead(c, "its client is let in no more")
			r.commit(site(other))
			c = open()
			alive(c, "let in again")
			if err := r.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			_, err := c.Read(make([]byte, 1))
			if got := howEnded(err); got == "clean" || got == "never" {
				t.Errorf("the end with the server is %s", got)
			}
		})
	}
}
