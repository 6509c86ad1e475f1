package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestStopUnderLoad stops a server with everything open at once: a request in
// flight is answered, nothing new gets in, and the rest does not hold it up.
func TestStopUnderLoad(t *testing.T) {
	const grace = 3 * time.Second
	s := lab.Start(t, func(o *app.Options) { o.ShutdownTimeout = app.Millis(grace.Milliseconds()) })
	if _, err := s.StartDemo(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, p := s.Peer(t, "busy")
	arrived, answer := make(chan struct{}), make(chan struct{})
	ln, err := p.Listen(8000)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			close(arrived)
			<-answer
			_, _ = io.WriteString(w, "in time")
			return
		}
		echoUpgrade(w, r)
	})}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": "busy.example.test", "peer_id": id, "target_port": 8000}, nil)
	port := lab.FreePort(t)
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": port, "peer_id": id, "target_port": 8000}, nil)

	flow, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	exchange(t, dialUpgrade(t, s, "busy.example.test"))
	got := make(chan error, 1)
	client := trusting(t, s)
	go func() {
		res, err := client.Get("https://busy.example.test/")
		if err == nil {
			var body []byte
			body, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && string(body) != "in time" {
				err = fmt.Errorf("%s: %q", res.Status, body)
			}
		}
		got <- err
	}()
	<-arrived

	addrs, stopped := s.Addrs(), make(chan struct{})
	go func() { s.Stop(t); close(stopped) }()
	for _, addr := range []string{addrs.HTTP, addrs.HTTPS, addrs.Admin, fmt.Sprintf("127.0.0.1:%d", port)} {
		lab.Eventually(t, grace, "the door to close: "+addr, func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil
			}
			_ = conn.Close()
			return errors.New("open")
		})
	}
	close(answer)
	if err := <-got; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	begin := time.Now()
	<-stopped
	if took := time.Since(begin); took > grace {
		t.Errorf("the end took %v after the last request", took)
	}
}

// TestStopHasOneGrace stops a server whose doors are all held open by clients
// that send half a request: the times of grace do not add up.
func TestStopHasOneGrace(t *testing.T) {
	const grace = 5 * time.Second
	s := lab.Start(t, func(o *app.Options) { o.ShutdownTimeout = app.Millis(grace.Milliseconds()) })
	id, p := s.Peer(t, "silent")
	ln, err := p.Listen(8000)
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, ln) // answers no HTTP that a proxy would take
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": "silent.example.test", "peer_id": id, "target_port": 8000, "https_enabled": false}, nil)
	for _, addr := range []string{s.Addrs().Admin, s.Addrs().HTTP} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	s.Stop(t)
	if took := time.Since(begin); took > 2*grace-time.Second {
		t.Errorf("the end took %v", took)
	}
}

// TestStopWhileStarting stops at any moment of the start: that is no failure.
func TestStopWhileStarting(t *testing.T) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		a, err := app.New(lab.Options(t), lab.Logger(t), "test")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if err := a.Run(ctx); err != nil {
			t.Errorf("stopped after %v: %v", after, err)
		}
		cancel()
	}
}

// TestStartAgainAndAgain stops and starts on one directory in quick succession.
func TestStartAgainAndAgain(t *testing.T) {
	o := lab.Options(t)
	for range 5 {
		s := lab.Run(t, o)
		if _, err := s.StartDemo(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Stop(t)
	}
}

// TestRouteOnOurPort starts with a stored port route on a port that the settings
// have since given to the resolver: the route waits, the rest serves.
func TestRouteOnOurPort(t *testing.T) {
	o := lab.Options(t)
	o.L4BlockedPorts, o.DNSEnabled = []uint16{22}, false
	s := lab.Run(t, o)
	s.Admin.Login(t, lab.User, lab.Password)
	if status, err := s.Admin.Try(t.Context(), "POST", "/api/v1/routes", map[string]any{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": 53, "target_ip": "", "target_port": 9}, nil); err != nil || status != 201 {
		t.Skipf("needs port 53 of this host: %d %v", status, err)
	}
	s.Stop(t)
	o.DNSEnabled = true
	lab.Run(t, o).Stop(t)
}
