package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

func dialHost(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr.String())
}

func newProber(limit time.Duration) *prober {
	return &prober{dial: dialHost, userAgent: "Test/1", http: limit, tcp: limit}
}

func targetOf(l net.Addr) model.ProbeTarget {
	return model.ProbeTarget{Addr: netip.MustParseAddrPort(l.String())}
}

// raw is a server that answers every connection with text, whatever it says, and holds
// it until the client has gone.
func raw(t *testing.T, text string) model.ProbeTarget {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return targetOf(ln.Addr())
}

// nobody is a port that nobody listens on.
func nobody(t *testing.T) model.ProbeTarget {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return targetOf(ln.Addr())
}

// TestAskHTTP says which answers are those of a service that is up.
func TestAskHTTP(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		var status int
		if _, err := fmt.Sscan(r.Header.Get("X-Status"), &status); err != nil {
			status = 200
		}
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	status := func(n int) *model.Probe {
		return &model.Probe{Kind: model.ProbeHTTP, Host: "app.example.com", Backends: []model.ProbeTarget{targetOf(plain.Listener.Addr())},
			Fields: []model.HeaderField{{Name: "X-Status", Value: fmt.Sprint(n)}}}
	}
	of := func(t model.ProbeTarget) *model.Probe {
		return &model.Probe{Kind: model.ProbeHTTP, Host: "app.example.com", Backends: []model.ProbeTarget{t}}
	}
	overTLS := of(targetOf(secure.Listener.Addr()))
	overTLS.Backends[0].TLS = true
	noTLS := of(targetOf(plain.Listener.Addr()))
	noTLS.Backends[0].TLS = true
	for _, c := range []struct {
		name  string
		probe *model.Probe
		down  string // in the reason; empty: it is up
	}{
		{"200", status(200), ""}, {"204", status(204), ""}, {"301 is not followed", status(301), ""}, {"304", status(304), ""}, {"399", status(399), ""},
		{"400", status(400), "status 400"}, {"401", status(401), "status 401"}, {"404", status(404), "status 404"}, {"500", status(500), "status 500"}, {"503", status(503), "status 503"},
		{"TLS that nobody vouches for", overTLS, ""},
		{"TLS that is none", noTLS, "tls"},
		{"nobody", of(nobody(t)), "refused"},
		{"no HTTP", of(raw(t, "SSH-2.0-x\r\n\r\n")), "malformed"},
		{"silence", of(raw(t, "")), "no answer within 300ms"},
		{"an end instead of an answer", status(0), "ended before"},
		{"HTTP/1.0", of(raw(t, "HTTP/1.0 200 OK\r\n\r\n")), ""},
		{"100 before 200", of(raw(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")), ""},
		{"103 and nothing", of(raw(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 7))), "does not come to its status"},
		{"another protocol", of(raw(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")), "status 101"},
		{"a head without end", of(raw(t, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("a", 1<<20))), "ended before"}, // where the bound is
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ok := newProber(300*time.Millisecond).ask(t.Context(), c.probe)
			if !ok || r.Up != (c.down == "") || !strings.Contains(r.Reason, c.down) || c.down == "" && r.Reason != "" || r.Took <= 0 {
				t.Errorf("%+v, %t; want %q", r, ok, c.down)
			}
		})
	}
	r := asked.Load()
	if r.Method != "GET" || r.RequestURI != "/" || r.Host != "app.example.com" || r.UserAgent() != "Test/1" || !r.Close {
		t.Errorf("the request was %s %s of %s by %s", r.Method, r.RequestURI, r.Host, r.UserAgent())
	}
}

// TestAskBody does not wait for a body that does not end, and hears out a short one.
func TestAskBody(t *testing.T) {
	left := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<10)); err != nil {
				break
			}
		}
		left <- struct{}{}
	}))
	t.Cleanup(srv.Close)
	probe := &model.Probe{Kind: model.ProbeHTTP, Host: "a.example.com", Backends: []model.ProbeTarget{targetOf(srv.Listener.Addr())}}
	r, ok := newProber(time.Minute).ask(t.Context(), probe)
	if !ok || !r.Up {
		t.Fatalf("%+v, %t", r, ok)
	}
	<-left // the connection was closed
}

// TestAskSeveral is up as soon as one backend is.
func TestAskSeveral(t *testing.T) {
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(good.Close)
	hangs, away := raw(t, ""), nobody(t)
	for _, c := range []struct {
		name     string
		backends []model.ProbeTarget
		limit    time.Duration
		down     string
	}{
		{"one hangs, one is away, one is good", []model.ProbeTarget{hangs, away, targetOf(good.Listener.Addr())}, time.Minute, ""},
		{"none is good", []model.ProbeTarget{away, away}, time.Minute, "none of 2 backends is up, the first one: dial"},
		{"one hangs, one is away", []model.ProbeTarget{away, hangs}, 100 * time.Millisecond, "none of 2 backends is up, the first one: no answer within 100ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ok := newProber(c.limit).ask(t.Context(), &model.Probe{Kind: model.ProbeHTTP, Host: "a.example.com", Backends: c.backends})
			if !ok || r.Up != (c.down == "") || !strings.HasPrefix(r.Reason, c.down) {
				t.Errorf("%+v, %t", r, ok)
			}
		})
	}
}

func TestAskTCP(t *testing.T) {
	for _, c := range []struct {
		name string
		at   model.ProbeTarget
		down string
	}{{"silent", raw(t, ""), ""}, {"nobody", nobody(t), "refused"}} {
		r, ok := newProber(time.Minute).ask(t.Context(), &model.Probe{Kind: model.ProbeTCP, Backends: []model.ProbeTarget{c.at}})
		if !ok || r.Up != (c.down == "") || !strings.Contains(r.Reason, c.down) {
			t.Errorf("%s: %+v, %t", c.name, r, ok)
		}
	}
}

// TestAskIsCutShort has nothing said of a service by a check that was ended.
func TestAskIsCutShort(t *testing.T) {
	for _, kind := range []string{model.ProbeHTTP, model.ProbeTCP} {
		ctx, cancel := context.WithCancel(t.Context())
		p := newProber(time.Minute)
		p.dial = func(within context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			cancel()
			<-within.Done()
			return nil, within.Err()
		}
		if r, ok := p.ask(ctx, &model.Probe{Kind: kind, Backends: []model.ProbeTarget{nobody(t)}}); ok {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}

// TestReasonIsBounded keeps little of what a service says of itself.
func TestReasonIsBounded(t *testing.T) {
	r, _ := newProber(time.Minute).ask(t.Context(), &model.Probe{Kind: model.ProbeHTTP, Host: "a.example.com",
		Backends: []model.ProbeTarget{raw(t, strings.Repeat("ä", 10_000)+"\r\n\r\n")}})
	if len(r.Reason) > maxReason || r.Reason == "" || strings.ToValidUTF8(r.Reason, "") != r.Reason {
		t.Errorf("%d bytes: %q", len(r.Reason), r.Reason)
	}
}
