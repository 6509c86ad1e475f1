package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

const formType = "application/x-www-form-urlencoded"

// form is c as somebody who sends forms.
func (c *caller) form() *caller { return c.with("Content-Type", formType) }

var (
	hiddenField = regexp.MustCompile(`<input type="hidden" name="_csrf" value="([0-9a-f]{128})">`)
	scraped     = regexp.MustCompile(`csrfToken: '([0-9a-f]{128})'`)
)

// cookiesOf returns what a browser would send next.
func cookiesOf(h http.Header) map[string]string {
	m := map[string]string{}
	for _, c := range (&http.Response{Header: h}).Cookies() {
		m[c.Name] = c.Value
	}
	return m
}

// loginForm opens the sign-in form and returns its _csrf and the caller with
// its cookie.
func loginForm(t *testing.T, c *caller) (*caller, string) {
	t.Helper()
	w := c.do("GET", "/login", "")
	m := hiddenField.FindStringSubmatch(w.Body.String())
	if w.Code != 200 || m == nil {
		t.Fatalf("no form: %d %s", w.Code, w.Body)
	}
	return c.with("Cookie", formCookie+"="+cookiesOf(w.Header())[formCookie]).form(), m[1]
}

func TestLoginByBrowser(t *testing.T) {
	f := newFixture(t)
	c, csrf := loginForm(t, f.anonymous())
	c = c.with("Origin", "http://gate.example.com").with("Sec-Fetch-Site", "same-origin")
	body := url.Values{"username": {"admin"}, "password": {adminPassword}, "_csrf": {csrf}}.Encode()
	w := c.do("POST", "/login", body)
	if w.Code != 302 || w.Header().Get("Location") != "/dashboard" {
		t.Fatalf("got %d %s", w.Code, w.Header())
	}
	for _, cookie := range (&http.Response{Header: w.Header()}).Cookies() {
		if cookie.Name != sessionCookie {
			continue
		}
		if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Secure || cookie.MaxAge != 86400 || cookie.Domain != "" || cookie.Path != "/" {
			t.Errorf("the cookie is %v", cookie)
		}
	}
	in := f.anonymous().with("Cookie", sessionCookie+"="+cookiesOf(w.Header())[sessionCookie])
	page := in.do("GET", "/dashboard", "")
	m := scraped.FindStringSubmatch(page.Body.String())
	if page.Code != 200 || m == nil {
		t.Fatalf("no csrfToken in the page: %d %s", page.Code, page.Body)
	}
	if w := in.do("GET", "/login", ""); w.Code != 302 || w.Header().Get("Location") != "/" {
		t.Errorf("the sign-in form for somebody signed in: %d", w.Code)
	}
	if w := in.do("GET", "/", ""); w.Code != 302 || w.Header().Get("Location") != "/dashboard" {
		t.Errorf("/: %d %s", w.Code, w.Header())
	}
	in.with("X-CSRF-Token", m[1]).call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
	in.call(t, 201, "POST", "/api/v1/peers", `{"name":"b","_csrf":"`+m[1]+`"}`)
	in.with("X-CSRF-Token", m[1]).call(t, 403, "POST", "/api/v1/peers", `{"name":"c","_csrf":"wrong"}`) // the body comes first
	if w := in.form().do("POST", "/logout", "_csrf="+m[1]); w.Code != 302 || w.Header().Get("Location") != "/login" {
		t.Errorf("logout: %d", w.Code)
	}
	in.call(t, 401, "GET", "/api/v1/peers", "")
}

func TestLoginCookieIsSecureOnHTTPS(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.BaseURL = &url.URL{Scheme: "https", Host: "gate.example.com"} })
	w := f.anonymous().form().do("POST", "/login", "username=admin&password="+url.QueryEscape(adminPassword))
	if h := w.Header().Get("Set-Cookie"); w.Code != 302 || !strings.Contains(h, "gc.sid=") || !strings.Contains(h, "; Secure") {
		t.Errorf("%d %s", w.Code, w.Header())
	}
}

