package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// meteredListener is a listener, and its connections, that count what is read of them.
type meteredListener struct {
	net.Listener
	read *atomic.Int64
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &meter{Conn: c, read: l.read, written: new(atomic.Int64)}, err
}

// meter counts bytes, those of a write that does not end as well.
type meter struct {
	net.Conn
	read, written *atomic.Int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.read.Add(int64(n))
	return n, err
}

func (m *meter) Write(p []byte) (done int, err error) {
	for done < len(p) && err == nil {
		var n int
		n, err = m.Conn.Write(p[done:min(done+1024, len(p))])
		m.written.Add(int64(n))
		done += n
	}
	return done, err
}

type countedBody struct{ sent *atomic.Int64 }

func (b countedBody) Read(p []byte) (int, error) {
	clear(p)
	b.sent.Add(int64(len(p)))
	return len(p), nil
}

// TestUploadUnread has a backend read nothing of a body without end. What this process
// keeps of it, which is what it has got of the client less what the kernel has taken for
// the backend, is bounded, after a part that went fast as well.
func TestUploadUnread(t *testing.T) {
	const bound = 256<<10 + pieceSize // and one piece that is being written
	for _, p := range protocols {
		for _, first := range []int64{0, 2 << 20} {
			name := p.name
			if first > 0 {
				name += ", read at first"
			}
			t.Run(name, func(t *testing.T) {
				let, holds := make(chan struct{}), make(chan struct{})
				addr := backend(t, func(_ http.ResponseWriter, req *http.Request) {
					if n, err := io.CopyN(io.Discard, req.Body, first); err != nil {
						t.Errorf("the backend got %d bytes: %v", n, err)
					}
					close(holds)
					<-let
				})
				var got, sent, written, answers atomic.Int64
				r := newRig(t, site(addr), func(o *Options, _ *limits) {
					dial := o.Dial
					o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
						c, err := dial(ctx, network, to)
						if err != nil {
							return nil, err
						}
						_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
						return &meter{Conn: c, read: &answers, written: &written}, nil
					}
				})
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				r.tls = ln.Addr().String()
				r.serving.Go(func() { _ = r.srv.ServeTLS(meteredListener{ln, &got}) })
				from := &got
				if p.major > 1 {
					from = &sent
				}
				client := p.client(r)
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, "POST", "https://app.test/", io.NopCloser(countedBody{&sent}))
					if resp, err := client.Do(req); err == nil {
						_ = resp.Body.Close()
					}
				})
				defer running.Wait()
				defer close(let)
				defer cancel()
				<-holds
				// Kernels may go on to take a little now and then.
				var kept int64
				looks := 0
				eventually(t, "the client has filled its window", func() bool {
					now := from.Load()
					kept = max(kept, now-written.Load())
					looks++
					return looks > 100 && (p.major == 1 || kept > 128<<10)
				})
				t.Logf("%d KiB of %d are kept", kept>>10, from.Load()>>10)
				if p.major > 1 {
					kept -= h2MaxFrame // which the client itself has read ahead
				}
				if kept > bound {
					t.Errorf("%d KiB are kept", kept>>10)
				}
			})
		}
	}
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

// TestUploadRefusedWhole: a body whose last bytes find no room has not come to its end,
// whoever looks between that and the reset of its stream.
func TestUploadRefusedWhole(t *testing.T) {
	r := newRig(t, site(netip.MustParseAddrPort("127.0.0.1:1")))
	c := &conn{srv: r.srv, tally: new(tally), Conn: new(net.TCPConn)}
	h := newH2conn(c)
	var frames bytes.Buffer
	client := http2.NewFramer(&frames, nil)
	_ = client.WriteData(1, false, []byte("first"))
	_ = client.WriteData(1, true, []byte("last"))
	h.framer = http2.NewFramer(nil, &frames)
	h.maxID = 1
	st := h.newStream(1)
	st.expects = unknownLength
	h.streams[1] = st
	defer func() { r.srv.kept(c.tally).give(st.unread()) }()
	for i, want := range []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeEnhanceYourCalm} {
		f, err := h.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			left := r.srv.bodies.left.Load()
			r.srv.bodies.left.Store(0)
			defer r.srv.bodies.left.Store(left)
		}
		err = h.handleData(f.(*http2.DataFrame))
		if refusal, _ := err.(http2.StreamError); refusal.Code != want {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if b, ok := st.Take(maxInlineBody); ok {
		t.Errorf("taken for the whole: %q", b)
	}
}
