package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func TestAltSvc(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `h3="elsewhere.test:443"`)
		w.Header().Set("X-Kept", "yes")
	})
	r := newRig(t, site(addr))
	check := func(url, want string) {
		t.Helper()
		resp, _ := get(t, r.client(), url)
		if got := strings.Join(resp.Header["Alt-Svc"], "|"); got != want {
			t.Errorf("%s: Alt-Svc %q, want %q", url, got, want)
		}
	}
	check("https://app.test/", "")
	_, port, _ := net.SplitHostPort(r.quic())
	eventually(t, "HTTP/3 is served", func() bool { return r.srv.altDoors.Load() != nil })
	check("https://app.test/", `h3=":443"; ma=86400`)
	check("http://app.test/", "")
	if resp, _ := get(t, http3Client(r), "https://app.test:"+port+"/"); resp.Header.Get("X-Kept") != "yes" || resp.Header["Alt-Svc"] != nil {
		t.Errorf("over HTTP/3: %v", resp.Header)
	}
	if got := speakHTTP1(t, r, ask{method: "GET", target: "/", host: "other.test"}); got.status != 421 || got.fields.Get("Alt-Svc") == "" {
		t.Errorf("a page of ours: %+v", got)
	}
	// The port is the one that the client knows, whatever it was mapped to.
	if got := speakHTTP1(t, r, ask{method: "GET", target: "/", host: "app.test:8443"}); got.fields.Get("Alt-Svc") != `h3=":8443"; ma=86400` {
		t.Errorf("with a port: %v", got.fields)
	}
}

func http3Client(r *rig) *http.Client {
	for _, p := range protocols {
		if p.major == 3 {
			return p.client(r)
		}
	}
	panic("no HTTP/3")
}

// TestTLSPolicyQUIC has names, ALPN and sessions judged as on TCP.
func TestTLSPolicyQUIC(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) {})))
	dial := func(name string, protos ...string) (*quic.Conn, error) {
		cfg := r.trust()
		cfg.ServerName, cfg.NextProtos = name, protos
		ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
		defer cancel()
		return quic.DialAddr(ctx, r.quic(), cfg, nil)
	}
	for _, tt := range []struct {
		name, sni, proto string
		alert            uint64 // of TLS; 0: none
	}{
		{"known", "app.test", "h3", 0},
		{"upper case", "APP.test", "h3", 0},
		{"unknown", "nobody.test", "h3", 112},
		{"none, no admin host", "", "h3", 112},
		{"other protocol", "app.test", "h2", 120},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sni := tt.sni
			if sni == "" {
				sni = "127.0.0.1" // an address is not sent
			}
			c, err := dial(sni, tt.proto)
			var te *quic.TransportError
			switch {
			case err == nil:
				_ = c.CloseWithError(0, "")
				if tt.alert != 0 {
					t.Error("it came about")
				}
			case tt.alert == 0 || !errors.As(err, &te) || te.ErrorCode != quic.TransportErrorCode(0x100+tt.alert):
				t.Errorf("%v, want alert %d", err, tt.alert)
			}
		})
	}
}

// TestResumptionQUIC shows that sessions resume without early data, and that one
// of a name that is no longer served does not open the door.
func TestResumptionQUIC(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) {})))
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4), stored: make(chan struct{}, 8)}
	connect := func() (quic.ConnectionState, error) {
		cfg := r.trust()
		cfg.ServerName, cfg.NextProtos, cfg.ClientSessionCache = "app.test", []string{"h3"}, cache
		ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
		defer cancel()
		c, err := quic.DialAddrEarly(ctx, r.quic(), cfg, nil)
		if err != nil {
			return quic.ConnectionState{}, err
		}
		defer c.CloseWithError(0, "")
		select {
		case <-c.HandshakeComplete():
		case <-c.Context().Done():
			return quic.ConnectionState{}, context.Cause(c.Context())
		}
		<-cache.stored // a ticket
		return c.ConnectionState(), nil
	}
	for i, want := range []bool{false, true} {
		state, err := connect()
		if err != nil || state.TLS.DidResume != want || state.Used0RTT {
			t.Errorf("connection %d: resumed %v, early data %v, %v", i, state.TLS.DidResume, state.Used0RTT, err)
		}
	}
	r.commit(Config{})
	var te *quic.TransportError
	if _, err := connect(); !errors.As(err, &te) || te.ErrorCode != 0x100+112 {
		t.Errorf("after the route went: %v", err)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	stored chan struct{}
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, s)
	if s != nil {
		select {
		case c.stored <- struct{}{}:
		default:
		}
	}
}

// TestLimitsQUIC has connections counted as on TCP.
func TestLimitsQUIC(t *testing.T) {
	r := newRig(t, Config{}, func(_ *Options, l *limits) { l.perAddress = 3 })
	r.commit(site(backend(t, func(w http.ResponseWriter, r *http.Request) {})))
	for range 3 {
		r.dialQUIC(t, "app.test")
	}
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = "app.test", []string{"h3"}
	ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
	defer cancel()
	var te *quic.TransportError
	if _, err := quic.DialAddr(ctx, r.quic(), cfg, nil); !errors.As(err, &te) || te.ErrorCode != quic.ConnectionRefused {
		t.Errorf("the fourth connection: %v", err)
	}
	if c, err := net.Dial("tcp", r.plain); err == nil {
		defer c.Close()
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("TCP is counted apart: %q", b)
		}
	}
}