func TestLoginCrossSite(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.LoginLimit = 1000 })
	good := "username=admin&password=" + url.QueryEscape(adminPassword)
	withForm, csrf := loginForm(t, f.anonymous())
	for _, c := range []struct {
		name   string
		as     *caller
		header map[string]string
		csrf   string
		want   int
	}{
		{"a program without _csrf", f.anonymous().form(), nil, "", 302},
		{"a program with a wrong _csrf", f.anonymous().form(), nil, "00", 403},
		{"a program with a form's _csrf but not its cookie", f.anonymous().form(), nil, csrf, 403},
		{"a program with the form's _csrf", withForm, nil, csrf, 302},
		{"an empty _csrf", withForm, nil, " ", 403},
		{"a browser without _csrf", withForm, map[string]string{"Origin": "http://gate.example.com"}, "", 403},
		{"a browser that only tells the site", withForm, map[string]string{"Sec-Fetch-Site": "same-origin"}, "", 403},
		{"a browser with _csrf", withForm, map[string]string{"Origin": "http://gate.example.com"}, csrf, 302},
		{"another site", withForm, map[string]string{"Origin": "http://evil.example"}, csrf, 403},
		{"a neighbour on the same site", withForm, map[string]string{"Origin": "http://app.example.com", "Sec-Fetch-Site": "same-site"}, csrf, 403},
		{"another port", withForm, map[string]string{"Origin": "http://gate.example.com:8080"}, csrf, 403},
		{"another scheme", withForm, map[string]string{"Origin": "https://gate.example.com"}, csrf, 403},
		{"another scheme before a foreign TLS proxy", withForm, map[string]string{"Origin": "https://gate.example.com", "Sec-Fetch-Site": "same-origin"}, csrf, 302},
		{"a sandboxed page", withForm, map[string]string{"Origin": "null"}, csrf, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			as, body := c.as, good
			for name, v := range c.header {
				as = as.with(name, v)
			}
			if c.csrf != "" {
				body += "&_csrf=" + url.QueryEscape(strings.TrimSpace(c.csrf))
			}
			w := as.do("POST", "/login", body)
			if w.Code != c.want {
				t.Errorf("status %d, want %d: %s", w.Code, c.want, w.Body)
			}
			if signedIn := cookiesOf(w.Header())[sessionCookie] != ""; signedIn != (c.want == 302) {
				t.Errorf("a session was made: %v", signedIn)
			}
		})
	}
}

func TestSessionCrossSite(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, c := range []struct {
		name   string
		header map[string]string
		want   int
	}{
		{"no browser", nil, 200},
		{"the same origin", map[string]string{"Origin": "http://gate.example.com", "Sec-Fetch-Site": "same-origin"}, 200},
		{"the usual port", map[string]string{"Origin": "http://gate.example.com:80"}, 200},
		{"another site", map[string]string{"Origin": "http://evil.example"}, 403},
		{"a neighbour on the same site", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"from the address bar", map[string]string{"Sec-Fetch-Site": "none"}, 403},
		{"a sandboxed page", map[string]string{"Origin": "null"}, 403},
		{"a name that begins like ours", map[string]string{"Origin": "http://gate.example.com.evil.example"}, 403},
		{"userinfo", map[string]string{"Origin": "http://gate.example.com@evil.example"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := admin
			for name, v := range c.header {
				as = as.with(name, v)
			}
			as.call(t, c.want, "POST", "/api/v1/caddy/reload", "")
			as.call(t, 200, "GET", "/api/v1/peers", "") // reading is guarded by the browser
		})
	}
}

