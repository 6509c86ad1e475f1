package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestShutdownDrains(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			io.WriteString(w, "first ")
			w.(http.Flusher).Flush()
			close(began)
			<-finish
			io.WriteString(w, "last")
		}
	})
	r := newRig(t, site(addr))
	idle := r.dial()
	io.WriteString(idle, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	ibr := bufio.NewReader(idle)
	if resp, err := http.ReadResponse(ibr, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() {
		c := r.dial()
		io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n")
		b, _ := io.ReadAll(c)
		answer <- string(b)
	}()
	<-began
	done := make(chan error, 1)
	go func() { done <- r.srv.Shutdown(context.Background()) }()
	if _, err := ibr.ReadByte(); err != io.EOF {
		t.Errorf("idle connection: %v", err)
	}
	eventually(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", r.plain)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-done:
		t.Errorf("did not wait for the request: %v", err)
	default:
	}
	close(finish)
	if err := <-done; err != nil {
		t.Error(err)
	}
	got := <-answer
	resp, err := http.ReadResponse(newReader([]byte(got)), nil)
	if err != nil || readAll(t, resp) != "first last" {
		t.Errorf("the request in flight got %q", got)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	began := make(chan struct{})
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		http.ReadRequest(br)
		close(began)
		io.Copy(io.Discard, br)
	})
	r := newRig(t, site(addr))
	c := r.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := r.srv.Close(); err != nil { // again
		t.Error(err)
	}
}

func TestConnectionLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		tune func(*Options, *limits)
	}{
		{"per address", func(_ *Options, l *limits) { l.perAddress = 3 }},
		{"in all", func(o *Options, _ *limits) { o.Room = model.NewRoom(3) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Config{}, tt.tune)
			ask := func(c net.Conn) error {
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				return err
			}
			var first net.Conn
			for i := range 3 {
				c := r.dial()
				if err := ask(c); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				first = c
			}
			if err := ask(r.dial()); err == nil {
				t.Error("the newest connection is served")
			}
			if err := ask(first); err != nil {
				t.Errorf("an older connection was closed instead: %v", err)
			}
			first.Close()
			eventually(t, "there is room again", func() bool { return ask(r.dial()) == nil })
		})
	}
}

func TestIdleLimit(t *testing.T) {
	r := newRig(t, Config{}, func(_ *Options, l *limits) { l.idle = 80 * time.Millisecond })
	for _, first := range []string{"", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"} {
		c := r.dial()
		io.WriteString(c, first)
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%q: %v", first, err)
		}
	}
}

// TestStalledClient has a client stop within its body, and one that takes nothing.
func TestStalledClient(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	r := newRig(t, site(addr), func(_ *Options, l *limits) { l.stall, l.discard = 100*time.Millisecond, 50*time.Millisecond })
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nabc",
		"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
	} {
		c := r.dial()
		io.WriteString(c, request)
		eventually(t, "the connection is ended", func() bool {
			r.srv.mu.Lock()
			defer r.srv.mu.Unlock()
			return len(r.srv.conns) == 0
		})
		c.Close()
	}
}

// errListener fails a few times before it works.
type errListener struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

type temporary struct{ error }

func (temporary) Temporary() bool { return true }
func (temporary) Timeout() bool   { return false }

func (l *errListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		l.mu.Unlock()
		return nil, err
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

func TestAcceptFailures(t *testing.T) {
	r := newRig(t, Config{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	el := &errListener{Listener: ln, errs: []error{temporary{errors.New("too many open files")}, temporary{errors.New("too many open files")}}}
	done := make(chan error, 1)
	go func() { done <- r.srv.Serve(el) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || statuses(string(b)) != "404" {
		t.Errorf("%q %v", b, err)
	}
	ln.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve of a closed listener: %v", err)
	}
	broken := errors.New("broken")
	if err := r.srv.Serve(&errListener{Listener: ln, errs: []error{broken}}); err != broken {
		t.Errorf("Serve of a broken listener: %v", err)
	}
}

func TestNewChecks(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no options are enough")
	}
}

func TestPanicEndsRequestOnly(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })), func(o *Options, _ *limits) {
		dial, first := o.Dial, true
		o.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			if first {
				first = false
				panic("dialer")
			}
			return dial(ctx, network, addr)
		}
	})
	c := r.client()
	if resp, body := get(t, c, "http://app.test/"); resp.StatusCode != 500 || strings.Contains(body, "dialer") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if resp, body := get(t, c, "http://app.test/"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if !strings.Contains(r.log.String(), "panic in request") {
		t.Error("the panic is not logged")
	}
}

func TestTLSPolicy(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) {})), func(_ *Options, l *limits) { l.handshake = 200 * time.Millisecond })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.authority.RootPEM())
	for _, tt := range []struct {
		name string
		cfg  *tls.Config
		want string // in the error
	}{
		{"tls 1.3", &tls.Config{ServerName: "app.test"}, ""},
		{"tls 1.2", &tls.Config{ServerName: "app.test", MaxVersion: tls.VersionTLS12}, ""},
		{"upper case", &tls.Config{ServerName: "APP.test"}, ""},
		{"tls 1.1", &tls.Config{ServerName: "app.test", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
		{"cbc suite", &tls.Config{ServerName: "app.test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, "handshake failure"},
		{"unknown name", &tls.Config{ServerName: "nobody.test"}, "unrecognized name"},
		{"unknown name, tls 1.2", &tls.Config{ServerName: "nobody.test", MaxVersion: tls.VersionTLS12}, "unrecognized name"},
		{"no name, no admin host", &tls.Config{InsecureSkipVerify: true}, "unrecognized name"},
		{"other protocol alone", &tls.Config{ServerName: "app.test", NextProtos: []string{"spdy/9"}}, "no application protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg.Clone()
			cfg.RootCAs = roots
			c, err := tls.Dial("tcp", r.tls, cfg)
			if err == nil {
				c.Close()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	t.Run("silent client", func(t *testing.T) {
		c, err := net.Dial("tcp", r.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
	})
}

// TestResumption shows that sessions resume, and that a session of a name that is
// no longer served does not open the door.
func TestResumption(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, site(addr))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.authority.RootPEM())
	cache := tls.NewLRUClientSessionCache(4)
	connect := func() (resumed bool, err error) {
		c, err := tls.Dial("tcp", r.tls, &tls.Config{RootCAs: roots, ServerName: "app.test", ClientSessionCache: cache})
		if err != nil {
			return false, err
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || statuses(string(b)) != "200" {
			return false, fmt.Errorf("%q %v", b, err)
		}
		return c.ConnectionState().DidResume, nil
	}
	for i, want := range []bool{false, true} {
		if got, err := connect(); err != nil || got != want {
			t.Errorf("connection %d: resumed %v, %v", i, got, err)
		}
	}
	r.commit(Config{})
	if _, err := connect(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("after the route went: %v", err)
	}
}

// TestIdleMemory holds many idle connections. The figure includes the client's
// side of each, and must still be below what the proxy alone may cost.
func TestIdleMemory(t *testing.T) {
	const n, bound = 300, 50 << 10
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })))
	for name, dial := range map[string]func() net.Conn{
		"plain": r.dial,
		"tls":   func() net.Conn { return r.dialTLS("app.test") },
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range n {
			c := dial()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, resp) != "hello" {
				t.Fatal("not the answer")
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / n
		if each > bound {
			t.Errorf("%s: %d bytes per idle connection", name, each)
		}
	}
}
