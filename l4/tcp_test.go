package l4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatecontrol/model"
)

// roundTrip sends total bytes, half-closes, and returns the hashes of what was
// sent and of what came back.
func roundTrip(t testing.TB, c interface {
	net.Conn
	CloseWrite() error
}, total int) (sums [2][32]byte) {
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 100_000)
		for left := total; left > 0; {
			n := min(left, 1+rng.IntN(len(b)))
			for i := range b[:n] {
				b[i] = byte(rng.Uint32())
			}
			sent.Write(b[:n])
			if _, err := c.Write(b[:n]); err != nil {
				done <- err
				return
			}
			left -= n
		}
		done <- c.CloseWrite()
	}()
	if n, err := io.Copy(got, c); err != nil || n != int64(total) {
		t.Errorf("received %d of %d bytes: %v", n, total, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	return [2][32]byte{[32]byte(sent.Sum(nil)), [32]byte(got.Sum(nil))}
}

// plain hides that a connection is a socket of the host, as one of the tunnel
// is not.
type plain struct{ *net.TCPConn }

func (p plain) SyscallConn() {}
func (p plain) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{p.TCPConn}, r)
}

func dialPlain(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	c, err := dialHost(ctx, network, addr)
	if tcp, ok := c.(*net.TCPConn); ok {
		return plain{tcp}, err
	}
	return struct{ net.Conn }{c}, err
}

func TestBulk(t *testing.T) {
	for name, dial := range map[string]func(context.Context, string, netip.AddrPort) (net.Conn, error){
		"host to host": dialHost, "host to tunnel": dialPlain,
	} {
		t.Run(name, func(t *testing.T) {
			s, port := newServer(t, func(o *Options) { o.Dial = dial }), freePort(t)
			apply(t, s, route(1, "tcp", port, echoTarget(t)))
			for _, size := range []int{0, 1, smallBuffer, spliceAfter, spliceAfter + 1, 8 << 20} {
				if h := roundTrip(t, dialPort(t, port), size); h[0] != h[1] {
					t.Fatalf("%d bytes: they differ", size)
				}
			}
			eventually(t, "flows end", func() bool { return flows(s, 1) == 0 })
		})
	}
}

// The target answers only after it has seen the end of the question.
func TestHalfClose(t *testing.T) {
	s, port := newServer(t), freePort(t)
	apply(t, s, route(1, "tcp", port, tcpTarget(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		_, _ = c.Write(bytes.ToUpper(b))
	})))
	c := dialPort(t, port)
	_, _ = c.Write([]byte("question"))
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "QUESTION" {
		t.Fatalf("%q, %v", b, err)
	}
}

// The target speaks first and ends its side; the client still sends.
func TestHalfCloseByTarget(t *testing.T) {
	s, port, got := newServer(t), freePort(t), make(chan string, 1)
	apply(t, s, route(1, "tcp", port, tcpTarget(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("banner"))
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})))
	c := dialPort(t, port)
	if b, err := io.ReadAll(c); err != nil || string(b) != "banner" {
		t.Fatalf("%q, %v", b, err)
	}
	_, _ = c.Write([]byte("late"))
	_ = c.CloseWrite()
	if b := <-got; b != "late" {
		t.Fatalf("target got %q", b)
	}
}

