package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatecontrol/model"
)

func withHeaders(cfg Config, request, response []model.HeaderField) Config {
	if cfg.Routes[0].Options == nil {
		cfg.Routes[0].Options = new(RouteOptions)
	}
	cfg.Routes[0].Options.Headers = &model.Headers{Request: request, Response: response}
	return cfg
}

func TestHeaders(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Server", "backend")
		h.Add("X-Frame-Options", "ALLOW")
		h.Add("x-frame-options", "ALLOW TWICE")
		h.Set("X-Kept", "yes")
		h.Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%s\n", r.Host)
		r.Header.Write(w)
	})
	cfg := withHeaders(site(addr), []model.HeaderField{
		{Name: "Host", Value: "inner.test:8080"},
		{Name: "X-Token", Value: "first"},
		{Name: "x-token", Value: "{secret}"},
		{Name: "Authorization", Value: "Basic eA=="},
		{Name: "User-Agent", Value: " Gate  Control "},
	}, []model.HeaderField{
		{Name: "X-Frame-Options", Value: "DENY"},
		{Name: "Strict-Transport-Security", Value: "max-age=1"},
		{Name: "Server", Value: "none of your business"},
	})
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, cfg)
		req, _ := http.NewRequest("GET", "https://app.test/", nil)
		req.Header.Set("X-Token", "forged")
		req.Header.Set("X_Token", "forged")
		req.Header.Set("Authorization", "Bearer of-the-client")
		req.Header.Set("X-Other", "stays")
		resp, err := via(r).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, resp)
		for _, want := range []string{"inner.test:8080\n", "X-Token: {secret}\r\n", "Authorization: Basic eA==\r\n", "User-Agent: Gate  Control\r\n", "X-Other: stays\r\n", "X-Forwarded-Host: app.test\r\n"} {
			if strings.Count(body, want) != 1 {
				t.Errorf("no %q in\n%s", want, body)
			}
		}
		for _, not := range []string{"forged", "first", "of-the-client", "Go-http-client"} {
			if strings.Contains(body, not) {
				t.Errorf("%q in\n%s", not, body)
			}
		}
		for name, want := range map[string]string{"X-Frame-Options": "DENY", "Strict-Transport-Security": "max-age=1", "Server": "none of your business", "X-Kept": "yes"} {
			if got := resp.Header[name]; !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
	t.Run("not on pages of ours", func(t *testing.T) {
		cfg := withHeaders(site(netip.MustParseAddrPort("127.0.0.1:1")), nil, []model.HeaderField{{Name: "X-Mine", Value: "1"}})
		if resp, _ := get(t, newRig(t, cfg).client(), "https://app.test/"); resp.StatusCode != 502 || resp.Header.Get("X-Mine") != "" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
	})
	t.Run("on a change of protocol", func(t *testing.T) {
		r := newRig(t, withHeaders(site(rawUpgrade(t, switching, func(net.Conn, *bufio.Reader) {})), nil, []model.HeaderField{{Name: "X-Extra", Value: "ours"}}))
		got := r.raw("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.Contains(got, "X-Extra: ours\r\n") || strings.Contains(got, "X-Extra: yes") {
			t.Errorf("%q", got)
		}
	})
}

// TestHostToTLSBackend overrides the Host for a backend that picks its site by SNI.
// TestHeadersNotInTrailers has both sides send behind a body what the route sets.
func TestHeadersNotInTrailers(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Set, X-Free")
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Trailer.Get("X-User"), r.Trailer.Get("x_user"), r.Trailer.Get("X-Free"))
		w.Header().Set("X-Set", "backend")
		w.Header().Set("X-Free", "backend")
	})
	cfg := withHeaders(site(addr), []model.HeaderField{{Name: "X-User", Value: "route"}}, []model.HeaderField{{Name: "X-Set", Value: "route"}})
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			got := s.speak(t, newRig(t, cfg), ask{
				method: "POST", target: "/", host: "app.test", body: "body", noLength: true,
				fields:   []pair{{"trailer", "x-user, x_user, x-free"}},
				trailers: []pair{{"x-user", "forged"}, {"x_user", "forged"}, {"x-free", "client"}},
			})
			if got.status != 200 || got.body != "client" {
				t.Errorf("the backend got %d %q", got.status, got.body)
			}
			if set, free := got.trailers.Get("X-Set"), got.trailers.Get("X-Free"); set != "" || free != "backend" {
				t.Errorf("the client got %q and %q", set, free)
			}
		})
	}
}

func TestHostToTLSBackend(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.ServerName, " ", r.Host)
	}))
	defer s.Close()
	cfg := withHeaders(site(netip.MustParseAddrPort(s.Listener.Addr().String())), []model.HeaderField{{Name: "host", Value: "Inner.test:444"}}, nil)
	cfg.Routes[0].Target.TLS = true
	if _, body := get(t, newRig(t, cfg).client(), "https://app.test/"); body != "inner.test Inner.test:444" {
		t.Error(body)
	}
}

// TestHostToTLSBackends: a change of the Host is one of the name in the handshake, also
// where a backend without TLS comes first.
func TestHostToTLSBackends(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.ServerName, " ") }))
	defer s.Close()
	secure := netip.MustParseAddrPort(s.Listener.Addr().String())
	of := func(host string) Config {
		cfg := withHeaders(several([]int{1, 1}, named(t, "plain "), secure), []model.HeaderField{{Name: "Host", Value: host}}, nil)
		cfg.Routes[0].Options.Backends[1].TLS = true
		return cfg
	}
	cfg := of("one.test")
	r := newRig(t, cfg)
	got := turns(t, r.client(), 2)
	changed := *cfg.Routes[0].Options
	changed.Headers = of("two.test").Routes[0].Options.Headers
	cfg.Routes = []Route{cfg.Routes[0]}
	cfg.Routes[0].Options = &changed
	r.commit(cfg)
	got += turns(t, r.client(), 2)
	if got != "plain one.test plain two.test " {
		t.Error(got)
	}
}

