package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestPaths(t *testing.T) {
	site0 := func(name string) netip.AddrPort {
		return backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.RequestURI) })
	}
	main, api, v2, raw := site0("main"), site0("api"), site0("v2"), site0("raw")
	to := func(a netip.AddrPort) *Target { return &Target{Addr: a} }
	cfg := site(main)
	cfg.Routes[0].Options = &RouteOptions{Paths: []Path{
		{Prefix: "/api", Strip: true, Target: to(api)},
		{Prefix: "/api/v2", Target: to(v2)},
		{Prefix: "/a%20b", Target: to(raw), Strip: true},
		{Prefix: "/old", Redirect: "https://new.test/base", Status: 301},
		{Prefix: "/docs", Redirect: "/manual?lang=en#top", Status: 307},
		{Prefix: "/gone/away", Redirect: "http://x.test", Status: 308},
	}}
	type want struct {
		target, body string
		status       int
		location     string
	}
	for _, tt := range []want{
		{target: "/", body: "main /"},
		{target: "/api", body: "api /"},
		{target: "/api?q=1", body: "api /?q=1"},
		{target: "/api/", body: "api /"},
		{target: "/api/x%2Fy/../z?q=/api/v2", body: "api /x%2Fy/../z?q=/api/v2"},
		{target: "/api//x", body: "api //x"},
		{target: "/apis", body: "main /apis"},
		{target: "/API/x", body: "main /API/x"},
		{target: "/%61pi/x", body: "main /%61pi/x"},
		{target: "//api/x", body: "main //api/x"},
		{target: "/x/api", body: "main /x/api"},
		{target: "/?/api", body: "main /?/api"},
		{target: "/api/v2", body: "v2 /api/v2"},
		{target: "/api/v2/x", body: "v2 /api/v2/x"},
		{target: "/api/v22", body: "api /v22"},
		{target: "/a%20b/c", body: "raw /c"},
		{target: "/old", status: 301, location: "https://new.test/base"},
		{target: "/old/page?a=b&c=%2F", status: 301, location: "https://new.test/base?a=b&c=%2F"},
		{target: "/old/page?", status: 301, location: "https://new.test/base?"},
		{target: "/docs/x?a=b", status: 307, location: "/manual?lang=en&a=b#top"},
		{target: "/docs", status: 307, location: "/manual?lang=en#top"},
		{target: "/gone/away?x", status: 308, location: "http://x.test?x"},
		{target: "/gone", body: "main /gone"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
				req, _ := http.NewRequest("GET", "https://app.test/", nil)
				req.URL.Opaque = tt.target
				if strings.HasPrefix(tt.target, "//") { // an Opaque of this form would be taken for a host
					req.URL.Opaque = "https://app.test" + tt.target
				}
				req.Header.Set("X-Forwarded-Host", "evil.test")
				resp, err := via(newRig(t, cfg)).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body := readAll(t, resp)
				if tt.status == 0 {
					tt.status = 200
				}
				if resp.StatusCode != tt.status || body != tt.body || resp.Header.Get("Location") != tt.location {
					t.Errorf("%d %q %q", resp.StatusCode, body, resp.Header.Get("Location"))
				}
			})
		})
	}
	t.Run("everything", func(t *testing.T) {
		cfg := site(main)
		cfg.Routes[0].Options = &RouteOptions{Paths: []Path{{Prefix: "/", Strip: true, Target: to(api)}, {Prefix: "/v2", Strip: true, Target: to(v2)}}}
		r := newRig(t, cfg)
		for target, want := range map[string]string{"/": "api /", "/x": "api /x", "/v2/x": "v2 /x"} {
			if _, body := get(t, r.client(), "https://app.test"+target); body != want {
				t.Errorf("%s: %s", target, body)
			}
		}
	})
}

// TestPathUpgrade has an upgrade below a prefix end with the rule, and not before.
func TestPathUpgrade(t *testing.T) {
	addr := rawUpgrade(t, switching, func(c net.Conn, br *bufio.Reader) { io.Copy(c, br) })
	cfg := site(netip.MustParseAddrPort("127.0.0.1:1"))
	cfg.Routes[0].Options = &RouteOptions{Paths: []Path{{Prefix: "/ws", Target: &Target{Addr: addr}}}}
	r := newRig(t, cfg, func(_ *Options, l *limits) { l.grace = time.Millisecond })
	c := r.dial()
	br := bufio.NewReader(c)
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	cfg.Routes[0].ForceHTTPS = true
	r.commit(cfg)
	time.Sleep(20 * time.Millisecond) // longer than the time of grace
	io.WriteString(c, "x\n")
	if line, err := br.ReadString('\n'); line != "x\n" {
		t.Fatalf("%q %v", line, err)
	}
	r.commit(site(netip.MustParseAddrPort("127.0.0.1:1")))
	if _, err := br.ReadByte(); err == nil {
		t.Error("not ended with its path")
	}
}

func TestPathsRefused(t *testing.T) {
	addr := netip.MustParseAddrPort("10.8.0.2:80")
	target := &Target{Addr: addr}
	for _, tt := range []struct {
		name  string
		path  Path
		field string
	}{
		{"no prefix", Path{Target: target}, "prefix"},
		{"not from the root", Path{Prefix: "api", Target: target}, "prefix"},
		{"slash at the end", Path{Prefix: "/api/", Target: target}, "prefix"},
		{"query", Path{Prefix: "/api?x", Target: target}, "prefix"},
		{"never sent", Path{Prefix: "/a b", Target: target}, "prefix"},
		{"backslash", Path{Prefix: `/a\b`, Target: target}, "prefix"},
		{"no port", Path{Prefix: "/api", Target: &Target{Addr: netip.AddrPortFrom(addr.Addr(), 0)}}, "target"},
		{"both", Path{Prefix: "/api", Target: target, Redirect: "/x", Status: 301}, "redirect"},
		{"scheme", Path{Prefix: "/api", Redirect: "javascript:alert(1)", Status: 301}, "redirect"},
		{"another host in disguise", Path{Prefix: "/api", Redirect: "//x.test", Status: 301}, "redirect"},
		{"and with a backslash", Path{Prefix: "/api", Redirect: `/\x.test`, Status: 301}, "redirect"},
		{"two lines", Path{Prefix: "/api", Redirect: "/x\r\nSet-Cookie: a", Status: 301}, "redirect"},
		{"relative", Path{Prefix: "/api", Redirect: "x", Status: 301}, "redirect"},
		{"no host", Path{Prefix: "/api", Redirect: "https:/x", Status: 301}, "redirect"},
		{"user", Path{Prefix: "/api", Redirect: "https://u:p@x.test", Status: 301}, "redirect"},
		{"status", Path{Prefix: "/api", Redirect: "/x", Status: 200}, "status"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, RouteOptions{Paths: []Path{{Prefix: "/fine", Target: target}, tt.path}}, "paths[1]."+tt.field)
		})
	}
	refused(t, RouteOptions{Paths: make([]Path, model.MaxPaths+1)}, "paths")
}
