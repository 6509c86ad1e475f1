package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatecontrol/control/events"
	"gatecontrol/model"
)

func TestHostCheck(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.AllowedHosts = []string{"Other.Example."} })
	admin := f.admin(t)
	for host, want := range map[string]int{
		"gate.example.com": 200, "GATE.example.com.": 200, "gate.example.com:3000": 200, "localhost": 200, "localhost:3000": 200,
		"127.0.0.1:3000": 200, "[::1]:3000": 200, "[::1]": 200, "other.example": 200,
		"evil.example": 421, "gate.example.com.evil.example": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
	} {
		if w := admin.with("Host", host).do("GET", "/api/v1/peers", ""); w.Code != want {
			t.Errorf("%s: %d, want %d", host, w.Code, want)
		}
	}
	f.anonymous().with("Host", "evil.example").call(t, 200, "GET", "/health", "")
}

func TestPaths(t *testing.T) {
	f := newFixture(t)
	admin, nobody := f.admin(t), f.anonymous()
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
	for _, c := range []struct {
		method, path  string
		admin, nobody int
		allow         string
	}{
		{"GET", "/api/v1/peers/1", 200, 401, ""},
		{"GET", "/api/v1/peers/1/", 200, 401, ""},
		{"GET", "/api/peers/1", 200, 401, ""},
		{"GET", "/api/v1/peers/%31", 200, 401, ""},
		{"GET", "/api/v1/peers/0", 404, 401, ""},
		{"GET", "/api/v1/peers/-1", 404, 401, ""},
		{"GET", "/api/v1/peers/abc", 404, 401, ""},
		{"GET", "/api/v1/peers/1e0", 404, 401, ""},
		{"GET", "/api/v1/peers/99999999999999999999", 404, 401, ""},
		{"GET", "/api/v1/peers//1", 404, 401, ""},
		{"GET", "/api/v1/peers/../tokens", 404, 401, ""},
		{"GET", "/api/v1/peers/..%2ftokens", 404, 401, ""},
		{"GET", "/api/peers%2f1", 404, 401, ""},
		{"GET", "/api/peers%2F1/", 404, 401, ""},
		{"GET", "/api/v1/nope", 404, 401, ""},
		{"GET", "/api/v1", 404, 401, ""},
		{"GET", "/api", 404, 401, ""},
		{"GET", "/API/v1/peers", 404, 302, ""},
		{"GET", "/nope", 404, 302, ""},
		{"GET", "/.env", 404, 302, ""},
		{"PUT", "/api/v1/peers", 405, 401, "GET, HEAD, POST"},
		{"POST", "/api/routes/1/toggle", 405, 401, "PUT"},
		{"DELETE", "/login", 405, 302, "GET, HEAD, POST"},
		{"OPTIONS", "/api/v1/peers", 405, 401, "GET, HEAD, POST"},
		{"TRACE", "/api/v1/peers", 405, 401, "GET, HEAD, POST"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			w := admin.do(c.method, c.path, "")
			if w.Code != c.admin || w.Header().Get("Allow") != c.allow {
				t.Errorf("as admin: %d %q, want %d", w.Code, w.Header().Get("Allow"), c.admin)
			}
			if c.admin >= 400 && !strings.HasPrefix(w.Body.String(), `{"ok":false,"error":"`) {
				t.Errorf("the answer is %s", w.Body)
			}
			if w := nobody.do(c.method, c.path, ""); w.Code != c.nobody {
				t.Errorf("as nobody: %d, want %d", w.Code, c.nobody)
			}
		})
	}
}

func TestHead(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	get, head := admin.do("GET", "/api/v1/peers", ""), admin.do("HEAD", "/api/v1/peers", "")
	if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != get.Header().Get("Content-Length") {
		t.Errorf("%d %v %s", head.Code, head.Header(), head.Body)
	}
}

