package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// FuzzBodies sends any body to what takes one: the answer is always JSON, never
// a fault of ours.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a","tags":["x"],"api_port":"9876","is_gateway":1}`, `{"domain":"a.example.com","target_port":"80","peer_id":"1"}`,
		`{"action":"enable","ids":["1",2.0]}`, `{"hostname":null}`, `{"name":"t","scopes":"peers,routes","expires_at":1}`,
		`{"route_type":"l4","l4_protocol":"udp","l4_listen_port":5000}`, `{"_csrf":[]}`, `{"a":{"b":[{}]}}`, `[]`, `null`, ``,
		`{"name":"\ud800"}`, "name=a&tags[]=b&tags[]=c", "%", `{"expires_at":"9999-12-31T23:59:59-23:59"}`,
	} {
		for i := range 7 {
			f.Add(uint8(i), []byte(seed), false)
		}
		f.Add(uint8(0), []byte(seed), true)
	}
	x := newFixture(f, func(o *Options) { o.APILimit = 1 << 30 })
	as := x.admin(f)
	targets := [][2]string{
		{"POST", "/api/v1/peers"}, {"PUT", "/api/v1/peers/1"}, {"PATCH", "/api/v1/peers/1/hostname"}, {"POST", "/api/v1/peers/batch"},
		{"POST", "/api/v1/routes"}, {"PUT", "/api/v1/routes/1"}, {"POST", "/api/v1/tokens"},
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte, form bool) {
		target := targets[int(which)%len(targets)]
		c := as
		if form {
			c = c.form()
		}
		w := c.do(target[0], target[1], string(body))
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s\n%s", target[0], target[1], w.Code, w.Body, x.log)
		}
		var m map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || m["ok"] != (w.Code < 400) {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
	})
}

// FuzzRequests sends any target and host: nobody gets in without a credential,
// and nothing breaks.
func FuzzRequests(f *testing.F) {
	for _, target := range []string{
		"/", "/api", "/api/v1/peers", "/api/peers/1", "/api/v1/../v1/peers", "/api/v1/peers/%2e%2e/tokens", "//api/v1/peers", "/api/v1/peers/1?x=%zz",
		"/health", "/login?x=1", "/%00", "/api/v1/peers\\1", "/api/v1/{id}", "/dashboard/",
	} {
		f.Add("GET", target, "localhost")
		f.Add("POST", target, "gate.example.com:3000")
		f.Add("HEAD", target, "[::1]:1")
	}
	x := newFixture(f)
	handler := x.Handler()
	f.Fuzz(func(t *testing.T, method, target, host string) {
		if method == "" || strings.ContainsAny(method, " \t\r\n") || !strings.HasPrefix(target, "/") {
			t.Skip()
		}
		hr, err := http.NewRequestWithContext(t.Context(), method, "http://x"+target, nil)
		if err != nil || hr.URL.Path == "/login" && method == http.MethodPost {
			t.Skip()
		}
		hr.Host, hr.RemoteAddr = host, "192.0.2.1:1"
		w := newRecorder()
		handler.ServeHTTP(w, hr)
		public := hr.URL.Path == "/health" || strings.TrimSuffix(hr.URL.Path, "/") == "/login"
		if w.status >= 500 || w.status < 300 && !public {
			t.Fatalf("%s %q of %q: %d", method, target, host, w.status)
		}
	})
}

// recorder keeps the status alone: a fuzzed body is not looked at.
type recorder struct {
	header http.Header
	status int
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
