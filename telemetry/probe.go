package telemetry

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
	"net/url"
	"strings"
	"sync"
	"time"

	"gatecontrol/model"
)

// Bounds of what is read of an answer: more than any head that is worth a look, and
// the beginning of its body, so that a service that says little is heard out. The
// rest is not waited for.
const (
	maxProbeAnswer = 64 << 10
	maxProbeBody   = 4 << 10
	probeBodyWait  = time.Second
)

// maxReason bounds what is kept of why a service is down, in bytes.
const maxReason = 200

// maxInformational is how many heads of 1xx an answer may have before its own.
const maxInformational = 5

// prober asks services whether they are there. Its methods may be called from any
// goroutine.
type prober struct {
	dial      func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	userAgent string
	http, tcp time.Duration // limits of one check
}

// ask makes one check: of all backends at the same time, since one that hangs must
// not hide another that is up. Ok is false if ctx ended before.
func (p *prober) ask(ctx context.Context, q *model.Probe) (r model.ProbeResult, ok bool) {
	limit, ask := p.http, p.askHTTP
	if q.Kind == model.ProbeTCP {
		limit, ask = p.tcp, p.askTCP
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	failures := make([]error, len(q.Backends))
	var asked sync.WaitGroup
	var first sync.Once
	for i, t := range q.Backends {
		asked.Go(func() {
			if failures[i] = ask(within, q, t); failures[i] == nil {
				first.Do(func() {
					r.Up, r.Took = true, time.Since(began)
					cancel()
				})
			}
		})
	}
	asked.Wait()
	if r.Probe = *q; !r.Up {
		r.Took = time.Since(began)
		r.Reason = reason(failures, r.Took >= limit, limit)
	}
	return r, r.Up || ctx.Err() == nil
}

// reason says why a service is down, with what the first backend came to.
func reason(failures []error, late bool, limit time.Duration) string {
	text := Plain(failures[0])
	switch {
	case late:
		text = fmt.Sprintf("no answer within %s", limit)
	case errors.Is(failures[0], io.EOF), errors.Is(failures[0], io.ErrUnexpectedEOF):
		text = "the connection ended before there was a whole answer"
	}
	if n := len(failures); n > 1 {
		text = fmt.Sprintf("none of %d backends is up, the first one: %s", n, text)
	}
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(text, "")
}

// askTCP connects, and says nothing.
func (p *prober) askTCP(ctx context.Context, _ *model.Probe, t model.ProbeTarget) error {
	conn, err := p.dial(ctx, "tcp", t.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// askHTTP sends one request on a connection of its own. It speaks HTTP/1.1, as the
// proxy does to backends.
func (p *prober) askHTTP(ctx context.Context, q *model.Probe, t model.ProbeTarget) error {
	raw, err := p.dial(ctx, "tcp", t.Addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	conn := raw
	if t.TLS {
		conn = secured(raw, q.Host)
	}
	defer conn.Close()
	req := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, Host: q.Host, Close: true,
		Header: make(http.Header, len(q.Fields)+2),
	}
	for _, f := range q.Fields {
		req.Header.Set(f.Name, f.Value)
	}
	req.Header.Set("User-Agent", p.userAgent)
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "*/*")
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxProbeAnswer))
	for range 1 + maxInformational {
		res, err := http.ReadResponse(in, req)
		switch {
		case err != nil:
			return err
		case res.StatusCode >= 100 && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols:
			continue
		case res.StatusCode < 200 || res.StatusCode > 399:
			err = fmt.Errorf("the answer has status %d", res.StatusCode)
		}
		_ = conn.SetReadDeadline(time.Now().Add(probeBodyWait))
		_, _ = io.CopyN(io.Discard, res.Body, maxProbeBody)
		_ = res.Body.Close()
		return err
	}
	return errors.New("the answer does not come to its status")
}

// secured speaks TLS on conn, which nobody vouches for: services in a home network
// have no certificate that could be verified.
func secured(conn net.Conn, host string) net.Conn {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	name, _ := model.NormalizeHost(host)
	if _, err := netip.ParseAddr(name); err != nil { // addresses are no SNI (RFC 6066, section 3)
		c.ServerName = name
	}
	return tls.Client(conn, c)
}