// A cut stream arrives as a reset, never as a clean end, before and after the
// kernel splices it.
func TestResetIsPassedOn(t *testing.T) {
	for name, size := range map[string]int{"early": 100, "spliced": 4 * spliceAfter} {
		t.Run(name, func(t *testing.T) {
			s, port := newServer(t), freePort(t)
			cut := make(chan struct{})
			apply(t, s, route(1, "tcp", port, tcpTarget(t, func(c *net.TCPConn) {
				_, _ = c.Write(make([]byte, size))
				<-cut
				_ = c.SetLinger(0)
			})))
			c := dialPort(t, port)
			if _, err := io.ReadFull(c, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			close(cut)
			if n, err := io.Copy(io.Discard, c); err == nil || isTimeout(err) {
				t.Fatalf("%d bytes, %v; want a reset", n, err)
			}
			eventually(t, "the flow ends", func() bool { return flows(s, 1) == 0 })
		})
	}
}

func TestTargetRefuses(t *testing.T) {
	s, port := newServer(t), freePort(t)
	apply(t, s, route(1, "tcp", port, netip.AddrPortFrom(netip.MustParseAddr(loopback), freePort(t))))
	expectEnd(t, dialPort(t, port))
	eventually(t, "the flow ends", func() bool { return flows(s, 1) == 0 })
}

// Removing a route ends the dial that is under way.
func TestRemovedWhileDialing(t *testing.T) {
	dialing := make(chan struct{})
	s := newServer(t, func(o *Options) {
		o.Dial = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	port := freePort(t)
	apply(t, s, route(1, "tcp", port, anyTarget))
	c := dialPort(t, port)
	<-dialing
	apply(t, s)
	expectEnd(t, c)
}

// faulty fails some accepts, as a process without file descriptors does.
type faulty struct {
	net.Listener
	left atomic.Int64
}

func (f *faulty) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, syscall.EMFILE
	}
	return f.Listener.Accept()
}

func TestAcceptFailsForAWhile(t *testing.T) {
	f := new(faulty)
	f.left.Store(4)
	s := newServer(t, func(o *Options) {
		listen := o.Binds[0].Listen
		o.Binds[0].Listen = func(port uint16) (net.Listener, error) {
			var err error
			f.Listener, err = listen(port)
			return f, err
		}
	})
	port := freePort(t)
	apply(t, s, route(1, "tcp", port, echoTarget(t)))
	ping(t, dialPort(t, port))
	if f.left.Load() >= 0 {
		t.Fatal("no accept failed")
	}
	f.left.Store(1 << 30)
	_ = dialPort(t, port) // wakes the accept that waits
	apply(t, s)           // ends a loop that only fails
}

func TestPanicEndsOneFlow(t *testing.T) {
	first := make(chan struct{}, 1)
	first <- struct{}{}
	s := newServer(t, func(o *Options) {
		o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			select {
			case <-first:
				panic("test")
			default:
				return dialHost(ctx, network, addr)
			}
		}
	})
	port := freePort(t)
	apply(t, s, route(1, "tcp", port, echoTarget(t)))
	expectEnd(t, dialPort(t, port))
	ping(t, dialPort(t, port))
	if n := s.Status().Panics; n != 1 {
		t.Fatalf("%d panics counted", n)
	}
}

func TestTCPLimits(t *testing.T) {
	for name, limit := range map[string]func(*Options){
		"all":        func(o *Options) { o.TCP.All = 3 },
		"per route":  func(o *Options) { o.TCP.PerRoute = 3 },
		"per client": func(o *Options) { o.TCP.PerClient = 3 },
		"room":       func(o *Options) { o.Room = model.NewRoom(3 * 2) },
	} {
		t.Run(name, func(t *testing.T) {
			s, port := newServer(t, limit), freePort(t)
			apply(t, s, route(1, "tcp", port, echoTarget(t)))
			var open []*net.TCPConn
			for range 3 {
				c := dialPort(t, port)
				ping(t, c)
				open = append(open, c)
			}
			expectEnd(t, dialPort(t, port))
			ping(t, open[0])
			if st := s.Status(); st.Flows[1] != 3 || st.Refused != 1 {
				t.Fatalf("%+v", st)
			}
			_ = open[0].Close()
			eventually(t, "a place is free", func() bool { return flows(s, 1) == 2 })
			ping(t, dialPort(t, port))
		})
	}
}

// silentConn is a source that never says anything.
type silentConn struct {
	net.Conn
	deadline chan time.Time
}

func (c silentConn) SetReadDeadline(t time.Time) error {
	c.deadline <- t
	return c.Conn.SetReadDeadline(t)
}

// A finished direction bounds the silence of the other one.
func TestHalfClosedAndSilent(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := silentConn{a, make(chan time.Time, 10)}
	down := stream{dst: nullConn{}, src: c}
	up := stream{dst: nullConn{}, src: eofConn{}, opposite: &down}
	down.opposite = &up
	ended := make(chan bool, 1)
	go func() { ended <- down.run() }()
	if !up.run() {
		t.Fatal("an end is no failure")
	}
	if d := time.Until(<-c.deadline); d <= 0 || d > halfCloseIdle {
		t.Fatalf("silence is bounded to %v", d)
	}
	down.limitSilence(time.Millisecond)
	if <-ended {
		t.Fatal("a silent direction ended as if it were whole")
	}
}

