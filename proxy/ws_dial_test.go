package proxy

//lint:file-ignore SA1019 The transport of net/http takes no field that begins with a colon.

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// duplex is the byte stream that an upgrade has made of a connection, or of a stream
// of one, as the client has it. Everything on it ends after speakingTime.
type duplex interface {
	io.ReadWriter
	CloseWrite() error // the clean end of what the client sends
	Cut()              // the end of both directions that is an error, whatever the version has for it
	Close() error      // the end of a client that has read all it wants
}

// opened is what came of a request for a WebSocket.
type opened struct {
	duplex             // nil if it was refused
	status int         // 101 or 200 if it was not
	header http.Header // of the answer
	body   string      // of a refusal
}

// opener asks for a WebSocket at app.test. It may be called by many goroutines.
type opener func(path string, header http.Header) (opened, error)

// socketWay is a way for the bytes of a WebSocket to go.
type socketWay struct {
	name string
	dial func(testing.TB, *rig) opener
}

// socketWays are those that the proxy offers. Sockets over HTTP/2 and over HTTP/3
// share one connection each.
var socketWays = []socketWay{
	{"plain HTTP1", func(t testing.TB, r *rig) opener {
		return openHTTP1(func() (net.Conn, error) { return r.dialer().Dial("tcp", r.plain) })
	}},
	{"HTTP1", func(t testing.TB, r *rig) opener {
		cfg := r.trust()
		cfg.ServerName = "app.test"
		return openHTTP1(func() (net.Conn, error) { return tls.DialWithDialer(r.dialer(), "tcp", r.tls, cfg) })
	}},
	{"HTTP2", openHTTP2},
	{"HTTP3", func(t testing.TB, r *rig) opener { return openHTTP3(t, r, &quic.Config{}) }},
	// Browsers do not know yet how a reset leaves alone what came before it.
	{"HTTP3 with RESET_STREAM_AT", func(t testing.TB, r *rig) opener {
		return openHTTP3(t, r, &quic.Config{EnableStreamResetPartialDelivery: true})
	}},
}

// openBackend is the way past the proxy.
func openBackend(addr netip.AddrPort) opener {
	return openHTTP1(func() (net.Conn, error) { return net.Dial("tcp", addr.String()) })
}

const socketKey = "c2l4dGVlbiBvY3RldHMuLg=="

// openHTTP1 asks on a connection of its own each time (RFC 6455, section 4.1).
func openHTTP1(dial func() (net.Conn, error)) opener {
	return func(path string, header http.Header) (opened, error) {
		c, err := dial()
		if err != nil {
			return opened{}, err
		}
		_ = c.SetDeadline(time.Now().Add(speakingTime))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", path, socketKey)
		_ = header.Write(c)
		_, _ = io.WriteString(c, "\r\n")
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			c.Close()
			return opened{}, err
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			defer c.Close()
			b, err := io.ReadAll(resp.Body)
			return opened{nil, resp.StatusCode, resp.Header, string(b)}, err
		}
		if got := resp.Header.Get("Sec-WebSocket-Accept"); got != acceptOf(socketKey) {
			c.Close()
			return opened{}, fmt.Errorf("Sec-WebSocket-Accept is %q", got)
		}
		return opened{duplex1{c, br}, resp.StatusCode, resp.Header, ""}, nil
	}
}

type duplex1 struct {
	net.Conn
	br *bufio.Reader
}

func (d duplex1) Read(p []byte) (int, error) { return d.br.Read(p) }
func (d duplex1) CloseWrite() error          { return closeWrite(d.Conn) }

func (d duplex1) Cut() {
	nc := d.Conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	_ = nc.(*net.TCPConn).SetLinger(0)
	_ = nc.Close()
	_ = d.Conn.Close()
}