func TestBodies(t *testing.T) {
	f := newFixture(t)
	token := f.token(t, "peers")
	deep := strings.Repeat(`{"a":`, maxNesting+1) + "1" + strings.Repeat("}", maxNesting+1)
	for _, c := range []struct {
		name, typ, body string
		want            int
	}{
		{"JSON", "application/json", `{"name":"a"}`, 201},
		{"JSON with a charset", "application/json; charset=UTF-8", `{"name":"b"}`, 201},
		{"another charset", "application/json; charset=latin1", `{"name":"c"}`, 415},
		{"a form", formType, "name=d&tags[]=x&tags[]=y", 201},
		{"plain text", "text/plain", `{"name":"e"}`, 415},
		{"multipart", "multipart/form-data; boundary=x", "--x--", 415},
		{"a broken type", "application/", `{}`, 415},
		{"a member twice", "application/json", `{"name":"x1","name":"x2"}`, 400},
		{"a member twice, spelled differently", "application/json", `{"name":"x1","na\u006de":"x2"}`, 400},
		{"a member twice further in", "application/json", `{"name":"l","x":{"a":":","a":2}}`, 201},
		{"a form with a field both ways", formType, "name=x3&tags=a&tags[]=b", 400},
		{"broken JSON", "application/json", `{"name":`, 400},
		{"two values", "application/json", `{"name":"f"}{}`, 400},
		{"a list", "application/json", `[]`, 400},
		{"null", "application/json", `null`, 400},
		{"a text", "application/json", `"x"`, 400},
		{"a broken form", formType, "name=%zz", 400},
		{"a form of many fields", formType, strings.Repeat("a=1&", maxMembers+1), 400},
		{"nested too deep", "application/json", `{"name":"g","x":` + deep + `}`, 400},
		{"brackets in a text", "application/json", `{"name":"h","x":"` + strings.Repeat(`[{\"`, 100) + `"}`, 201},
		{"as large as may be", "application/json", `{"name":"i","x":"` + strings.Repeat("x", maxBody-20) + `"}`, 201},
		{"too large", "application/json", `{"name":"j","x":"` + strings.Repeat("x", maxBody) + `"}`, 413},
		{"unknown members", "application/json", `{"name":"k","nonsense":[1]}`, 201},
		{"wrong types", "application/json", `{"name":{}}`, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if w := token.with("Content-Type", c.typ).do("POST", "/api/v1/peers", c.body); w.Code != c.want {
				t.Errorf("status %d, want %d: %s", w.Code, c.want, w.Body)
			}
		})
	}
	t.Run("too large without a length", func(t *testing.T) {
		hr := httptest.NewRequest("POST", "/api/v1/peers", strings.NewReader(strings.Repeat("x", maxBody+1)))
		hr.Host, hr.ContentLength = "localhost", -1
		hr.Header.Set("Authorization", token.header.Get("Authorization"))
		w := httptest.NewRecorder()
		f.Handler().ServeHTTP(w, hr)
		if w.Code != 413 {
			t.Errorf("status %d", w.Code)
		}
	})
	t.Run("strangers are not read", func(t *testing.T) {
		f.anonymous().with("Content-Type", "text/plain").call(t, 401, "POST", "/api/v1/peers", "x")
	})
	t.Run("an empty body needs no type", func(t *testing.T) {
		token.call(t, 200, "PUT", "/api/v1/peers/1/toggle", "")
	})
}

// TestClientAddress shows whose word counts: what a direct client says of itself
// never does, what our own proxy says does.
func TestClientAddress(t *testing.T) {
	header := map[string]string{
		"X-Forwarded-For": "10.0.0.1, 203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "gate.example.com",
		"X-Real-Ip": "10.0.0.2", "Forwarded": "for=10.0.0.3",
	}
	for _, c := range []struct {
		name     string
		viaProxy bool
		remote   string
		want     string
	}{
		{"direct", false, "192.0.2.1:4000", "192.0.2.1"},
		{"direct from loopback", false, "127.0.0.1:4000", "127.0.0.1"},
		{"through our proxy", true, "pipe", "203.0.113.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			as := f.token(t, "peers")
			as.remote = c.remote
			if c.viaProxy {
				as.handler = f.ProxyHandler()
				as = as.with("Host", "gate.example.com")
			}
			for name, v := range header {
				as = as.with(name, v)
			}
			as.call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
			list, _, err := f.Events.List(events.Filter{Type: "peer_created"}, 1, 0)
			if err != nil || len(list) != 1 || list[0].Addr.String() != c.want {
				t.Errorf("the event is %+v, %v", list, err)
			}
		})
	}
}

