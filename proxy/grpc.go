package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// gRPC is HTTP/2 by definition, so a request that says it is gRPC goes to its
// backend over HTTP/2: with prior knowledge on a plain connection, by ALPN on TLS
// (RFC 9113, section 3). net/http's client speaks it. To an exchange each of its
// requests looks like a connection of HTTP/1.1 with chunks and trailers, so that
// everything between the doors and the backends holds for gRPC, too.

// maxMultiplexed is how many HTTP/2 connections a target has at most. Each takes a
// hundred requests or more at a time; what is beyond is refused.
const maxMultiplexed = 16

// isGRPC reports whether a Content-Type is that of gRPC, and not of what carries it
// over HTTP/1.1 (gRPC over HTTP/2, section "Requests").
func isGRPC(contentType []byte) bool {
	const prefix = "application/grpc"
	return len(contentType) >= len(prefix) && equalFold(contentType[:len(prefix)], prefix) &&
		(len(contentType) == len(prefix) || contentType[len(prefix)] == '+' || contentType[len(prefix)] == ';')
}

// newMultiplexer makes the client side of HTTP/2, with the limits of streams and
// connections that the doors have.
func (p *pool) newMultiplexer() *http.Transport {
	t := &http.Transport{
		DialContext:            p.dialMultiplexed,
		DialTLSContext:         p.dialMultiplexed,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHead,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: h2StreamWindow, MaxReceiveBufferPerConnection: h2ConnWindow},
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP2(p.key.tls)
	t.Protocols.SetUnencryptedHTTP2(!p.key.tls)
	return t
}

var errNoHTTP2 = errors.New("backend does not speak HTTP/2")

func (p *pool) dialMultiplexed(context.Context, string, string) (net.Conn, error) {
	bc, err := p.connect()
	if err != nil {
		return nil, err
	}
	p.srv.opened(bc)
	if !p.key.tls {
		return bc, nil
	}
	t, err := p.secure(p.srv.dialer2, bc)
	if err != nil {
		return nil, err
	}
	if tc, ok := t.(*tls.Conn); !ok || tc.ConnectionState().NegotiatedProtocol != "h2" {
		_ = t.Close()
		return nil, errNoHTTP2
	}
	return t, nil
}

// dialing is an attempt to open an HTTP/2 connection. done is closed with its end,
// after err was set.
type dialing struct {
	done chan struct{}
	err  error
}

// multiplexed returns an HTTP/2 connection to the target, with a request of it
// reserved. One is opened at a time, and who finds that under way waits for it: it
// takes a hundred requests, so a crowd that comes at once does not open one each.
func (p *pool) multiplexed() (*http.ClientConn, error) {
	for {
		p.mu.Lock()
		p.multi = slices.DeleteFunc(p.multi, func(cc *http.ClientConn) bool { return cc.Err() != nil })
		for _, cc := range p.multi {
			if cc.Reserve() == nil {
				p.mu.Unlock()
				return cc, nil
			}
		}
		d := p.dialing
		switch {
		case d != nil:
			p.mu.Unlock()
			<-d.done
			if d.err != nil {
				return nil, d.err
			}
		case len(p.multi) >= maxMultiplexed:
			p.mu.Unlock()
			return nil, errTooManyStreams
		default:
			d = &dialing{done: make(chan struct{}), err: errPanic}
			p.dialing = d
			p.mu.Unlock()
			return p.openMultiplexed(d)
		}
	}
}

// openMultiplexed opens another connection and ends d, also by a panic.
func (p *pool) openMultiplexed(d *dialing) (cc *http.ClientConn, err error) {
	defer func() {
		p.mu.Lock()
		if p.dialing = nil; cc != nil {
			p.multi = append(p.multi, cc)
			d.err = nil
		} else if err != nil {
			d.err = err
		}
		closed := p.closed
		p.mu.Unlock()
		close(d.done)
		switch {
		case cc == nil:
		case closed:
			closeMultiplexed([]*http.ClientConn{cc})
		default:
			p.watchIdle(cc)
		}
	}()
	if p.multiplexer == nil { // who opens is alone
		p.multiplexer = p.newMultiplexer()
	}
	scheme := "http"
	if p.key.tls {
		scheme = "https"
	}
	opened, err := p.multiplexer.NewClientConn(context.Background(), scheme, p.key.addr.String())
	if err != nil {
		return nil, err
	}
	if err := opened.Reserve(); err != nil {
		_ = opened.Close()
		return nil, err
	}
	return opened, nil
}

var errTooManyStreams = errors.New("all connections of HTTP/2 are in full use")

// watchIdle closes cc once it has not been used for the idle limit.
func (p *pool) watchIdle(cc *http.ClientConn) {
	limit := p.srv.limits.backendIdle
	timer := time.AfterFunc(limit, func() {
		p.mu.Lock()
		idle := cc.InFlight() == 0
		if idle {
			p.multi = slices.DeleteFunc(p.multi, func(other *http.ClientConn) bool { return other == cc })
		}
		p.mu.Unlock()
		if idle {
			_ = cc.Close()
		}
	})
	cc.SetStateHook(func(cc *http.ClientConn) {
		switch {
		case cc.Err() != nil:
			timer.Stop()
		case cc.InFlight() == 0:
			timer.Reset(limit)
		}
	})
}

