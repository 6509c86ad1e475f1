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
	"strconv"

	"golang.org/x/net/http2"
)

// gRPC is HTTP/2 by definition, so a request that says it is gRPC goes to its
// backend over HTTP/2: with prior knowledge on a plain connection, by ALPN on TLS
// (RFC 9113, section 3). x/net's client speaks it. To an exchange each of its
// requests looks like a connection of HTTP/1.1 with chunks and trailers, so that
// everything between the doors and the backends holds for gRPC, too.

// maxMultiplexed is how many HTTP/2 connections a target has at most. Each takes a
// hundred requests or more at a time; those beyond wait for a turn.
const maxMultiplexed = 16

// isGRPC reports whether a Content-Type is that of gRPC, and not of what carries it
// over HTTP/1.1 (gRPC over HTTP/2, section "Requests").
func isGRPC(contentType []byte) bool {
	const prefix = "application/grpc"
	return len(contentType) >= len(prefix) && equalFold(contentType[:len(prefix)], prefix) &&
		(len(contentType) == len(prefix) || contentType[len(prefix)] == '+' || contentType[len(prefix)] == ';')
}

// newMultiplexer makes the client side of HTTP/2, with the limits of one stream
// and connection that the doors have.
func newMultiplexer(l *limits) (*http2.Transport, error) {
	return http2.ConfigureTransports(&http.Transport{
		DisableCompression:     true,
		IdleConnTimeout:        l.backendIdle,
		MaxResponseHeaderBytes: maxAnswerHead,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: h2StreamWindow, MaxReceiveBufferPerConnection: h2ConnWindow},
	})
}

var errNoHTTP2 = errors.New("backend does not speak HTTP/2")

// multiplexed returns an HTTP/2 connection to the target.
func (p *pool) multiplexed() (*http2.ClientConn, error) {
	p.mu.Lock()
	kept := p.multi[:0]
	var free, busy *http2.ClientConn
	for _, cc := range p.multi {
		state := cc.State()
		if state.Closed || state.Closing {
			continue
		}
		kept = append(kept, cc)
		switch {
		case cc.CanTakeNewRequest() && state.StreamsActive+state.StreamsReserved < int(state.MaxConcurrentStreams):
			free = cc
		default:
			busy = cc
		}
	}
	clear(p.multi[len(kept):])
	p.multi = kept
	p.mu.Unlock()
	if free != nil {
		return free, nil
	}
	if len(kept) >= maxMultiplexed {
		return busy, nil
	}
	bc, err := p.connect(p.srv.dialer2)
	if err != nil {
		return nil, err
	}
	p.srv.opened(bc)
	if t, ok := bc.Conn.(*tls.Conn); ok && t.ConnectionState().NegotiatedProtocol != http2.NextProtoTLS {
		_ = bc.Close()
		return nil, errNoHTTP2
	}
	cc, err := p.srv.multiplexer.NewClientConn(bc)
	if err != nil {
		_ = bc.Close()
		return nil, err
	}
	p.mu.Lock()
	p.multi = append(p.multi, cc)
	closed := p.closed
	p.mu.Unlock()
	if closed {
		cc.SetDoNotReuse() // closes with its last request
	}
	return cc, nil
}

// closeMultiplexed ends what is unused now, and the rest with its last request.
func closeMultiplexed(all []*http2.ClientConn) {
	for _, cc := range all {
		cc.SetDoNotReuse()
		if state := cc.State(); state.StreamsActive+state.StreamsReserved+state.StreamsPending == 0 {
			_ = cc.Close()
		}
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
func (s *Server) translate(ctx context.Context, cc *http2.ClientConn, secure bool, nc net.Conn) {
	in, err := http.ReadRequest(bufio.NewReaderSize(nc, pieceSize))
	if err != nil {
		return
	}
	req := in.WithContext(ctx)
	req.RequestURI, req.URL.Host, req.URL.Scheme = "", in.Host, "http"
	if secure {
		req.URL.Scheme = "https"
	}
	req.Header.Del("Connection") // TE: trailers needs none in HTTP/2
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "") // none of the library's either
	}
	resp, err := cc.RoundTrip(req)
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
