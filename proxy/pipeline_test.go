package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestRouting(t *testing.T) {
	one := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "one %s %s", r.Host, r.RequestURI) })
	two := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "two %s", r.Host) })
	r := newRig(t, Config{Routes: []Route{
		{ID: 1, Host: "one.test", Target: Target{Addr: one}},
		{ID: 2, Host: "Two.Test.", ForceHTTPS: true, Target: Target{Addr: two}},
	}})
	c := r.client()
	for _, tt := range []struct {
		name, url, host string
		status          int
		body, location  string
	}{
		{name: "plain", url: "http://one.test/a?b=c", status: 200, body: "one one.test /a?b=c"},
		{name: "path stays as it is", url: "http://one.test//x/../%2e%2F/a%20b?q=%zz&&", status: 200, body: "one one.test //x/../%2e%2F/a%20b?q=%zz&&"},
		{name: "upper case and port", url: "http://one.test/", host: "ONE.test:8080", status: 200, body: "one ONE.test:8080 /"},
		{name: "trailing dot", url: "http://one.test/", host: "one.test.", status: 200, body: "one one.test. /"},
		{name: "tls", url: "https://one.test/", status: 200, body: "one one.test /"},
		{name: "tls, stored in another spelling", url: "https://two.test/", status: 200, body: "two two.test"},
		{name: "forced to https", url: "http://two.test/a%2Fb?x=1", status: 308, location: "https://two.test/a%2Fb?x=1"},
		{name: "unknown", url: "http://three.test/", status: 404, body: "Nothing is published"},
		{name: "other name on a connection", url: "https://one.test/", host: "two.test", status: 421, body: "another name"},
		{name: "unknown name on a connection", url: "https://one.test/", host: "three.test", status: 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest("GET", tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.host != "" {
				req.Host = tt.host
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body := readAll(t, resp)
			if resp.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("got %d %q, want %d with %q", resp.StatusCode, body, tt.status, tt.body)
			}
			if got := resp.Header.Get("Location"); got != tt.location {
				t.Errorf("Location %q, want %q", got, tt.location)
			}
		})
	}
}

func TestAdminHost(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "gc.sid", Value: "new"})
		fmt.Fprintf(w, "%s|%s|%s|%s", r.Host, r.Header.Get("Cookie"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	})}
	go api.Serve(ln)
	defer api.Close()
	r := newRig(t, Config{AdminHosts: []string{"admin.test", "127.0.0.1"}}, func(o *Options, _ *limits) {
		o.HTTPSPort = 8443
		o.DialAdmin = func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	})
	c := r.client()
	resp, _ := get(t, c, "http://admin.test/x?y=z")
	if resp.StatusCode != 308 || resp.Header.Get("Location") != "https://admin.test:8443/x?y=z" {
		t.Errorf("%d %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	req, _ := http.NewRequest("GET", "https://admin.test/", nil)
	req.Header.Set("Cookie", "gc.sid=old")
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	resp, err = c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "admin.test|gc.sid=old|https|127.0.0.1" {
		t.Errorf("API saw %q", body)
	}
	if resp.Header.Get("Set-Cookie") != "gc.sid=new" {
		t.Errorf("Set-Cookie %q", resp.Header.Get("Set-Cookie"))
	}
	// Behind proxies that are trusted, the first address that is not.
	r.commit(Config{AdminHosts: []string{"admin.test", "127.0.0.1"}, TrustedProxies: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}})
	for _, tt := range []struct{ said, want string }{
		{"", "127.0.0.1"},
		{"203.0.113.7", "203.0.113.7"},
		{"6.6.6.6, 203.0.113.7, 10.0.0.1,10.0.0.2", "203.0.113.7"},
		{"6.6.6.6, nonsense, 10.0.0.1", "10.0.0.1"},
		{"10.0.0.9", "10.0.0.9"},
	} {
		req.Header.Set("X-Forwarded-For", tt.said)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); body != "admin.test|gc.sid=old|https|"+tt.want {
			t.Errorf("X-Forwarded-For %q: API saw %q", tt.said, body)
		}
	}
	// Without SNI, by address.
	if resp, body := get(t, c, "https://127.0.0.1/"); resp.StatusCode != 200 || !strings.HasPrefix(body, "127.0.0.1|") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}
