package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"gatecontrol/control/accounts"
)

// TestDocumentedExamples sends what the published examples send, over real HTTP:
// curl adds no Origin, and a form without a _csrf.
func TestDocumentedExamples(t *testing.T) {
	f := newFixture(t)
	srv := httptest.NewServer(f.Handler())
	defer srv.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	curl := &http.Client{
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer curl.CloseIdleConnections()
	value, _, err := f.Accounts.CreateToken(t.Context(), accounts.TokenInput{Name: "t", Scopes: []string{"full-access"}})
	if err != nil {
		t.Fatal(err)
	}
	do := func(client *http.Client, want int, method, path, typ, body string, token bool) map[string]any {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", "curl/8.5.0")
		req.Header.Set("Accept", "*/*")
		if typ != "" {
			req.Header.Set("Content-Type", typ)
		}
		if token {
			req.Header.Set("Authorization", "Bearer "+value.Reveal())
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != want {
			t.Fatalf("%s %s: %d, want %d: %s, %v", method, path, res.StatusCode, want, raw, err)
		}
		var m map[string]any
		_ = json.Unmarshal(raw, &m) // a redirect has no body
		return m
	}
	anonymous := &http.Client{}
	defer anonymous.CloseIdleConnections()

	do(curl, 302, "POST", "/login", formType, "username=admin&password="+url.QueryEscape(adminPassword), false)
	if m := do(curl, 200, "GET", "/api/v1/peers", "", "", false); m["ok"] != true {
		t.Errorf("peers with the cookie: %v", m)
	}
	m := do(anonymous, 201, "POST", "/api/v1/peers", "application/json", `{"name":"Laptop","description":"Travel device","tags":"Desktop"}`, true)
	peer, _ := m["peer"].(map[string]any)
	if peer["id"] != 1.0 || peer["ip"] != "10.8.0.2" || peer["publicKey"] != peer["public_key"] {
		t.Errorf(".peer.id: %v", m)
	}
	m = do(anonymous, 201, "POST", "/api/v1/peers", "application/json", `{"name":"NAS1","is_gateway":true,"api_port":9876}`, true)
	gateway, _ := m["gateway"].(map[string]any)
	if env, _ := gateway["envContent"].(string); !strings.Contains(env, "\nGC_API_PORT=9876\n") {
		t.Errorf(".gateway.envContent: %v", m)
	}
	m = do(anonymous, 200, "GET", "/api/v1/dashboard/stats", "", "", true)
	if traffic, _ := m["traffic"].(map[string]any); traffic["today"] != 3200.0 {
		t.Errorf(".traffic.today: %v", m)
	}
	do(anonymous, 201, "POST", "/api/v1/routes", "application/json", `{"domain":"a.example.com","peer_id":1,"target_port":80}`, true)
	m = do(anonymous, 200, "PUT", "/api/v1/routes/1/toggle", "", "", true)
	if route, _ := m["route"].(map[string]any); route["enabled"] != 0.0 {
		t.Errorf("toggle: %v", m)
	}
	m = do(anonymous, 200, "GET", "/api/v1/settings/backup?format=download", "", "", true)
	if m["version"] == nil || m["ok"] != nil {
		t.Errorf("backup: %v", m)
	}
}

func TestLocal(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	local := &caller{f: f, handler: f.LocalHandler(), header: http.Header{}, remote: "@"}
	if m := local.call(t, 200, "GET", "/status", ""); m["version"] != "1.2.3" || m["db"] != true {
		t.Errorf("status: %v", m)
	}
	m := local.call(t, 200, "POST", "/recover", "")
	password, _ := m["password"].(string)
	if m["username"] != "admin" || len(password) < 25 {
		t.Fatalf("recover: %v", m)
	}
	admin.call(t, 401, "GET", "/api/v1/peers", "")
	if m := f.anonymous().call(t, 200, "POST", "/login", `{"username":"admin","password":"`+password+`"}`); m["must_change_password"] != true {
		t.Errorf("login: %v", m)
	}
	if strings.Contains(f.log.String(), password) {
		t.Error("the password is in the log")
	}
	if w := f.anonymous().do("POST", "/recover", ""); w.Code != 302 {
		t.Errorf("recover is reached from outside: %d", w.Code)
	}
}

func TestLocalWithoutThatAdmin(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.AdminUser = "somebody" })
	local := &caller{f: f, handler: f.LocalHandler(), header: http.Header{}, remote: "@"}
	local.call(t, 404, "POST", "/recover", "")
}