func TestShutdownDrainsQUIC(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first ")
		w.(http.Flusher).Flush()
		close(began)
		<-finish
		io.WriteString(w, "last")
	})
	r := newRig(t, site(addr))
	c := http3Client(r)
	answer := make(chan string, 1)
	go func() {
		resp, err := c.Get("https://app.test/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(b), err)
	}()
	<-began
	idle := r.dialQUIC(t, "app.test")
	eventually(t, "both handshakes are done", func() bool {
		r.srv.mu.Lock()
		defer r.srv.mu.Unlock()
		return len(r.srv.h3conns) == 2
	})
	done := make(chan error, 1)
	go func() { done <- r.srv.Shutdown(context.Background()) }()
	// The idle connection hears GOAWAY, and has a request refused that may be sent again.
	control, err := idle.AcceptUniStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	in := source{r: control}
	if kind, err := readVarint(&in); kind != controlStream || err != nil {
		t.Fatal(kind, err)
	}
	for kind := uint64(0); kind != goawayFrame; {
		var length uint64
		if kind, length, err = nextFrame(&in); err != nil {
			t.Fatal(err)
		}
		if err := discardFrame(&in, length); err != nil {
			t.Fatal(err)
		}
	}
	if str, err := idle.OpenStream(); err == nil {
		_, _ = str.Write(fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head()))
		_, err := io.ReadAll(str)
		var reset *quic.StreamError
		if !errors.As(err, &reset) || reset.ErrorCode != h3RequestRejected {
			t.Errorf("a request after GOAWAY: %v", err)
		}
	}
	<-idle.Context().Done()
	var app *quic.ApplicationError
	if err := context.Cause(idle.Context()); !errors.As(err, &app) || app.ErrorCode != h3NoError {
		t.Errorf("the idle connection ended with %v", err)
	}
	select {
	case err := <-done:
		t.Errorf("did not wait for the request: %v", err)
	default:
	}
	close(finish)
	if got := <-answer; got != "first last<nil>" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestIdleLimitQUIC has the transport end what is silent.
func TestIdleLimitQUIC(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) {})), func(_ *Options, l *limits) { l.quicIdle = 300 * time.Millisecond })
	r.dialQUIC(t, "app.test")
	eventually(t, "no connection is counted", func() bool {
		r.srv.census.mu.Lock()
		defer r.srv.census.mu.Unlock()
		return r.srv.census.total == 0
	})
}

// TestStatelessReset has a server that has forgotten a connection say so, and say
// it to nobody twice.
func TestStatelessReset(t *testing.T) {
	key := func(o *Options, _ *limits) { o.ResetKey = [32]byte{1} }
	cfg := site(backend(t, func(w http.ResponseWriter, r *http.Request) {}))
	r := newRig(t, cfg, key)
	// A relay keeps the client's view of the address while the server is replaced.
	relay := newRelay(t)
	relay.lead(r.quic())
	tc := r.trust()
	tc.ServerName, tc.NextProtos = "app.test", []string{"h3"}
	ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
	defer cancel()
	c, err := quic.DialAddr(ctx, relay.front.LocalAddr().String(), tc, &quic.Config{MaxIdleTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	// Only what has heard that the handshake is done speaks of it no more.
	control, err := c.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	relay.lead(newRig(t, cfg, key).quic())
	str, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = str.Write(bytes.Repeat([]byte("x"), 100))
	<-c.Context().Done()
	var reset *quic.StatelessResetError
	if err := context.Cause(c.Context()); !errors.As(err, &reset) {
		t.Errorf("the connection ended with %v", err)
	}
}

// TestClientMoves has a client come from another address within its connection:
// requests are judged and forwarded by where it is when it makes them.
func TestClientMoves(t *testing.T) {
	r := newRig(t, site(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-For")) })))
	relay := newRelay(t)
	relay.lead(r.quic())
	tc := r.trust()
	tc.ServerName, tc.NextProtos = "app.test", []string{"h3"}
	ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
	defer cancel()
	c, err := quic.DialAddr(ctx, relay.front.LocalAddr().String(), tc, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseWithError(h3NoError, "")
	where := func() string { return askHTTP3(t, c, ask{method: "GET", target: "/", host: "app.test"}).body }
	if got := where(); got != "127.0.0.1" {
		t.Fatalf("first from %q", got)
	}
	relay.leadFrom("127.0.0.2", r.quic())
	eventually(t, "the client has proved its new address", func() bool { return where() == "127.0.0.2" })
	_ = c.CloseWithError(h3NoError, "")
	eventually(t, "no connection is counted", func() bool {
		r.srv.census.mu.Lock()
		defer r.srv.census.mu.Unlock()
		return len(r.srv.census.clients) == 0
	})
}

// relay carries the datagrams of one client to a server that can be replaced.
type relay struct {
	t       *testing.T
	front   *net.UDPConn
	running sync.WaitGroup

	mu     sync.Mutex
	back   *net.UDPConn
	client netip.AddrPort
}

func newRelay(t *testing.T) *relay {
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, front: front}
	r.running.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			_, _ = r.back.Write(buf[:n])
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		front.Close()
		r.mu.Lock()
		r.back.Close()
		r.mu.Unlock()
		r.running.Wait()
	})
	return r
}

// lead sends from now on to addr, from another port.
func (r *relay) lead(addr string) { r.leadFrom("127.0.0.1", addr) }

// leadFrom does so from another address.
func (r *relay) leadFrom(from, addr string) {
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.back != nil {
		r.back.Close()
	}
	r.back = c.(*net.UDPConn)
	r.running.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			_, _ = r.front.WriteToUDPAddrPort(buf[:n], r.client)
			r.mu.Unlock()
		}
	})
}
