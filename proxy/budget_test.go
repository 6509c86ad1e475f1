package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestShares has clients take all that they get, one after the other.
func TestShares(t *testing.T) {
	const all = 1 << 20
	var b budget
	b.left.Store(all)
	var clients [20]atomic.Int64
	most := func(c *atomic.Int64) int64 {
		for (share{&b, c}).take(1) {
		}
		return c.Load()
	}
	rest := int64(all)
	for i := range clients {
		got := most(&clients[i])
		if got != rest/4 {
			t.Errorf("client %d has %d, want a quarter of %d", i, got, rest)
		}
		if rest -= got; b.left.Load() != rest {
			t.Fatalf("%d are left, want %d", b.left.Load(), rest)
		}
	}
	for i := range clients {
		share{&b, &clients[i]}.give(clients[i].Load())
	}
	if b.left.Load() != all {
		t.Errorf("%d are left in the end", b.left.Load())
	}
	// Many at once take no more than there is, and give all of it back.
	var running sync.WaitGroup
	for i := range clients {
		for range 4 {
			running.Go(func() {
				s := share{&b, &clients[i]}
				for range 1000 {
					if s.take(all / 16) {
						if b.left.Load() < 0 && clients[i].Load() > all/4 {
							t.Error("more than there is")
						}
						s.give(all / 16)
					}
				}
			})
		}
	}
	running.Wait()
	if b.left.Load() != all {
		t.Errorf("%d are left in the end", b.left.Load())
	}
}

// TestSlowReadersOfCompressed has clients of one address ask for compressed answers,
// more than there are encoders, and read nothing. Others get theirs compressed.
func TestSlowReadersOfCompressed(t *testing.T) {
	var begun atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path != "/endless" {
			_, _ = io.WriteString(w, strings.Repeat("text ", 1000))
			return
		}
		begun.Add(1)
		piece := make([]byte, 64<<10)
		for n := uint32(1); ; {
			for i := range piece { // what does not become small
				n = n*1664525 + 1013904223
				piece[i] = byte(n >> 24)
			}
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(version, func(t *testing.T) {
			begun.Store(0)
			r := newRig(t, compressing(site(addr)))
			r.from, r.narrow = "127.0.0.9", true
			const slow = maxEncoders + 20
			if version == "HTTP/2" {
				for range slow / h2MaxStreams * 2 {
					c := r.h2silent(t, "app.test")
					c.greet()
					for i := range uint32(slow / 2) {
						c.request(2*i+1, plainGET[:strings.Index(plainGET, ":path")]+":path /endless\naccept-encoding gzip\n", true)
					}
				}
			} else {
				for range slow {
					fmt.Fprint(r.dial(), "GET /endless HTTP/1.1\r\nHost: app.test\r\nAccept-Encoding: gzip\r\n\r\n")
				}
			}
			eventually(t, "all are answered", func() bool { return begun.Load() == slow })
			eventually(t, "all encoders of the address are taken", func() bool {
				return r.srv.encoding.left.Load() <= maxEncoders-maxEncoders/4
			})
			r.from, r.narrow = "127.0.0.1", false
			for range 10 {
				req, _ := http.NewRequest("GET", "https://app.test/", nil)
				req.Header.Set("Accept-Encoding", "gzip")
				resp, err := r.client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
					t.Fatalf("the answer of another client: %q", got)
				}
			}
			if got := maxEncoders - r.srv.encoding.left.Load(); got > maxEncoders/4 {
				t.Errorf("%d encoders of one address", got)
			}
		})
	}
}

// TestSlowUploads has clients of one address upload slowly, to a route that keeps
// bodies for its retries and for its mirrors. Others' are kept all the same.
func TestSlowUploads(t *testing.T) {
	const room, body = 4 << 20, 300 << 10
	backend, seen := failing(t, 1, 0)
	copies, got := mirror(t)
	r := newRig(t, retrying(mirrored(site(backend), copies), 3), soon)
	r.srv.heldBodies.left.Store(room)
	r.srv.copiedBodies.left.Store(room)
	r.from = "127.0.0.9"
	for range 2 * room / body {
		fmt.Fprintf(r.dial(), "PUT / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("s", body))
	}
	eventually(t, "the share of the address is used up", func() bool {
		const last = pieceSize * 4
		return r.srv.heldBodies.left.Load() < room*3/4+last && r.srv.copiedBodies.left.Load() < room*3/4+last
	})
	r.from = "127.0.0.1"
	req, _ := http.NewRequest("PUT", "https://app.test/", strings.NewReader(strings.Repeat("f", body)))
	resp, err := r.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if text := readAll(t, resp); len(text) != body || resp.StatusCode != 200 || seen.Load() < 2 {
		t.Errorf("%d, %d bytes after %d attempts: it was not sent again", resp.StatusCode, len(text), seen.Load())
	}
	if c := await(t, got); len(c.body) != body {
		t.Errorf("a copy of %d bytes", len(c.body))
	}
	eventually(t, "what the other had held has gone, and the one address has its share", func() bool {
		return room-r.srv.heldBodies.left.Load() <= room/4 && room-r.srv.copiedBodies.left.Load() <= room/4
	})
}

// TestTallyOutlivesConnection: whoever closes a connection and opens another is still
// who has copies under way.
func TestTallyOutlivesConnection(t *testing.T) {
	var c census
	l := defaultLimits()
	addr := netip.MustParseAddr("2001:db8::1")
	first := c.enter(addr, &l)
	first.copiedBodies.Add(1)
	c.leave(addr)
	if again := c.enter(netip.MustParseAddr("2001:db8::2"), &l); again != first {
		t.Error("the next connection of the network begins anew")
	}
	c.leave(addr)
	c.forget(first)
	if len(c.clients) != 1 {
		t.Error("forgotten while a copy is under way")
	}
	first.copiedBodies.Add(-1)
	c.forget(first)
	c.forget(first)
	if len(c.clients) != 0 || c.total != 0 {
		t.Errorf("%d clients and %d connections are left", len(c.clients), c.total)
	}
}