func TestLoginFailures(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.LoginLimit = 1000 })
	for _, body := range []string{"username=admin&password=wrong", "username=&password=", "username=admin", "password=x", "x=y"} {
		w := f.anonymous().form().do("POST", "/login", body)
		if w.Code != 302 || w.Header().Get("Location") != "/login" || cookiesOf(w.Header())[sessionCookie] != "" {
			t.Errorf("%s: %d %s", body, w.Code, w.Header())
		}
		told := f.anonymous().with("Cookie", flashCookie+"="+cookiesOf(w.Header())[flashCookie]).do("GET", "/login", "")
		if !strings.Contains(told.Body.String(), `role="alert"`) || cookiesOf(told.Header())[flashCookie] != "" {
			t.Errorf("%s: the form does not tell: %s", body, told.Body)
		}
	}
	if w := f.anonymous().with("Cookie", flashCookie+"=<script>").do("GET", "/login", ""); strings.Contains(w.Body.String(), "alert") {
		t.Error("the form shows what a cookie says")
	}
}

func TestLoginByJSON(t *testing.T) {
	f := newFixture(t)
	w := f.anonymous().do("POST", "/login", `{"username":"admin","password":"`+adminPassword+`"}`)
	var got struct {
		OK        bool
		CSRFToken string
		User      struct{ Username string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || !got.OK || got.User.Username != "admin" {
		t.Fatalf("%d %s, %v", w.Code, w.Body, err)
	}
	in := f.anonymous().with("Cookie", sessionCookie+"="+cookiesOf(w.Header())[sessionCookie])
	in.call(t, 403, "POST", "/api/v1/peers", `{"name":"a"}`)
	in.with("X-CSRF-Token", got.CSRFToken).call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
	f.anonymous().call(t, 401, "POST", "/login", `{"username":"admin","password":"wrong"}`)
}

func TestLockedAccountAnswersAlike(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.LoginLimit = 1000 })
	wrong := ""
	for i := range 7 {
		w := f.anonymous().do("POST", "/login", `{"username":"admin","password":"wrong"}`)
		if i == 0 {
			wrong = w.Body.String()
		}
		if w.Code != 401 || w.Body.String() != wrong {
			t.Errorf("try %d: %d %s", i, w.Code, w.Body)
		}
	}
	good := `{"username":"admin","password":"` + adminPassword + `"}`
	if w := f.anonymous().do("POST", "/login", good); w.Code != 401 || w.Body.String() != wrong {
		t.Errorf("locked: %d %s", w.Code, w.Body)
	}
	f.clock.advance(15 * time.Minute)
	f.anonymous().call(t, 200, "POST", "/login", good)
}

func TestLoginLimit(t *testing.T) {
	f := newFixture(t)
	good := `{"username":"admin","password":"` + adminPassword + `"}`
	for i := range 10 {
		w := f.anonymous().do("POST", "/login", good) // successes count, too
		if w.Code != 200 || w.Header().Get("RateLimit-Remaining") != itoa(9-i) {
			t.Fatalf("try %d: %d %s", i, w.Code, w.Header())
		}
	}
	w := f.anonymous().do("POST", "/login", good)
	if w.Code != 429 || w.Header().Get("Retry-After") != "900" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %s", w.Code, w.Header(), w.Body)
	}
	if w := f.anonymous().form().do("POST", "/login", "username=a&password=b"); w.Code != 429 {
		t.Errorf("a form: %d", w.Code)
	}
	other := f.anonymous()
	other.remote = "192.0.2.2:1"
	other.call(t, 200, "POST", "/login", good)
	f.clock.advance(15 * time.Minute)
	f.anonymous().call(t, 200, "POST", "/login", good)
}

func TestNewLoginEndsTheOldSession(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	w := admin.do("POST", "/login", `{"username":"admin","password":"`+adminPassword+`"}`)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	admin.call(t, 401, "GET", "/api/v1/peers", "")
	if "gc.sid="+cookiesOf(w.Header())[sessionCookie] == admin.header.Get("Cookie") {
		t.Error("the session kept its id")
	}
}

