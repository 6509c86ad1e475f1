package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"gatecontrol/model"
)

// failMemory is how long an upstream that did not answer comes last.
const failMemory = 10 * time.Second

// dialFunc opens a connection to an upstream, never to ourselves.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// exchanger asks one upstream one question over one kind of transport. The
// answer matches the question. m belongs to the caller again afterwards.
type exchanger interface {
	exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
	close()
}

// Guard lines: the three kinds of transport.
var (
	_ exchanger = (*plainUpstream)(nil)
	_ exchanger = (*tlsUpstream)(nil)
	_ exchanger = (*httpsUpstream)(nil)
)

// upstream is a resolver that we forward to.
type upstream struct {
	name string // as configured
	exchanger
	failedUntil atomic.Int64 // time.Duration of Server.now; 0 is healthy
}

func (u *upstream) failing(now time.Duration) bool { return now < time.Duration(u.failedUntil.Load()) }

// parseUpstream reads "1.1.1.1", "1.1.1.1:53", "tls://host[:853]" or
// "https://host[:port]/path". A plain upstream is an address: looking up a name
// for it would need a resolver.
func parseUpstream(text string, dial dialFunc, roots *tls.Config) (*upstream, error) {
	u := &upstream{name: text}
	bad := func(why string) (*upstream, error) {
		return nil, model.Invalid("dns_upstreams", "%q: %s", text, why)
	}
	scheme, rest, hasScheme := strings.Cut(text, "://")
	switch {
	case !hasScheme:
		addr, err := parseAddrPort(text, 53)
		if err != nil || addr.Addr().IsUnspecified() || addr.Port() == 0 {
			return bad("an IP address with an optional port is expected")
		}
		u.exchanger = &plainUpstream{addr.String(), dial}
	case scheme == "tls":
		host, port, err := splitHostPort(rest, "853")
		if err != nil {
			return bad("a host name or address with an optional port is expected")
		}
		conf := roots.Clone()
		conf.ServerName, conf.MinVersion = host, tls.VersionTLS12
		u.exchanger = newTLSUpstream(net.JoinHostPort(host, port), conf, dial)
	case scheme == "https":
		parsed, err := url.Parse(text)
		if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
			return bad("a URL without user, query and fragment is expected")
		}
		if _, _, err := splitHostPort(parsed.Host, "443"); err != nil {
			return bad("a host name or address with an optional port is expected")
		}
		if parsed.Path == "" {
			parsed.Path = "/dns-query" // RFC 8484 leaves the path open, everyone uses this one
		}
		u.exchanger = newHTTPSUpstream(parsed.String(), roots.Clone(), dial)
	default:
		return bad("an address, tls:// or https:// is expected")
	}
	return u, nil
}

func parseAddrPort(s string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, port), nil
	}
	return netip.ParseAddrPort(s)
}

// splitHostPort accepts a name or an address, with or without a port.
func splitHostPort(s, port string) (host, portOut string, err error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.String(), port, nil
	}
	host = s
	if strings.Contains(s, ":") {
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", "", err
		}
		if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
			return "", "", errors.New("no port")
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, nil
	}
	_, err = wireName("", host)
	return host, port, err
}