// openHTTP2 asks by extended CONNECT (RFC 8441) with the client of x/net, which
// does so only where it is announced.
func openHTTP2(t testing.TB, r *rig) opener {
	cfg := r.trust()
	cfg.ServerName = "app.test"
	tr := &http2.Transport{
		TLSClientConfig:    cfg,
		DisableCompression: true,
		DialTLSContext: func(_ context.Context, network, _ string, cfg *tls.Config) (net.Conn, error) {
			return tls.DialWithDialer(r.dialer(), network, r.tls, cfg)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return func(path string, header http.Header) (opened, error) {
		ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
		pr, pw := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://app.test"+path, pr)
		if err != nil {
			cancel()
			return opened{}, err
		}
		req.Header = extended(header)
		req.Header[":protocol"] = []string{"websocket"}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			cancel()
			return opened{}, err
		}
		if resp.StatusCode != http.StatusOK {
			defer cancel()
			defer pw.Close()
			b, err := io.ReadAll(resp.Body)
			return opened{nil, resp.StatusCode, resp.Header, string(b)}, err
		}
		return opened{duplex2{resp.Body, pw, cancel}, resp.StatusCode, resp.Header, ""}, nil
	}
}

// extended are the fields of a WebSocket without those that streams do not need
// (RFC 8441, section 5).
func extended(header http.Header) http.Header {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Sec-WebSocket-Version", "13")
	return h
}

type duplex2 struct {
	io.ReadCloser
	*io.PipeWriter
	cancel context.CancelFunc
}

func (d duplex2) CloseWrite() error { return d.PipeWriter.Close() }

func (d duplex2) Cut() {
	d.cancel()
	_ = d.PipeWriter.CloseWithError(context.Canceled) // what the client waits for
}

func (d duplex2) Close() error {
	_ = d.PipeWriter.Close()
	err := d.ReadCloser.Close()
	d.cancel()
	return err
}

// openHTTP3 asks by extended CONNECT (RFC 9220) with the client of quic-go, which
// has to look itself whether that is announced.
func openHTTP3(t testing.TB, r *rig, how *quic.Config) opener {
	cfg := r.trust()
	cfg.ServerName, cfg.NextProtos = "app.test", []string{http3.NextProtoH3}
	ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
	defer cancel()
	qc, err := quic.DialAddr(ctx, r.quic(), cfg, how)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http3.Transport{DisableCompression: true}
	c := tr.NewClientConn(qc)
	t.Cleanup(func() {
		_ = c.CloseWithError(h3NoError, "")
		_ = tr.Close()
	})
	select {
	case <-c.ReceivedSettings():
	case <-ctx.Done():
		t.Fatal("no settings came")
	}
	if !c.Settings().EnableExtendedConnect {
		t.Fatal("extended CONNECT is not announced")
	}
	return func(path string, header http.Header) (opened, error) {
		ctx, cancel := context.WithTimeout(context.Background(), speakingTime)
		defer cancel()
		str, err := c.OpenRequestStream(ctx)
		if err != nil {
			return opened{}, err
		}
		_ = str.SetDeadline(time.Now().Add(speakingTime))
		req, err := http.NewRequest(http.MethodConnect, "https://app.test"+path, nil)
		if err != nil {
			return opened{}, err
		}
		req.Header, req.Proto = extended(header), "websocket"
		if err := str.SendRequestHeader(req); err != nil {
			return opened{}, err
		}
		resp, err := str.ReadResponse()
		if err != nil {
			return opened{}, err
		}
		if resp.StatusCode != http.StatusOK {
			defer str.Close()
			b, err := io.ReadAll(str)
			return opened{nil, resp.StatusCode, resp.Header, string(b)}, err
		}
		return opened{duplex3{str}, resp.StatusCode, resp.Header, ""}, nil
	}
}

type duplex3 struct{ *http3.RequestStream }

func (d duplex3) CloseWrite() error { return d.RequestStream.Close() }

func (d duplex3) Cut() {
	d.CancelWrite(h3RequestCancelled)
	d.CancelRead(h3RequestCancelled)
}

func (d duplex3) Close() error {
	err := d.RequestStream.Close()
	d.CancelRead(h3NoError)
	return err
}

// howEnded names the end of what a client reads: "clean", "cut" where only TCP or
// TLS tells, or the code with which the stream was reset.
func howEnded(err error) string {
	var two http2.StreamError
	var three *http3.Error
	switch {
	case err == io.EOF:
		return "clean"
	case errors.As(err, &two):
		return two.Code.String()
	case errors.As(err, &three):
		return three.ErrorCode.String()
	case isTimeout(err) || errors.Is(err, context.DeadlineExceeded):
		return "never"
	}
	return "cut"
}
