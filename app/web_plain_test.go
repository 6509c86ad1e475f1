package app_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// plain asks on the plain port of this host.
func (g *gallery) plain(t *testing.T, domain, path string, change ...func(*http.Request)) answer {
	t.Helper()
	host := func(r *http.Request) { r.Host = domain }
	got, err := try(t.Context(), plainClient(), "http://"+g.s.Addrs().HTTP+path, append([]func(*http.Request){host}, change...)...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// plainClient is one that keeps no connection and follows nothing.
func plainClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// forcedHTTPS asks on both ports (contract 6.1, 6.2): the plain one leads to the other
// where the route says so, and knows nobody else.
func forcedHTTPS(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	out := v.outside(t)
	const path = "/a?b=%2f"
	_, port, _ := net.SplitHostPort(g.s.Addrs().HTTPS)
	before := g.alpha.count()
	for _, method := range []string{"GET", "HEAD", "POST"} {
		got := g.plain(t, domain, path, func(r *http.Request) { r.Method = method })
		if got.status != 308 || got.header.Get("Location") != "https://"+domain+":"+port+path {
			t.Errorf("forced, %s: %d %v", method, got.status, got.header)
		}
	}
	if g.alpha.count() != before {
		t.Error("a request came through")
	}
	visit(t, out, domain, path).wants(t, "over TLS", 200, "alpha:8000 GET "+path)
	g.change(t, id, fields{"https_enabled": 0})
	g.plain(t, domain, path).wants(t, "not forced", 200, "alpha:8000 GET "+path)
	if h := g.alpha.last(t).Header; h.Get("X-Forwarded-Proto") != "http" || h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("Via") != "1.1 gatecontrol" {
		t.Errorf("not forced: the backend got %v", h)
	}
	visit(t, out, domain, path).wants(t, "over TLS all the same", 200, "alpha:8000 GET "+path)
	g.plain(t, "nobody.example.test", path).wants(t, "an unknown host", 404, "")
	if got := g.plain(t, "localhost", path); got.status != 308 || got.header.Get("Location") != "https://localhost:"+port+path {
		t.Errorf("the administration: %d %v", got.status, got.header)
	}
	// What keeps people out does so on either port.
	g.change(t, id, fields{"external_enabled": false})
	g.plain(t, domain, path).wants(t, "from the tunnel alone", 404, "")
	g.change(t, id, fields{"external_enabled": true, "acl_enabled": true, "acl_peers": []int64{g.beta.id}})
	g.plain(t, domain, path).wants(t, "not on the list", 403, "")
}

// plainSticky has the cookie of a backend made on the plain port, for which it cannot
// be as strict (contract 6.12), and takes it to the other port.
func plainSticky(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"https_enabled": false, "sticky_enabled": true, "sticky_cookie_name": "no; name",
		"backends": []fields{{"peer_id": g.alpha.id, "port": 8000}, {"peer_id": g.beta.id, "port": 8000}}})
	first := g.plain(t, domain, "/")
	c := first.cookie(t, "gc_sticky")
	if c.MaxAge != 3600 || c.Path != "/" || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode {
		t.Errorf("the cookie is %v", c)
	}
	with := func(r *http.Request) { r.AddCookie(c) }
	out := v.outside(t)
	for range 5 {
		for port, got := range map[string]answer{"plain": g.plain(t, domain, "/", with), "TLS": visit(t, out, domain, "/", with)} {
			if got.wants(t, port, 200, first.body); got.header.Get("Set-Cookie") != "" {
				t.Errorf("%s: a new cookie: %v", port, got.header)
			}
		}
	}
}

// TestPlainPortIsHTTP1 asks the plain port for HTTP/2, in either way that there is
// without TLS (RFC 9113, section 3.3; RFC 7540, section 3.2).
func TestPlainPortIsHTTP1(t *testing.T) {
	g := newGallery(t)
	_, domain := g.show(t, fields{"https_enabled": false})
	ask := func(text string) []byte {
		c, err := net.Dial("tcp", g.s.Addrs().HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(c) // may end by a reset
		return b
	}
	if got := ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); !bytes.HasPrefix(got, []byte("HTTP/1.1 505 ")) {
		t.Errorf("with its preface: %q", got)
	}
	got := ask("GET /a HTTP/1.1\r\nHost: " + domain + "\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(got)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.Proto != "HTTP/1.1" || string(body) != "alpha:8000 GET /a" {
		t.Errorf("by an upgrade: %s %s %q, %v", res.Proto, res.Status, body, err)
	}
	if h := g.alpha.last(t).Header; h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" || strings.Contains(h.Get("Connection"), "pgrade") {
		t.Errorf("the backend got %v", h)
	}
}