func TestOriginThroughProxy(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.handler = f.ProxyHandler()
	as := admin.with("X-Forwarded-Proto", "https").with("X-Forwarded-For", "203.0.113.7").with("Origin", "https://gate.example.com")
	as.call(t, 200, "POST", "/api/v1/caddy/reload", "")
	as.with("Origin", "https://app.example.com").call(t, 403, "POST", "/api/v1/caddy/reload", "")
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name   string
		as     *caller
		detail bool
	}{
		{"a stranger", f.anonymous(), false},
		{"loopback", &caller{f: f, handler: f.Handler(), header: http.Header{}, remote: "127.0.0.1:1"}, true},
		{"loopback that speaks of a proxy", &caller{f: f, handler: f.Handler(), header: http.Header{"X-Forwarded-For": {"127.0.0.1"}}, remote: "127.0.0.1:1"}, false},
		{"loopback with an empty word of a proxy", &caller{f: f, handler: f.Handler(), header: http.Header{"X-Forwarded-For": {""}}, remote: "127.0.0.1:1"}, false},
		{"loopback through a proxy that names itself", &caller{f: f, handler: f.Handler(), header: http.Header{"Via": {"1.1 front"}}, remote: "127.0.0.1:1"}, false},
		{"our proxy", &caller{f: f, handler: f.ProxyHandler(), header: http.Header{"X-Forwarded-For": {"127.0.0.1"}}, remote: "127.0.0.1:1"}, false},
		{"somebody signed in", f.admin(t), true},
		{"a token", f.token(t, "full-access"), false},
	} {
		f.health = Health{true, true, true}
		m := c.as.call(t, 200, "GET", "/health", "")
		if _, ok := m["db"]; ok != c.detail || m["status"] != "healthy" {
			t.Errorf("%s: %v", c.name, m)
		}
		f.health.WireGuard = false
		if w := c.as.do("GET", "/health", ""); w.Code != 503 || !strings.Contains(w.Body.String(), `"ok":false`) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

func TestFaultsStayInside(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Reload = func(context.Context) error { return context.DeadlineExceeded }
		o.WG = func() WG { panic("marked text") }
	})
	admin := f.admin(t)
	admin.call(t, 503, "POST", "/api/v1/caddy/reload", "")
	m := admin.call(t, 500, "GET", "/api/v1/wg/status", "")
	if m["error"] != "Internal server error" || !strings.Contains(f.log.String(), "marked text") {
		t.Errorf("the answer is %v, the log %s", m, f.log)
	}
	admin.call(t, 200, "GET", "/api/v1/peers", "")
}

func TestErrorsOfServices(t *testing.T) {
	f := newFixture(t)
	r := &request{Request: httptest.NewRequest("GET", "/api/v1/peers", nil), header: http.Header{}}
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{model.Invalid("name", "is bad"), 400, `{"ok":false,"error":"is bad","fields":{"name":"is bad"}}`},
		{&model.Error{Kind: model.KindConflict, Message: "taken", Code: "PORT_CONFLICT", Detail: model.PortConflict{Port: 1, ConflictRouteID: 2, SuggestedPort: 3}}, 409,
			`{"ok":false,"error":"taken","code":"PORT_CONFLICT","conflict":{"port":1,"conflictRouteId":2,"suggestedPort":3}}`},
		{model.Failure(model.KindUnavailable, "no room"), 503, `{"ok":false,"error":"no room"}`},
		{model.Failure(model.KindInternal, "secret detail"), 500, `{"ok":false,"error":"Internal server error"}`},
		{context.Canceled, 503, `{"ok":false,"error":"the request was given up"}`},
		{http.ErrBodyNotAllowed, 500, `{"ok":false,"error":"Internal server error"}`},
	} {
		if a := f.failed(r, c.err); a.status != c.status || string(a.body) != c.body {
			t.Errorf("%v: %d %s", c.err, a.status, a.body)
		}
	}
}

func TestErrorPage(t *testing.T) {
	f := newFixture(t)
	w := f.anonymous().with("Accept", "text/html").form().do("POST", "/login", "_csrf=wrong")
	if w.Code != 403 || !strings.HasPrefix(w.Body.String(), "<!doctype html>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPagePolicy(t *testing.T) {
	f := newFixture(t)
	w := f.admin(t).do("GET", "/dashboard", "")
	policy := w.Header().Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("no %s in %s", part, policy)
		}
	}
	nonce, _, _ := strings.Cut(policy[strings.Index(policy, "'nonce-")+len("'nonce-"):], "'")
	body := w.Body.String()
	if strings.Contains(policy, "unsafe") || strings.Count(body, "<script") != strings.Count(body, `<script nonce="`+nonce+`"`) ||
		strings.Contains(body, " style=") || strings.Contains(body, " onclick=") {
		t.Errorf("the page needs more than its policy %s allows", policy)
	}
	if again := f.admin(t).do("GET", "/dashboard", "").Header().Get("Content-Security-Policy"); again == policy {
		t.Error("the nonce is used twice")
	}
}

func TestPagesShowTextAsText(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"a","description":"<script>alert(1)</script>"}`)
	admin.call(t, 201, "POST", "/api/v1/routes", `{"domain":"a.example.com","peer_id":1,"target_port":1}`)
	body := admin.do("GET", "/dashboard", "").Body.String()
	if strings.Contains(body, "alert(1)") || !strings.Contains(body, `href="https://a.example.com/"`) {
		t.Errorf("the page is %s", body)
	}
}