// closeMultiplexed ends what is unused now, and the rest with its last request.
func closeMultiplexed(all []*http.ClientConn) {
	for _, cc := range all {
		closeUnused := func(cc *http.ClientConn) {
			if cc.Err() == nil && cc.InFlight() == 0 {
				_ = cc.Close()
			}
		}
		cc.SetStateHook(closeUnused)
		closeUnused(cc)
	}
}

// getGRPC returns what an exchange takes for a new connection to the target.
func (p *pool) getGRPC() (*backendConn, error) {
	cc, err := p.multiplexed()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	near, far := net.Pipe()
	bc := &backendConn{srv: p.srv, Conn: &grpcConn{near, cancel}}
	bc.in.r = (*backendInput)(bc)
	p.srv.opened(bc)
	p.srv.running.Add(1)
	go func() { // ends when the exchange closes its end, which it does in any case
		defer p.srv.running.Done()
		defer far.Close()
		defer p.srv.survive("exchange of gRPC", cancel)
		p.srv.translate(ctx, cc, p.key.tls, far)
	}()
	return bc, nil
}

// grpcConn ends the request together with the connection that it looks like.
type grpcConn struct {
	net.Conn
	cancel context.CancelFunc
}

func (c *grpcConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}

// translate reads one request of HTTP/1.1 from nc, has cc send it, and writes the
// answer as one of HTTP/1.1. Whatever fails leaves it without its end.
func (s *Server) translate(ctx context.Context, cc *http.ClientConn, secure bool, nc net.Conn) {
	in, err := http.ReadRequest(bufio.NewReaderSize(nc, pieceSize))
	if err != nil {
		cc.Release()
		return
	}
	req := in.WithContext(ctx)
	req.RequestURI, req.URL.Host, req.URL.Scheme = "", in.Host, "http"
	if secure {
		req.URL.Scheme = "https"
	}
	if path, _, _ := strings.Cut(in.RequestURI, "?"); !strings.HasPrefix(path, "//") {
		req.URL.Opaque = path // byte for byte
	}
	req.Header.Del("Connection") // TE: trailers needs none in HTTP/2
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "") // none of the library's either
	}
	resp, err := s.roundTrip(cc, req, nc)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if _, err := nc.Write(answerText(resp)); err != nil || resp.ContentLength == 0 {
		return
	}
	buf := s.pieces.Get().(*piece)
	defer s.pieces.Put(buf)
	for {
		n, err := resp.Body.Read(buf[chunkRoom : pieceSize-2])
		if n > 0 {
			if _, err := nc.Write(frameChunk(buf[:], chunkRoom, n)); err != nil {
				return
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	end := bytes.NewBufferString("0\r\n")
	_ = resp.Trailer.Write(end)
	end.WriteString("\r\n")
	_, _ = nc.Write(end.Bytes())
}

// roundTrip writes what comes of 1xx to nc while it waits for the answer. The
// connection to the backend, which others share, does not wait for that.
func (s *Server) roundTrip(cc *http.ClientConn, req *http.Request, nc net.Conn) (*http.Response, error) {
	interim := make(chan []byte, maxInterim)
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		select {
		case interim <- interimText(code, http.Header(h)):
			return nil
		default:
			return errAnswer // more than are passed on
		}
	}}
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
	var resp *http.Response
	err := errPanic
	done := make(chan struct{})
	go func() { // awaited below
		defer close(done)
		defer s.survive("exchange of gRPC", func() {})
		resp, err = cc.RoundTrip(req)
	}()
	for {
		select {
		case text := <-interim:
			_, _ = nc.Write(text) // an end of nc ends the request, too
			continue
		case <-done:
		}
		break
	}
	for len(interim) > 0 {
		_, _ = nc.Write(<-interim)
	}
	return resp, err
}

func interimText(code int, h http.Header) []byte {
	b := bytes.NewBufferString("HTTP/1.1 " + strconv.Itoa(code) + "\r\n")
	_ = h.Write(b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// answerText is the head of an answer in HTTP/1.1.
func answerText(resp *http.Response) []byte {
	b := bytes.NewBufferString("HTTP/1.1 " + strconv.Itoa(resp.StatusCode) + "\r\nConnection: close\r\n")
	length := resp.ContentLength
	resp.Header.Del("Content-Length") // trailers follow in chunks alone
	_ = resp.Header.Write(b)
	if length == 0 {
		b.WriteString("Content-Length: 0\r\n\r\n")
	} else {
		b.WriteString("Transfer-Encoding: chunked\r\nTrailer: Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin\r\n\r\n")
	}
	return b.Bytes()
}
