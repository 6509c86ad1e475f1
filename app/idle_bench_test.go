package app_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// BenchmarkIdleConnections tells what connections cost on which nothing happens:
// memory of the server's process, of which each holds a part until it is closed.
// A WebSocket is a connection of the client and one to the backend.
func BenchmarkIdleConnections(b *testing.B) {
	upgrade := func(c net.Conn) error {
		_, err := fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: idle.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if err != nil {
			return err
		}
		return expect(c, 101)
	}
	request := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: idle.example.test\r\n\r\n"); err != nil {
			return err
		}
		return expect(c, 200)
	}
	for _, kind := range []struct {
		name   string
		count  int
		secure bool
		use    func(net.Conn) error
	}{
		{"keep-alive", 10_000, false, request},
		{"keep-alive-tls", 10_000, true, request},
		{"websocket", 2_000, false, upgrade},
		{"websocket-tls", 2_000, true, upgrade},
	} {
		b.Run(kind.name, func(b *testing.B) {
			for b.Loop() {
				idle := newIdleServer(b)
				began := idle.resident(b)
				var all []net.Conn
				for i := range kind.count {
					c := idle.dial(b, i, kind.secure)
					if err := kind.use(c); err != nil {
						b.Fatalf("connection %d: %v", i, err)
					}
					all = append(all, c)
				}
				held := idle.settled(b)
				b.ReportMetric(float64(held-began)/float64(kind.count), "B/conn")
				b.ReportMetric(float64(held)/(1<<20), "MiB-in-all")
				for _, c := range all {
					_ = c.Close()
				}
				runtime.KeepAlive(all)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// expect reads an answer whole.
func expect(c net.Conn, status int) error {
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
	if err != nil {
		return err
	}
	if res.StatusCode != status {
		return fmt.Errorf("status %d, want %d", res.StatusCode, status)
	}
	if status == 101 {
		return nil
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// idleServer is the server in a process of its own, with a route to a backend that
// takes upgrades and is silent from then on.
type idleServer struct {
	pid         int
	http, https string
	trust       *tls.Config
}

func newIdleServer(b *testing.B) *idleServer {
	b.Helper()
	done := make(chan struct{})
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, "hello")
			return
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-done
	}))
	b.Cleanup(func() { close(done); behind.Close() })
	_, backend, err := net.SplitHostPort(behind.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	admin, plain, secure := lab.FreePort(b), lab.FreePort(b), lab.FreePort(b)
	s := &idleServer{http: fmt.Sprintf("127.0.0.1:%d", plain), https: fmt.Sprintf("127.0.0.1:%d", secure)}
	dir := filepath.Join(b.TempDir(), "data")
	api := lab.NewClient(fmt.Sprintf("http://127.0.0.1:%d", admin))
	start := func() *exec.Cmd {
		cmd := exec.Command(lab.Binary(b), "serve")
		cmd.Env = append(os.Environ(), "GC_DATA_DIR="+dir, "GC_ADMIN_PASSWORD="+lab.Password, "GC_HTTP_LISTEN="+s.http, "GC_HTTPS_LISTEN="+s.https,
			fmt.Sprint("GC_PORT=", admin), "GC_WG_PORT=0", "GC_LOG_LEVEL=error")
		lab.StartProcess(b, cmd)
		s.pid = cmd.Process.Pid
		awaitHealth(b, api)
		return cmd
	}
	first := start()
	api.Login(b, lab.User, lab.Password)
	api = api.WithToken(api.MakeToken(b, "full-access"))
	api.Call(b, 201, "POST", "/api/v1/routes", map[string]any{"domain": "idle.example.test", "target_port": backend, "https_enabled": false}, nil)
	lab.StopProcess(first) // the hash of a password takes 64 MiB, which the next one has not taken
	start()
	s.trust = trustIn(b, dir)
	s.trust.ServerName = "idle.example.test"
	return s
}

// dial connects from one of several addresses, since each may have so many
// connections and no more.
func (s *idleServer) dial(b *testing.B, i int, secure bool) net.Conn {
	b.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/2000))}, Timeout: 10 * time.Second}
	addr := s.http
	if secure {
		addr = s.https
	}
	c, err := d.DialContext(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	if secure {
		t := tls.Client(c, s.trust)
		if err := t.HandshakeContext(b.Context()); err != nil {
			b.Fatal(err)
		}
		return t
	}
	return c
}

// settled is the resident memory once it has stopped to change: what the garbage
// collector gives back follows by and by.
func (s *idleServer) settled(b *testing.B) int64 {
	b.Helper()
	last := s.resident(b)
	for range 30 {
		time.Sleep(time.Second) // between two looks at another process
		now := s.resident(b)
		if change := now - last; change > -(256<<10) && change < 256<<10 {
			return now
		}
		last = now
	}
	return last
}

// resident is the memory that the process holds, in bytes.
func (s *idleServer) resident(b *testing.B) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("the system tells no resident memory")
	return 0
}