func TestPasswordIsDue(t *testing.T) {
	f := newFixture(t)
	f.mustChange(t)
	admin := f.admin(t)
	if m := admin.call(t, 403, "GET", "/api/v1/peers", ""); m["code"] != codePasswordChange {
		t.Errorf("the answer is %v", m)
	}
	if m := admin.call(t, 200, "GET", "/api/v1/session", ""); m["must_change_password"] != true {
		t.Errorf("the session is %v", m)
	}
	page := admin.do("GET", "/dashboard", "")
	if body := page.Body.String(); !strings.Contains(body, `name="next"`) || strings.Contains(body, "Peers") {
		t.Errorf("the page is %s", body)
	}
	// The form of the page.
	post := func(current, next, again string) (int, string) {
		body := url.Values{"current": {current}, "next": {next}, "again": {again}, "_csrf": {admin.csrf}}.Encode()
		w := admin.form().do("POST", "/dashboard/password", body)
		return w.Code, w.Body.String()
	}
	for _, c := range []struct{ name, current, next, again, want string }{
		{"wrong", "wrong", "a new password", "a new password", `id="current-error"`},
		{"short", adminPassword, "short", "short", `id="next-error"`},
		{"a slip", adminPassword, "a new password", "a new passwort", `id="again-error"`},
	} {
		if status, body := post(c.current, c.next, c.again); status != 400 || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
	if status, body := post(adminPassword, "a new password", "a new password"); status != 302 {
		t.Fatalf("%d %s", status, body)
	}
	admin.call(t, 200, "GET", "/api/v1/peers", "")
}

func TestPasswordByAPI(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{
		`{"current":"` + adminPassword + `","next":"a new password"}`,
		`{"current_password":"a new password","new_password":"another password"}`,
	} {
		admin, other := f.admin(t), f.admin(t)
		m := admin.call(t, 200, "PUT", "/api/v1/settings/password", body)
		csrf, _ := m["csrfToken"].(string)
		if len(csrf) != 128 || csrf == admin.csrf {
			t.Errorf("csrfToken is %q", csrf)
		}
		other.call(t, 401, "GET", "/api/v1/peers", "")
		admin.call(t, 403, "POST", "/api/v1/caddy/reload", "")
		admin.with("X-CSRF-Token", csrf).call(t, 200, "POST", "/api/v1/caddy/reload", "")
	}
	m := f.admin(t).call(t, 400, "PUT", "/api/v1/settings/password", `{}`)
	if fields, _ := m["fields"].(map[string]any); fields["current"] == nil || fields["next"] == nil {
		t.Errorf("the answer is %v", m)
	}
}

func TestPasswordKeepsTheBrowserKnown(t *testing.T) {
	f := newFixture(t)
	w := f.admin(t).do("PUT", "/api/v1/settings/password", `{"current":"`+adminPassword+`","next":"a new password"}`)
	if cookies := w.Result().Cookies(); w.Code != 200 || len(cookies) != 1 || cookies[0].Name != deviceCookie || !cookies[0].HttpOnly {
		t.Errorf("%d, the cookies are %v", w.Code, cookies)
	}
}

func TestPasswordGuessesAreLimited(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	var w *httptest.ResponseRecorder
	for range 6 {
		w = admin.do("PUT", "/api/v1/settings/password", `{"current":"wrong","next":"a new password"}`)
	}
	if w.Code != 429 || w.Header().Get("Retry-After") != "900" {
		t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
}

func TestSessionExpires(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	f.clock.advance(23 * time.Hour)
	if m := admin.call(t, 200, "GET", "/api/v1/session", ""); m["expires_at"] != "2026-05-03T11:00:00.000Z" {
		t.Errorf("the session is %v", m)
	}
	f.clock.advance(23 * time.Hour)
	admin.call(t, 200, "GET", "/api/v1/peers", "")
	f.clock.advance(24 * time.Hour)
	admin.call(t, 401, "GET", "/api/v1/peers", "")
	if w := admin.do("GET", "/dashboard", ""); w.Code != 302 || w.Header().Get("Location") != "/login" {
		t.Errorf("the page: %d", w.Code)
	}
}