func TestHeadersRefused(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		response    bool
		field       string
	}{
		{"", "x", false, "name"},
		{"A B", "x", false, "name"},
		{"A_B", "x", false, "name"},
		{"A:", "x", false, "name"},
		{"Ä", "x", false, "name"},
		{strings.Repeat("a", 257), "x", false, "name"},
		{"A", "", false, "value"},
		{"A", " \t", false, "value"},
		{"A", "x\r\nB: y", false, "value"},
		{"A", "x\nB: y", true, "value"},
		{"A", "x\x00", false, "value"},
		{"A", strings.Repeat("x", 4097), false, "value"},
		{"Content-Length", "0", false, "name"},
		{"content-length", "0", true, "name"},
		{"Transfer-Encoding", "chunked", false, "name"},
		{"Transfer-Encoding", "identity", true, "name"},
		{"Connection", "X-Real-IP", false, "name"},
		{"Connection", "close", true, "name"},
		{"Keep-Alive", "x", true, "name"},
		{"Proxy-Authorization", "x", false, "name"},
		{"Proxy-Connection", "x", true, "name"},
		{"TE", "trailers", false, "name"},
		{"Trailer", "x", true, "name"},
		{"Upgrade", "h2c", false, "name"},
		{"HTTP2-Settings", "x", false, "name"},
		{"Expect", "100-continue", false, "name"},
		{"X-Gateway-Target", "x", false, "name"},
		{"x-GATEWAY-target-domain", "x", false, "name"},
		{"X-Gateway-Anything", "x", true, "name"},
		{"X-Forwarded-For", "6.6.6.6", false, "name"},
		{"X-Forwarded-Host", "x", false, "name"},
		{"X-Forwarded-Proto", "x", false, "name"},
		{"X-Forwarded-Port", "1", false, "name"},
		{"X-Real-IP", "6.6.6.6", false, "name"},
		{"Forwarded", "for=x", false, "name"},
		{"X-Route-Domain", "x", false, "name"},
		{"Host", "a/b", false, "value"},
		{"Host", "a@b", false, "value"},
		{"Host", "b", true, "name"},
		{"Date", "x", true, "name"},
		{"Set-Cookie", "gc.route.sid=x", true, "value"},
		{"Set-Cookie", "gc.sid=x", true, "value"},
	} {
		t.Run(fmt.Sprintf("%.20q %.20q %v", tt.name, tt.value, tt.response), func(t *testing.T) {
			list := []model.HeaderField{{Name: "X-Fine", Value: "1"}, {Name: tt.name, Value: tt.value}}
			h, side := &model.Headers{Request: list}, "request"
			if tt.response {
				h, side = &model.Headers{Response: list}, "response"
			}
			refused(t, RouteOptions{Headers: h}, "custom_headers."+side+"[1]."+tt.field)
		})
	}
	many := make([]model.HeaderField, maxSetFields+1)
	for i := range many {
		many[i] = model.HeaderField{Name: fmt.Sprint("X-", i), Value: "1"}
	}
	refused(t, RouteOptions{Headers: &model.Headers{Response: many}}, "custom_headers.response")
}

// FuzzSetField shows that whatever is taken ends up as one line that says so.
func FuzzSetField(f *testing.F) {
	f.Add("X-A", "b")
	f.Add("Host", "a.test")
	f.Add("X-A", "b\r\nContent-Length: 1")
	f.Fuzz(func(t *testing.T, name, value string) {
		for _, answer := range []bool{false, true} {
			set, err := newSetFields("f", []model.HeaderField{{Name: name, Value: value}}, answer, "")
			if err != nil {
				continue
			}
			line := string(set.append(nil))
			n, v, ok := cutField([]byte(strings.TrimSuffix(line, "\r\n")))
			if !ok || string(n) != name || string(v) != string(trimSpace([]byte(value))) || strings.Count(line, "\n") != 1 {
				t.Errorf("%q", line)
			}
			if k := classify(n); k == lengthField || k == codingField || k == connectionField || k >= reservedField || !set.has([]byte(name)) {
				t.Errorf("%q is taken", name)
			}
		}
	})
}

// TestSetFieldsAgree shows that what may be stored can be served: a route whose
// stored fields were refused here would be left out.
func TestSetFieldsAgree(t *testing.T) {
	for _, name := range []string{"Accept", "Accept-Encoding", "Age", "Authorization", "Cache-Control", "Content-Encoding", "Content-Length",
		"Content-Range", "Content-Security-Policy", "Content-Type", "Cookie", "Date", "ETag", "Expect", "Forwarded", "Host", "HTTP2-Settings",
		"If-None-Match", "Keep-Alive", "Location", "Origin", "Proxy-Authenticate", "Proxy-Foo", "Range", "Referer", "Server", "Set-Cookie", "TE",
		"Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Vary", "Via", "WWW-Authenticate", "X-Forwarded-For", "X-Forwarded-Foo",
		"X-Gateway-Target", "X-Real-IP", "X-Request-ID", "X-Route-Domain", "Alt-Svc", "Connection", "Sec-WebSocket-Accept"} {
		for _, request := range []bool{true, false} {
			f, err := model.ParseHeaderField(name, "app.test", request)
			if err != nil {
				continue
			}
			if _, err := newSetFields("f", []model.HeaderField{f}, !request, "gc_sticky"); err != nil {
				t.Errorf("%s, request %v: %v", name, request, err)
			}
		}
	}
}
