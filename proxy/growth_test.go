package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// farAway is half of a round trip to another continent.
const farAway = 50 * time.Millisecond

// lane delivers what is put on it after a time, in order. It holds what is under way.
type lane struct {
	queue chan parcel
	quit  chan struct{}
}

type parcel struct {
	due time.Time
	b   []byte
}

func newLane(running *sync.WaitGroup, deliver func([]byte)) *lane {
	l := &lane{make(chan parcel, 64<<10), make(chan struct{})}
	running.Go(func() {
		for p := range l.queue {
			select {
			case <-time.After(time.Until(p.due)):
				deliver(p.b)
			case <-l.quit:
			}
		}
	})
	return l
}

func (l *lane) put(b []byte) { l.queue <- parcel{time.Now().Add(farAway), append([]byte(nil), b...)} }

// moveAway puts a long way in front of the TLS port, which clients made from now on
// take.
func (r *rig) moveAway() {
	r.t.Helper()
	to := r.tls
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	carry := func(dst, src net.Conn) {
		l := newLane(&running, func(b []byte) { _, _ = dst.Write(b) })
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			l.put(buf[:n])
			if err != nil {
				close(l.quit)
				close(l.queue)
				_ = dst.Close()
				return
			}
		}
	}
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, c, s)
			mu.Unlock()
			running.Go(func() { carry(s, c) })
			running.Go(func() { carry(c, s) })
		}
	})
	r.t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	r.tls = ln.Addr().String()
}

// movePacketsAway does the same for HTTP/3, and for one client.
func (r *rig) movePacketsAway() {
	r.t.Helper()
	to := r.quic()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	back, err := net.Dial("udp", to)
	if err != nil {
		r.t.Fatal(err)
	}
	var running sync.WaitGroup
	var client atomic.Pointer[net.UDPAddr]
	there := newLane(&running, func(b []byte) { _, _ = back.Write(b) })
	here := newLane(&running, func(b []byte) { _, _ = front.WriteToUDP(b, client.Load()) })
	carry := func(l *lane, read func([]byte) (int, error)) {
		buf := make([]byte, 2048)
		for {
			n, err := read(buf)
			if err != nil {
				close(l.quit)
				close(l.queue)
				return
			}
			l.put(buf[:n])
		}
	}
	for _, c := range []*net.UDPConn{front, back.(*net.UDPConn)} {
		_ = c.SetReadBuffer(4 << 20)
		_ = c.SetWriteBuffer(4 << 20)
	}
	running.Go(func() {
		carry(there, func(b []byte) (int, error) {
			n, from, err := front.ReadFromUDP(b)
			client.Store(from)
			return n, err
		})
	})
	running.Go(func() { carry(here, back.Read) })
	r.t.Cleanup(func() {
		_ = front.Close()
		_ = back.Close()
		running.Wait()
	})
	r.packets = front.LocalAddr().String()
}

// TestUploadFromAfar uploads over a round trip of 100 ms. The first windows allow 2.5
// MB/s there; they have grown long before the end.
func TestUploadFromAfar(t *testing.T) {
	const size = 24 << 20
	const fixed = h2StreamWindow / (2 * float64(farAway) / float64(time.Second)) // bytes a second
	sink := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if n != size && r.Method == "POST" {
			t.Errorf("the backend got %d bytes", n)
		}
	})
	for _, p := range protocols[1:] {
		t.Run(p.name, func(t *testing.T) {
			// A connection that idles is closed later than what eventually waits for,
			// but one that was lent something a good deal sooner.
			r := newRig(t, site(sink), func(_ *Options, l *limits) { l.idle = 12 * time.Second })
			if p.major == 2 {
				r.moveAway()
			} else {
				r.movePacketsAway()
			}
			c := p.client(r)
			resp, err := c.Get("https://app.test/") // has the connection made
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			rate := 0.0
			for try := 0; try < 3 && rate < 3*fixed; try++ { // a busy machine is slower than the windows
				began := time.Now()
				req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(io.LimitReader(zeros{}, size)))
				if resp, err = c.Do(req); err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				rate = size / time.Since(began).Seconds()
				t.Logf("%.1f MB/s", rate/1e6)
			}
			if rate < 3*fixed && !raceEnabled || rate < fixed/2 {
				t.Errorf("%.1f MB/s, with fixed windows it would be %.1f", rate/1e6, fixed/1e6)
			}
			if left := r.srv.windows.left.Load(); left >= growthBudget && !raceEnabled {
				t.Error("nothing was lent")
			}
			if tr, ok := c.Transport.(sameVersion).RoundTripper.(io.Closer); ok { // HTTP/3
				_ = tr.Close()
			}
			eventually(t, "what was lent is given back", func() bool { return r.srv.windows.left.Load() == growthBudget })
		})
	}
}

// TestUploadNothingLent uploads from afar when all of the budget is in use by others.
func TestUploadNothingLent(t *testing.T) {
	const size = 1 << 20
	sink := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n != size {
			t.Errorf("the backend got %d bytes, %v", n, err)
		}
	})
	for _, p := range protocols[1:] {
		t.Run(p.name, func(t *testing.T) {
			r := newRig(t, site(sink))
			if p.major == 2 {
				r.moveAway()
			} else {
				r.movePacketsAway()
			}
			if r.grown = growthBudget; !r.srv.windows.take(r.grown) {
				t.Fatal("no budget")
			}
			req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(io.LimitReader(zeros{}, size)))
			resp, err := p.client(r).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if left := r.srv.windows.left.Load(); left != 0 {
				t.Errorf("%d are left of nothing", left)
			}
		})
	}
}

