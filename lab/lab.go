package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"gatecontrol/app"
	"gatecontrol/demo"
	"gatecontrol/model"
)

// The administrator of every server of the lab.
const (
	User     = "admin"
	Password = "correct horse battery"
)

// Server is a gateway in this process, on loopback ports of its own.
type Server struct {
	*app.App
	Dir   string
	Admin *Client // signed in
	API   *Client // with a token for everything

	cancel context.CancelFunc
	done   chan error
}

// Options returns the defaults of the command line, on loopback and port 0, in
// a directory of t.
func Options(t testing.TB) app.Options {
	t.Helper()
	var o app.Options
	k, err := kong.New(&o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(nil); err != nil {
		t.Fatal(err)
	}
	o.DataDir = filepath.Join(t.TempDir(), "data")
	o.Host, o.Port = "127.0.0.1", 0
	o.HTTPListen, o.HTTPSListen = "127.0.0.1:0", "127.0.0.1:0"
	o.WGHost, o.WGPort = "127.0.0.1", 0
	o.AdminPassword = model.Secret(Password)
	o.RateLimitAPI, o.RateLimitLogin = 1_000_000, 1000
	o.TLSIssuer = "internal"
	nobody := []string{"127.0.0.1:1"} // tests ask nothing outside
	o.DNSUpstreams, o.PublicResolvers = nobody, nobody
	return o
}

// Start runs a gateway until t ends.
func Start(t testing.TB, change ...func(*app.Options)) *Server {
	t.Helper()
	o := Options(t)
	for _, f := range change {
		f(&o)
	}
	s := Run(t, o)
	s.Admin.Login(t, User, Password)
	s.API = s.Admin.WithToken(s.Admin.MakeToken(t, "full-access"))
	return s
}

// Run runs a gateway with exactly these options until t ends, and signs nobody
// in.
func Run(t testing.TB, o app.Options) *Server {
	t.Helper()
	a, err := app.New(o, Logger(t), "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{App: a, Dir: o.DataDir, cancel: cancel, done: make(chan error, 1)}
	go func() { s.done <- a.Run(ctx) }() // received by Stop
	t.Cleanup(func() { s.Stop(t) })
	select {
	case err := <-s.done:
		s.done <- nil
		t.Fatalf("start: %v", err)
	case <-a.Ready():
	}
	s.Admin = NewClient("http://" + a.Addrs().Admin)
	return s
}

// Stop ends the gateway in order. It may be called again.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	if s.Admin != nil {
		s.Admin.HTTP.CloseIdleConnections()
	}
	if s.API != nil {
		s.API.HTTP.CloseIdleConnections()
	}
	select {
	case err := <-s.done:
		if err != nil {
			t.Errorf("end: %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Error("the gateway did not end")
	}
}

// Peer creates a peer by the API and joins it with its config from a second
// userspace device. It leaves with t.
func (s *Server) Peer(t testing.TB, name string) (id int64, p *demo.Peer) {
	t.Helper()
	var created struct{ Peer struct{ ID int64 } }
	s.API.Call(t, http.StatusCreated, "POST", "/api/v1/peers", map[string]any{"name": name, "hostname": name}, &created)
	id = created.Peer.ID
	var config string
	s.API.Call(t, http.StatusOK, "GET", fmt.Sprintf("/api/v1/peers/%d/config", id), nil, &config)
	p, err := demo.Join(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return id, p
}

var build struct {
	once sync.Once
	bin  string
	err  error
}

// Binary compiles the gatecontrol command, once for all tests of a package. Main
// removes it.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "gatecontrol-test-")
		if err != nil {
			build.err = err
			return
		}
		if build.err = os.Chmod(dir, 0o755); build.err != nil { // another user runs it, too
			return
		}
		build.bin = filepath.Join(dir, "gatecontrol")
		if out, err := exec.Command("go", "build", "-o", build.bin, "gatecontrol/cmd/gatecontrol").CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.bin
}

// RemoveBinary removes what Binary compiled.
func RemoveBinary() {
	if build.bin != "" {
		_ = os.RemoveAll(filepath.Dir(build.bin))
	}
}
