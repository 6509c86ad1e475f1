package app_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatecontrol/lab"
)

// TestSlowReadersBehindTunnel has clients of all versions of HTTP ask a backend behind
// a peer for answers without end, and read nothing. What comes through the tunnel for
// them is bounded, and others do not notice: neither at the same peer nor at another.
func TestSlowReadersBehindTunnel(t *testing.T) {
	const (
		streams = 30        // of each kind
		bound   = 512 << 10 // for each, on its whole way: half of that is in the tunnel
		least   = 64 << 10  // a client that reads nothing takes so much all the same
	)
	s, calm := lab.Start(t), lab.Start(t)
	published := func(s *lab.Server, name string) int64 {
		id, p := s.Peer(t, name)
		ln, err := p.Listen(8000)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.WriteString(w, "not slow")
			for piece := make([]byte, 16<<10); r.URL.Path == "/endless" && err == nil; {
				_, err = w.Write(piece)
			}
		})}
		go func() { _ = srv.Serve(ln) }() // ends with Close
		t.Cleanup(func() { _ = srv.Close() })
		s.API.Call(t, 201, "POST", "/api/v1/routes",
			map[string]any{"domain": name + ".example.test", "peer_id": id, "target_port": 8000, "https_enabled": false}, nil)
		return id
	}
	held := published(s, "held")
	published(s, "other")
	published(calm, "calm")
	received := func() int64 {
		var got struct {
			Peer struct{ TransferRx int64 }
		}
		s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/peers/%d", held), nil, &got)
		return got.Peer.TransferRx
	}

	clients := map[string]*http.Client{"held": trusting(t, s), "other": trusting(t, s), "calm": trusting(t, calm)}
	// The medians; in turns, so that whatever else this machine does is felt by all.
	measure := func() map[string]time.Duration {
		times := make(map[string][]time.Duration)
		for range 200 {
			for name, client := range clients {
				client.Timeout = 20 * time.Second
				began := time.Now()
				res, err := client.Get("https://" + name + ".example.test/")
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(b) != "not slow" {
					t.Fatalf("%s: %s, %q, %v", name, res.Status, b, err)
				}
				times[name] = append(times[name], time.Since(began))
			}
		}
		median := make(map[string]time.Duration)
		for name, list := range times {
			slices.Sort(list)
			median[name] = list[len(list)/2]
		}
		return median
	}
	measure() // connections and pools exist then

	before := received()
	for _, open := range slowReaders(t, s, "held.example.test", least) {
		for range streams {
			open()
		}
	}
	last, since := int64(0), time.Now()
	lab.Eventually(t, 50*time.Second, "what was asked for has come", func() error {
		now := received()
		if now-last > 64<<10 {
			last, since = now, time.Now()
		}
		if still := time.Since(since); still < time.Second {
			return fmt.Errorf("not for %s", still)
		}
		return nil
	})
	came := received() - before
	const all = 4 * streams
	if came > all*bound || came < all*least/4 {
		t.Errorf("%d KiB came through the tunnel for each of %d streams", came>>10/all, all)
	}
	median := measure()
	t.Logf("medians: %v", median)
	for _, name := range []string{"held", "other"} {
		if median[name] > 5*median["calm"]+2*time.Millisecond {
			t.Errorf("%s is slower while others do not read", name)
		}
	}
	t.Logf("%d KiB for each of %d streams", came>>10/all, all)
}

// slowReaders are clients that ask host for what has no end, and read nothing. Each
// takes about least in any case.
func slowReaders(t *testing.T, s *lab.Server, host string, least int) (open []func()) {
	narrow := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, least/2) })
	}}
	raw := func(addr string, conf *tls.Config) {
		c, err := narrow.DialContext(t.Context(), "tcp", addr)
		if err == nil && conf != nil {
			c = tls.Client(c, conf)
		}
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_, err = fmt.Fprintf(c, "GET /endless HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		}
		if err != nil {
			t.Error(err)
		}
	}
	conf := trustIn(t, s.Dir)
	conf.ServerName = host
	second := &http.Transport{
		TLSClientConfig: conf.Clone(), ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: least, MaxReceiveBufferPerConnection: least},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return narrow.DialContext(ctx, network, s.Addrs().HTTPS)
		},
	}
	t.Cleanup(second.CloseIdleConnections)
	third := &http3.Transport{
		TLSClientConfig: conf.Clone(),
		QUICConfig: &quic.Config{ // heads count, too, so the connection has room for those of all
			InitialStreamReceiveWindow: uint64(least), MaxStreamReceiveWindow: uint64(least), InitialConnectionReceiveWindow: 100 * uint64(least),
		},
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, s.Addrs().HTTPS, cfg, q)
		},
	}
	t.Cleanup(func() { _ = third.Close() })
	ask := func(via http.RoundTripper, want string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/endless", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := via.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		if !strings.HasPrefix(res.Proto, want) {
			t.Errorf("asked over %s, want %s", res.Proto, want)
		}
	}
	return []func(){
		func() { raw(s.Addrs().HTTP, nil) },
		func() { raw(s.Addrs().HTTPS, conf) },
		func() { ask(second, "HTTP/2") },
		func() { ask(third, "HTTP/3") },
	}
}
