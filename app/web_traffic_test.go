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

// socket opens a WebSocket by the version of v.
func (v visitor) socket(t *testing.T, c *http.Client, domain, path string) *websocket.Conn {
	t.Helper()
	ws, res, err := v.trySocket(t, c, domain, path, nil)
	if err != nil {
		t.Fatalf("%s: %v, %v", v.version, err, res)
	}
	if ws.Subprotocol() != "echo" {
		t.Errorf("the sub-protocol is %q", ws.Subprotocol())
	}
	return ws
}

// trySocket is socket for what may be refused. The library knows HTTP/1.1 alone: it is
// shown the extended CONNECT of a stream as if it were an upgrade.
func (v visitor) trySocket(t *testing.T, c *http.Client, domain, path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	via := &http.Client{Transport: asUpgrade{t, c.Transport.(sameVersion)}}
	ws, res, err := websocket.Dial(t.Context(), "https://"+domain+path, &websocket.DialOptions{HTTPClient: via, HTTPHeader: header, Subprotocols: []string{"echo"}})
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws, res, nil
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
		_ = ours.Close()
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
