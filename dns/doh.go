package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/miekg/dns"
)

// httpsUpstream asks over HTTP (RFC 8484). The transport reuses connections.
type httpsUpstream struct {
	url       string
	transport *http.Transport
}

func newHTTPSUpstream(url string, conf *tls.Config, dial dialFunc) *httpsUpstream {
	conf.MinVersion = tls.VersionTLS12
	return &httpsUpstream{url, &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        conf,
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        maxStreamConns,
		MaxIdleConnsPerHost:    maxStreamConns,
		IdleConnTimeout:        streamIdle,
		TLSHandshakeTimeout:    attemptTimeout,
		MaxResponseHeaderBytes: 16 << 10,
	}}
}

func (h *httpsUpstream) close() { h.transport.CloseIdleConnections() }

func (h *httpsUpstream) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	b, err := pack(m, 0) // HTTP matches answers; a constant id suits caches (section 4.1)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, strings.NewReader(string(b)))
	if err != nil {
		return nil, err
	}
	const mediaType = "application/dns-message"
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	resp, err := h.transport.RoundTrip(req) // redirects are not followed
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), mediaType) {
		return nil, fmt.Errorf("HTTP status %d, type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	in, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize+1))
	if err != nil {
		return nil, err
	}
	r := readAnswer(in, m)
	if r == nil {
		return nil, errors.New("the answer belongs to another question")
	}
	return r, nil
}
