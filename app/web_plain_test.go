package app_test

import (
	"io"
	"net"
	"net/http"
	"testing"
)

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