// TestUploadsHeld has many uploads grow their windows, and then backends stop reading
// while clients go on sending. What is kept of them all is bounded by what was lent.
func TestUploadsHeld(t *testing.T) {
	const uploads, conns, lent = 8, 4, 8 << 20 // of which one address has a quarter
	var r *rig
	stop, let := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(let) })
	defer end()
	var reading, held atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, req *http.Request) {
		buf := make([]byte, 64<<10)
		reading.Add(1)
		for {
			select {
			case <-stop:
				held.Add(1)
				<-let
				return
			default:
			}
			if _, err := req.Body.Read(buf); err != nil {
				return
			}
		}
	})
	r = newRig(t, site(addr))
	r.moveAway()
	if r.grown = growthBudget - lent; !r.srv.windows.take(r.grown) {
		t.Fatal("no budget")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	for range conns {
		c := r.via2()
		for range uploads / conns {
			running.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, "POST", "https://app.test/", io.NopCloser(zeros{}))
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
	}
	eventually(t, "all are under way", func() bool { return reading.Load() == uploads })
	left := func() int64 { return r.srv.windows.left.Load() }
	for began := time.Now(); left() > lent*3/4+h2ConnWindow && time.Since(began) < 5*time.Second; {
		<-time.After(10 * time.Millisecond)
	}
	if left() == lent && !raceEnabled { // which is slower than the windows
		t.Error("nothing was lent")
	}
	close(stop)
	eventually(t, "all backends hold", func() bool { return held.Load() == uploads })
	// The clients send until their windows are used up.
	var kept int64
	still := 0
	eventually(t, "nothing comes any more", func() bool {
		now := r.h2Unread()
		if still++; now != kept {
			still = 0
		}
		kept = now
		return still > 200
	})
	const most = conns*h2ConnWindow + lent/4
	t.Logf("%d KiB are kept in %d KiB of buffers, at most %d may", kept>>10, r.h2Kept()>>10, most>>10)
	if kept > most || r.h2Kept() > 4*kept+uploads*h2KeptBuffer {
		t.Errorf("%d KiB are kept in %d KiB of buffers, of %d KiB of windows", kept>>10, r.h2Kept()>>10, most>>10)
	}
	if kept < conns*h2ConnWindow/2 {
		t.Error("the clients have not filled their windows: nothing was tested")
	}
	cancel()
	end()
	running.Wait()
	eventually(t, "nothing is kept", func() bool { return r.h2Unread() == 0 && r.h2Kept() == 0 })
}

// h2Unread is how much is kept of bodies on all HTTP/2 connections.
func (r *rig) h2Unread() (sum int64) {
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for c := range r.srv.conns {
		if h := c.h2.Load(); h != nil {
			h.mu.Lock()
			for _, st := range h.streams {
				sum += st.unread()
			}
			h.mu.Unlock()
		}
	}
	return sum
}

// TestUploadsKept has backends read nothing, and more clients than there is room for
// send what their windows allow. What is beyond the budget is refused, and the others
// are kept.
func TestUploadsKept(t *testing.T) {
	const conns, room = 12, 8 << 20 // of which one address has a quarter
	let := make(chan struct{})
	end := sync.OnceFunc(func() { close(let) })
	defer end()
	var whole atomic.Int32
	addr := backend(t, func(w http.ResponseWriter, req *http.Request) {
		<-let
		if n, err := io.Copy(io.Discard, req.Body); err == nil && n == h2StreamWindow {
			whole.Add(1)
		}
	})
	r := newRig(t, site(addr), func(o *Options, _ *limits) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			c, err := dial(ctx, network, to)
			if err == nil {
				_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10) // so that little is on its way
			}
			return c, err
		}
	})
	if r.kept = keptBudget - room; !r.srv.bodies.take(r.kept) {
		t.Fatal("no budget")
	}
	var running sync.WaitGroup
	var refused, answered atomic.Int32
	for range conns {
		c := r.via2()
		for range 2 {
			running.Go(func() {
				req, _ := http.NewRequest("POST", "https://app.test/", io.NopCloser(io.LimitReader(zeros{}, h2StreamWindow)))
				req.ContentLength = h2StreamWindow
				switch resp, err := c.Do(req); {
				case err == nil:
					resp.Body.Close()
					answered.Add(1)
				case strings.Contains(err.Error(), "ENHANCE_YOUR_CALM"):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
	}
	eventually(t, "some are refused, and nothing more comes", func() bool {
		return refused.Load() > 0 && r.h2Unread() > room/8 || refused.Load() == 2*conns
	})
	if got := r.h2Unread(); got > room/4 {
		t.Errorf("%d KiB are kept, %d may be", got>>10, room>>12)
	}
	end()
	running.Wait()
	if whole.Load() == 0 || answered.Load() != whole.Load() || answered.Load()+refused.Load() != 2*conns {
		t.Errorf("%d are whole, %d answered, %d refused", whole.Load(), answered.Load(), refused.Load())
	}
	eventually(t, "all of the budget is there", func() bool { return r.srv.bodies.left.Load() == room })
}