type nullConn struct{ net.Conn }

func (nullConn) Write(b []byte) (int, error)     { return len(b), nil }
func (nullConn) SetReadDeadline(time.Time) error { return nil }

type eofConn struct{ net.Conn }

func (eofConn) Read([]byte) (int, error)        { return 0, io.EOF }
func (eofConn) SetReadDeadline(time.Time) error { return nil }

func TestCopyTellsSourceFromDestination(t *testing.T) {
	broken := errors.New("broken")
	_, err := copyAdaptive(failing{broken}, bytes.NewReader([]byte("x")))
	if _, ok := errors.AsType[*writeError](err); !ok || !errors.Is(err, broken) {
		t.Fatalf("write: %v", err)
	}
	_, err = copyAdaptive(io.Discard, failing{broken})
	if _, ok := errors.AsType[*writeError](err); ok || !errors.Is(err, broken) {
		t.Fatalf("read: %v", err)
	}
}

// inPieces is a connection that holds pieces of some sizes: each read waits for
// the next unless there is more of the last.
type inPieces struct {
	io.Reader
	pieces []int
	rest   int
}

func (p *inPieces) Buffered() int { return p.rest }

func (p *inPieces) Read(b []byte) (int, error) {
	if p.rest == 0 {
		if len(p.pieces) == 0 {
			return 0, io.EOF
		}
		p.rest, p.pieces = p.pieces[0], p.pieces[1:]
	}
	n, err := p.Reader.Read(b[:min(len(b), p.rest)])
	p.rest -= n
	return n, err
}

// writes notes the size of each write.
type writes struct {
	bytes.Buffer
	sizes []int
}

func (w *writes) Write(b []byte) (int, error) {
	w.sizes = append(w.sizes, len(b))
	return w.Buffer.Write(b)
}

// TestCopyWritesWhatIsThere: what came together is written together.
func TestCopyWritesWhatIsThere(t *testing.T) {
	pieces := []int{1, smallBuffer - 1, smallBuffer, smallBuffer + 8, 3 * smallBuffer, largeBuffer, 100, 2 * largeBuffer, smallBuffer + 1}
	want := append(slices.Clone(pieces[:7]), largeBuffer, largeBuffer, smallBuffer+1)
	data := make([]byte, 4*largeBuffer)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	total := 0
	for _, n := range pieces {
		total += n
	}
	var to writes
	n, err := copyAdaptive(&to, &inPieces{Reader: bytes.NewReader(data), pieces: pieces})
	if err != nil || n != int64(total) {
		t.Fatalf("%d bytes, %v; want %d", n, err, total)
	}
	if !bytes.Equal(to.Bytes(), data[:total]) {
		t.Error("the bytes changed")
	}
	if !slices.Equal(to.sizes, want) {
		t.Errorf("writes of %v bytes, want %v", to.sizes, want)
	}
}

// TestWriterOfTheHost writes more than the other side takes at once, and finds
// it gone later.
func TestWriterOfTheHost(t *testing.T) {
	near, far := hostPair(t)
	w := writerTo(near)
	if _, ok := w.(*hostWriter); !ok {
		t.Fatalf("%T", w)
	}
	data := make([]byte, 16<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	var got bytes.Buffer
	read := make(chan error)
	go func() {
		_, err := io.CopyN(&got, far, int64(len(data)))
		read <- err
	}()
	if n, err := w.Write(data); err != nil || n != len(data) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if err := <-read; err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Fatalf("%v, %d bytes", err, got.Len())
	}
	_ = near.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := w.Write(data); !isTimeout(err) || n >= len(data) {
		t.Fatalf("%d bytes, %v; want a timeout", n, err)
	}
	_ = near.SetWriteDeadline(time.Time{})
	_ = far.SetLinger(0)
	_ = far.Close()
	if _, err := w.Write(data); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("reset: %v", err)
	}
	_ = near.Close()
	if _, err := w.Write(data); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
}

// hostPair returns both ends of a connection of this host.
func hostPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), o.Close() })
	return c.(*net.TCPConn), o.(*net.TCPConn)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }
