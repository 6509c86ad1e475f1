package app_test

//lint:file-ignore SA1019 The transport of net/http takes no field that begins with a colon.

import (
	"compress/gzip"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

const large = 8 << 20 // bytes of a body: more than all windows hold

// stream serves what takes its time: /ws echoes messages, /sum and /large have a large
// body, and /events tells one event and then waits for the client to leave. It reports
// whether the request was one of these.
func stream(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/ws":
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			return true
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return true
			}
		}
	case "/sum":
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		_, _ = fmt.Fprintf(w, "%d %v %x", n, err, sum.Sum(nil))
	case "/large":
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.Copy(w, io.LimitReader(&counting{}, large))
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		return false
	}
	return true
}

// webSockets opens WebSockets to a peer's service (contract 6.1), sends messages on
// them and ends them in good order.
func webSockets(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"compress_enabled": true, "bot_blocker_enabled": false})
	for where, c := range map[string]*http.Client{"outside": v.outside(t), "inside": v.inside(t, g.beta.peer)} {
		ws := v.socket(t, c, domain, "/ws")
		for _, text := range []string{"hello", strings.Repeat("long ", 10_000)} {
			sent := make(chan error, 1)
			go func() { sent <- ws.Write(t.Context(), websocket.MessageText, []byte(text)) }()
			if _, b, err := ws.Read(t.Context()); err != nil || string(b) != text {
				t.Errorf("%s: %d bytes of %d, %v", where, len(b), len(text), err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
		if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("%s: the end: %v", where, err)
		}
	}
}

// socket opens a WebSocket by the version of v. The library knows HTTP/1.1 alone: it
// is shown the extended CONNECT of a stream as if it were an upgrade.
func (v visitor) socket(t *testing.T, c *http.Client, domain, path string) *websocket.Conn {
	t.Helper()
	via := &http.Client{Transport: asUpgrade{t, c.Transport.(sameVersion)}}
	ws, res, err := websocket.Dial(t.Context(), "https://"+domain+path, &websocket.DialOptions{HTTPClient: via, Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatalf("%s: %v, %v", v.version, err, res)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	if ws.Subprotocol() != "echo" {
		t.Errorf("the sub-protocol is %q", ws.Subprotocol())
	}
	return ws
}

// asUpgrade asks for a WebSocket by extended CONNECT (RFC 8441, RFC 9220) where that
// is how the version has it.
type asUpgrade struct {
	t   *testing.T
	via sameVersion
}

func (u asUpgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	var tr http.RoundTripper
	connect := r.Clone(r.Context())
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Key"} {
		connect.Header.Del(name)
	}
	connect.Method = http.MethodConnect
	switch base := u.via.RoundTripper.(type) {
	case *http3.Transport:
		connect.Proto = "websocket"
		tr = base
	case *http.Transport:
		if !base.Protocols.HTTP2() {
			return u.via.RoundTrip(r)
		}
		// The one of net/http takes no field that begins with a colon.
		connect.Header[":protocol"] = []string{"websocket"}
		two := &http2.Transport{TLSClientConfig: base.TLSClientConfig.Clone()}
		two.DialTLSContext = func(ctx context.Context, network, addr string, c *tls.Config) (net.Conn, error) {
			nc, err := base.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return tls.Client(nc, c), nil
		}
		u.t.Cleanup(two.CloseIdleConnections)
		tr = two
	}
	up, ours := io.Pipe()
	connect.Body, connect.ContentLength = up, -1
	res, err := tr.RoundTrip(connect)
	if err != nil || res.StatusCode != http.StatusOK {
		return res, err
	}
	res.StatusCode = http.StatusSwitchingProtocols
	res.Header.Set("Connection", "Upgrade")
	res.Header.Set("Upgrade", "websocket")
	res.Header.Set("Sec-WebSocket-Accept", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
	res.Body = struct {
		io.Reader
		io.Writer
		io.Closer
	}{res.Body, ours, closers{ours, res.Body}}
	return res, nil
}

// acceptOf answers the key of a WebSocket (RFC 6455, section 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

type closers []io.Closer

func (all closers) Close() error {
	for _, c := range all {
		_ = c.Close()
	}
	return nil
}

// streams sends a large body up and another one down, and reads an event of an answer
// that goes on (contract 6.1), with compression on.
func streams(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"compress_enabled": true})
	out := v.outside(t)
	sum := sha256.New()
	_, _ = io.Copy(sum, io.LimitReader(&counting{}, large))
	want := fmt.Sprintf("%d <nil> %x", large, sum.Sum(nil))
	for name, length := range map[string]int64{"of known length": large, "in chunks": -1} {
		visit(t, out, domain, "/sum", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(io.LimitReader(&counting{}, large)), length
		}).wants(t, "up, "+name, 200, want)
	}
	down := visit(t, out, domain, "/large", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
	if got := fmt.Sprintf("%d <nil> %x", len(down.body), sha256.Sum256([]byte(down.body))); got != want {
		t.Errorf("down: %s, want %s", got, want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+domain+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := out.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatalf("%v of %v", err, res.Header)
	}
	event := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(text, event); err != nil || string(event) != "data: one\n\n" {
		t.Errorf("the event is %q, %v", event, err)
	}
}

// counting is a stream of bytes that never repeats soon.
type counting struct{ n uint64 }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		c.n += c.n>>7 + 0x9e37
		p[i] = byte(c.n >> 8)
	}
	return len(p), nil
}

// toBackend looks at the fields that are ours on the way to a backend (contract 6.13).
func toBackend(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, nil)
	forge := func(r *http.Request) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "X-Gateway-Target", "X-Gateway-Target-Domain", "Forwarded"} {
			r.Header.Set(name, "forged")
		}
		r.Header.Set("Te", "trailers")
		r.Header.Set("Cookie", "gc.route.sid=secret; theirs=1")
		r.Header.Set("X-Theirs", "kept")
	}
	for _, from := range []struct {
		addr   string
		client *http.Client
	}{{"127.0.0.1", v.outside(t)}, {g.beta.peer.Addr.String(), v.inside(t, g.beta.peer)}} {
		got := visit(t, from.client, domain, "/", forge)
		r := g.alpha.last(t)
		for name, want := range map[string]string{
			"X-Forwarded-For": from.addr, "X-Real-Ip": from.addr, "X-Forwarded-Proto": "https", "X-Forwarded-Host": domain,
			"X-Gateway-Target": "", "X-Gateway-Target-Domain": "", "Forwarded": "", "Cookie": "theirs=1", "X-Theirs": "kept", "Te": "trailers",
		} {
			if h := r.Header.Get(name); h != want || len(r.Header.Values(name)) > 1 {
				t.Errorf("from %s: %s is %q, want %q", from.addr, name, r.Header.Values(name), want)
			}
		}
		if r.Host != domain || !strings.Contains(r.Header.Get("Via"), "gatecontrol") || !strings.Contains(got.header.Get("Via"), "gatecontrol") {
			t.Errorf("from %s: %s, Via %q and %q", from.addr, r.Host, r.Header.Get("Via"), got.header.Get("Via"))
		}
	}
	visit(t, v.inside(t, g.alpha.peer), domain, "/", forge)
	r := g.alpha.last(t)
	for name, want := range map[string]string{
		"X-Forwarded-For": "forged, " + g.alpha.peer.Addr.String(), "X-Real-Ip": g.alpha.peer.Addr.String(), "X-Forwarded-Proto": "forged",
		"X-Forwarded-Host": "forged", "X-Gateway-Target": "", "X-Gateway-Target-Domain": "",
	} {
		if h := r.Header.Values(name); strings.Join(h, "; ") != want {
			t.Errorf("from a trusted proxy: %s is %q, want %q", name, h, want)
		}
	}
}

// backendTLS speaks TLS with a service whose certificate nobody could check.
func backendTLS(t *testing.T, g *gallery, v visitor) {
	guest := g.exhibit(t, "tls-"+strings.ToLower(v.version))
	ln, err := guest.peer.Listen(8443)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "sealed ", r.TLS != nil) })}
	secret := tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*issue(t, nil)}})
	go func() { _ = srv.Serve(secret) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	id, domain := g.show(t, fields{"peer_id": guest.id, "target_port": 8443, "backend_https": true})
	out := v.outside(t)
	visit(t, out, domain, "/").wants(t, "TLS", 200, "sealed true")
	g.change(t, id, fields{"target_port": 8000})
	visit(t, out, domain, "/").wants(t, "TLS with who does not speak it", 502, "")
	g.change(t, id, fields{"backend_https": 0})
	visit(t, out, domain, "/").wants(t, "plain", 200, "tls-"+strings.ToLower(v.version)+":8000 GET /")
}

// forcedHTTPS asks on both ports (contract 6.1, 6.2): the plain one leads to the other
// where the route says so, and knows nobody else.
func forcedHTTPS(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	out := v.outside(t)
	plain := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ask := func(host string) answer {
		t.Helper()
		req, err := http.NewRequest("GET", "http://"+g.s.Addrs().HTTP+"/a?b=%2f", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := plain.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return answer{res.StatusCode, res.Header, string(body)}
	}
	_, port, _ := net.SplitHostPort(g.s.Addrs().HTTPS)
	if got := ask(domain); got.status != 308 || got.header.Get("Location") != "https://"+domain+":"+port+"/a?b=%2f" {
		t.Errorf("forced: %d %v", got.status, got.header)
	}
	visit(t, out, domain, "/").wants(t, "over TLS", 200, "")
	g.change(t, id, fields{"https_enabled": 0})
	ask(domain).wants(t, "not forced", 200, "alpha:8000 GET /a?b=%2f")
	visit(t, out, domain, "/").wants(t, "over TLS all the same", 200, "alpha:8000 GET /")
	ask("nobody.example.test").wants(t, "an unknown host", 404, "")
	if got := ask("localhost"); got.status != 308 || got.header.Get("Location") != "https://localhost:"+port+"/a?b=%2f" {
		t.Errorf("the administration: %d %v", got.status, got.header)
	}
}

// disabled has a route come and go: while it is disabled nobody knows its name.
func disabled(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	visit(t, v.outside(t), domain, "/").wants(t, "enabled", 200, "")
	toggle := func() { g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/routes/%d/toggle", id), nil, nil) }
	toggle()
	if res, err := v.outside(t).Get("https://" + domain + "/"); err == nil {
		_ = res.Body.Close()
		t.Errorf("disabled: %s", res.Status)
	} else if !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("disabled: %v", err)
	}
	toggle()
	visit(t, v.outside(t), domain, "/").wants(t, "enabled again", 200, "alpha:8000 GET /")
}

// away asks for a service that is not there (contract 6.2).
func away(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"target_port": 8999})
	out := v.outside(t)
	for accept, kind := range map[string]string{"text/html": "text/html", "application/json": "application/json", "text/plain": "text/plain"} {
		got := visit(t, out, domain, "/", func(r *http.Request) { r.Header.Set("Accept", accept) })
		number := got.header.Get("X-Request-Id")
		if got.status != 502 || !strings.HasPrefix(got.header.Get("Content-Type"), kind) || got.header.Get("Cache-Control") != "no-store" ||
			number == "" || !strings.Contains(got.body, number) {
			t.Errorf("%s: %d %v %q", accept, got.status, got.header, got.body)
		}
		var found struct{ Entries []struct{ Status int } }
		g.s.API.Call(t, 200, "GET", "/api/v1/logs/access?request_id="+number, nil, &found)
		if len(found.Entries) != 1 || found.Entries[0].Status != 502 {
			t.Errorf("the access log has %+v of request %s", found, number)
		}
	}
}
