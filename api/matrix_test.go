package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/control/accounts"
	"gatecontrol/control/settings"
	"gatecontrol/model"
	"gatecontrol/store"
)

// opens says for every operation who may call it, written down apart from the
// table: "all", or any of login, due (a login whose password is due) and the
// scopes of a token.
var opens = map[string]string{
	"GET /{$}":                 "login due",
	"GET /login":               "all",
	"POST /login":              "all",
	"POST /logout":             "login due",
	"GET /dashboard":           "login due",
	"POST /dashboard/password": "login due",
	"GET /health":              "all",

	"GET /branding/{file}":                   "all",
	"GET /route-auth/static/branding/{file}": "all",

	"GET /api/v1/openapi.json":      "login any-token",
	"GET /api/v1/session":           "login due",
	"PUT /api/v1/settings/password": "login due",
	"GET /api/v1/settings/exit":     "login full-access read-only settings",
	"PUT /api/v1/settings/exit":     "login full-access settings",
	"GET /api/v1/settings/backup":   "login full-access backup",

	"GET /api/v1/settings/monitoring": "login full-access read-only settings",
	"PUT /api/v1/settings/monitoring": "login full-access settings",

	"GET /metrics":                 "login full-access read-only system",
	"GET /api/v1/settings/metrics": "login full-access read-only",
	"PUT /api/v1/settings/metrics": "login full-access",

	"GET /api/v1/settings/route-block-default": "login full-access read-only",
	"PUT /api/v1/settings/route-block-default": "login full-access",

	"GET /api/v1/tokens":         "login",
	"POST /api/v1/tokens":        "login",
	"DELETE /api/v1/tokens/{id}": "login",

	"GET /api/v1/peers":                 "login full-access read-only peers",
	"POST /api/v1/peers":                "login full-access peers",
	"POST /api/v1/peers/batch":          "login full-access peers",
	"GET /api/v1/peers/{id}":            "login full-access read-only peers",
	"PUT /api/v1/peers/{id}":            "login full-access peers",
	"DELETE /api/v1/peers/{id}":         "login full-access peers",
	"PUT /api/v1/peers/{id}/toggle":     "login full-access peers",
	"PATCH /api/v1/peers/{id}/hostname": "login full-access peers",
	"GET /api/v1/peers/{id}/config":     "login full-access peers",
	"GET /api/v1/peers/{id}/qr":         "login full-access peers",

	"GET /api/v1/peers/{id}/access-rules":           "login full-access read-only peers",
	"POST /api/v1/peers/{id}/access-rules":          "login full-access peers",
	"PUT /api/v1/peers/{id}/access-rules/{rule}":    "login full-access peers",
	"DELETE /api/v1/peers/{id}/access-rules/{rule}": "login full-access peers",

	"GET /api/v1/peer-groups":         "login full-access read-only",
	"POST /api/v1/peer-groups":        "login full-access",
	"PUT /api/v1/peer-groups/{id}":    "login full-access",
	"DELETE /api/v1/peer-groups/{id}": "login full-access",

	"GET /api/v1/routes/{id}/access-rules":           "login full-access read-only routes",
	"POST /api/v1/routes/{id}/access-rules":          "login full-access routes",
	"PUT /api/v1/routes/{id}/access-rules/{rule}":    "login full-access routes",
	"DELETE /api/v1/routes/{id}/access-rules/{rule}": "login full-access routes",

	"GET /api/v1/routes":             "login full-access read-only routes",
	"POST /api/v1/routes":            "login full-access routes",
	"POST /api/v1/routes/batch":      "login full-access routes",
	"POST /api/v1/routes/check-dns":  "login full-access routes",
	"POST /api/v1/routes/explain":    "login full-access routes",
	"GET /api/v1/routes/peers":       "login full-access read-only routes",
	"GET /api/v1/routes/{id}":        "login full-access read-only routes",
	"PUT /api/v1/routes/{id}":        "login full-access routes",
	"DELETE /api/v1/routes/{id}":     "login full-access routes",
	"PUT /api/v1/routes/{id}/toggle": "login full-access routes",
	"GET /api/v1/routes/{id}/trace":  "login full-access read-only routes",

	"POST /api/v1/routes/{id}/circuit-breaker/reset": "login full-access routes",
	"POST /api/v1/routes/{id}/check":                 "login full-access routes",

	"POST /api/v1/routes/{id}/branding/logo":       "login full-access routes",
	"DELETE /api/v1/routes/{id}/branding/logo":     "login full-access routes",
	"POST /api/v1/routes/{id}/branding/bg-image":   "login full-access routes",
	"DELETE /api/v1/routes/{id}/branding/bg-image": "login full-access routes",

	"GET /api/v1/certificates":                     "login full-access read-only routes",
	"POST /api/v1/certificates":                    "login full-access routes",
	"DELETE /api/v1/certificates/{id}":             "login full-access routes",
	"POST /api/v1/certificates/{domain}/renew":     "login full-access routes",
	"POST /api/v1/certificates/preflight":          "login full-access routes",
	"GET /api/v1/certificates/root.pem":            "login any-token",
	"GET /api/v1/certificates/dns-zones":           "login full-access read-only settings",
	"PUT /api/v1/certificates/dns-zones/{zone}":    "login full-access settings",
	"DELETE /api/v1/certificates/dns-zones/{zone}": "login full-access settings",

	"GET /api/v1/dashboard/stats":    "login full-access read-only",
	"GET /api/v1/logs/activity":      "login full-access read-only logs",
	"GET /api/v1/logs/access":        "login full-access read-only logs",
	"GET /api/v1/logs/recent":        "login full-access read-only logs",
	"GET /api/v1/system/conditions":  "login full-access read-only system",
	"GET /api/v1/system/dns/status":  "login full-access read-only system",
	"GET /api/v1/system/dns/records": "login full-access read-only system",
	"GET /api/v1/wg/status":          "login full-access read-only system",
	"GET /api/v1/caddy/status":       "login full-access read-only system",
	"POST /api/v1/caddy/reload":      "login full-access system",
}

// TestWhoMayCallWhat calls every operation with every kind of credential.
func TestWhoMayCallWhat(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.APILimit, o.LoginLimit = 1<<30, 1<<30 })
	due := newFixture(t, func(o *Options) { o.APILimit, o.LoginLimit = 1<<30, 1<<30 })
	due.mustChange(t)
	for _, g := range []*fixture{f, due} { // they are off, and then nobody sees them
		if err := g.Settings.SetMetrics(t.Context(), settings.MetricsInput{Enabled: model.Field[bool]{Set: true, Value: true}}); err != nil {
			t.Fatal(err)
		}
	}

	tokens := map[string]*caller{}
	for _, scope := range model.Scopes() {
		tokens[string(scope)] = f.token(t, string(scope))
	}
	bad := badCredentials(t, f)

	if len(f.table) != len(opens) {
		t.Errorf("the table has %d operations, this test knows %d", len(f.table), len(opens))
	}
	for _, o := range f.table {
		name := o.method + " " + o.path
		rule, known := opens[name]
		if !known {
			t.Errorf("%s: nobody wrote down who may call it", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			who := strings.Fields(rule)
			all := slices.Contains(who, "all")
			target := strings.NewReplacer("{$}", "", "{id}", "999", "{domain}", "app.example.com", "{zone}", "example.com").Replace(o.path)
			page := o.isPage()
			expect := func(as string, c *caller, want verdict) {
				t.Helper()
				if all {
					c = c.with("X-CSRF-Token", "") // of a session, which does not count there
				}
				methods := []string{o.method}
				if o.method == http.MethodGet {
					methods = append(methods, http.MethodHead)
				}
				for _, method := range methods {
					for _, path := range []string{target, strings.Replace(target, "/api/v1/", "/api/", 1)} {
						body := ""
						if method != http.MethodGet && method != http.MethodHead {
							body = "{}"
						}
						w := c.do(method, path, body)
						got := judge(w.Code, w.Header().Get("Location"), w.Body.String())
						if method == http.MethodHead && got == "forbidden" && want == "password first" {
							got = want // the reason is in the body
						}
						if got != want {
							t.Errorf("%s as %s: %s (%d %s), want %s", method, as, got, w.Code, w.Body, want)
						}
					}
				}
			}
			refused := verdict("login first")
			if all {
				refused = "open"
			}
			expect("nobody", f.anonymous(), refused)
			for as, c := range bad {
				want := refused
				if as == "a token of a disabled owner" && !page {
					want = "forbidden"
				}
				expect(as, c, want)
			}

			admin := f.admin(t)
			want := verdict("open")
			if !all && !slices.Contains(who, "login") {
				want = "forbidden"
			}
			if path := o.method + " " + o.path; path == "GET /login" {
				want = "open" // it leads on
			}
			if o.method != http.MethodGet && !all {
				expect("a login without its CSRF token", admin.with("X-CSRF-Token", ""), "forbidden")
				expect("a login with another CSRF token", admin.with("X-CSRF-Token", strings.Repeat("0", 128)), "forbidden")
				expect("a login from another site", admin.with("Origin", "http://evil.example"), "forbidden")
			}
			if name == "POST /logout" { // the second call has no session any more
				if w := admin.do("POST", "/logout", ""); w.Code != 302 {
					t.Errorf("as a login: %d", w.Code)
				}
			} else {
				expect("a login", admin, want)
			}

			if name != "POST /logout" {
				want := verdict("open")
				if !all && !slices.Contains(who, "due") {
					want = "password first"
				}
				expect("a login whose password is due", due.admin(t), want)
			}

			for scope, c := range tokens {
				want := verdict("forbidden")
				switch {
				case all:
					want = "open"
				case page:
					want = "login first" // tokens are for the API alone
				case slices.Contains(who, scope) || slices.Contains(who, "any-token"):
					want = "open"
				}
				expect("a token with the scope "+scope, c, want)
			}
		})
	}
}

type verdict string

// judge tells how an answer treats its caller. What passes the gates and then
// fails was let in.
func judge(status int, location, body string) verdict {
	switch {
	case status == http.StatusUnauthorized && !strings.Contains(body, "password"), status == http.StatusFound && location == "/login" && body == "":
		return "login first"
	case status == http.StatusForbidden && strings.Contains(body, codePasswordChange):
		return "password first"
	case status == http.StatusForbidden:
		return "forbidden"
	case status >= 500:
		return verdict(fmt.Sprint("broken: ", status))
	}
	return "open"
}

// badCredentials are those that open nothing.
func badCredentials(t *testing.T, f *fixture) map[string]*caller {
	t.Helper()
	revoked := f.token(t, "full-access")
	list, err := f.Accounts.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Accounts.DeleteToken(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	value, _, err := f.Accounts.CreateToken(t.Context(), accounts.TokenInput{
		Name: "expired", Scopes: []string{"full-access"}, ExpiresAt: iso(f.clock.now().Add(time.Minute)),
	})
	if err != nil {
		t.Fatal(err)
	}
	expired := f.anonymous().with("Authorization", "Bearer "+value.Reveal())
	f.clock.advance(2 * time.Minute)

	disabled := f.token(t, "full-access")
	f.update(t, func(tx *store.Tx) error {
		owner := &model.User{Username: "gone", Role: model.RoleAdmin, PasswordHash: "!"}
		if err := store.Users.Insert(tx, owner); err != nil {
			return err
		}
		for token, err := range store.Tokens.Backward(tx) {
			if err != nil {
				return err
			}
			token.User = owner.ID
			return store.Tokens.Put(tx, token)
		}
		return nil
	})
	f.Accounts.Forget()

	ended := f.admin(t)
	f.update(t, func(tx *store.Tx) error {
		var last *model.Session
		for session, err := range store.Sessions.All(tx) {
			if err != nil {
				return err
			}
			last = session
		}
		_, err := store.Sessions.Delete(tx, last.ID)
		return err
	})
	twice := f.admin(t)
	twice.header.Set("Cookie", twice.header.Get("Cookie")+"; "+twice.header.Get("Cookie"))
	return map[string]*caller{
		"a revoked token":             revoked,
		"an expired token":            expired,
		"a token of a disabled owner": disabled,
		"an unknown token":            f.anonymous().with("Authorization", "Bearer gc_"+strings.Repeat("0", 96)),
		"a gateway's token":           f.anonymous().with("Authorization", "Bearer gc_gw_"+strings.Repeat("0", 64)),
		"basic authentication":        f.anonymous().with("Authorization", "Basic YWRtaW46Y29ycmVjdCBob3JzZQ=="),
		"an ended session":            ended,
		"a cookie that comes twice":   twice,
		"an unknown cookie":           f.anonymous().with("Cookie", "gc.sid="+strings.Repeat("A", 43)),
	}
}

func TestLoginWinsOverToken(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	both := admin.with("Authorization", f.token(t, "logs").header.Get("Authorization"))
	both.call(t, 200, "GET", "/api/v1/peers", "")
	both.with("X-CSRF-Token", "").call(t, 403, "POST", "/api/v1/peers", `{"name":"a"}`)
	// A cookie that is no login leaves the token alone.
	f.token(t, "peers").with("Cookie", "gc.sid="+strings.Repeat("A", 43)).call(t, 201, "POST", "/api/v1/peers", `{"name":"a"}`)
}

func TestTokenHeaders(t *testing.T) {
	f := newFixture(t)
	value := strings.TrimPrefix(f.token(t, "peers").header.Get("Authorization"), "Bearer ")
	for _, c := range []struct {
		name   string
		header map[string]string
		want   int
	}{
		{"bearer", map[string]string{"Authorization": "Bearer " + value}, 200},
		{"bearer in another case", map[string]string{"Authorization": "bearer  " + value}, 200},
		{"X-API-Token", map[string]string{"X-Api-Token": value}, 200},
		{"X-API-Key", map[string]string{"X-Api-Key": value}, 200},
		{"a foreign bearer is passed over", map[string]string{"Authorization": "Bearer eyJhbGciOi", "X-Api-Key": value}, 200},
		{"the first one counts", map[string]string{"Authorization": "Bearer gc_wrong", "X-Api-Key": value}, 401},
		{"without a scheme", map[string]string{"Authorization": value}, 401},
		{"in the query", nil, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := f.anonymous()
			for name, v := range c.header {
				as = as.with(name, v)
			}
			as.call(t, c.want, "GET", "/api/v1/peers?token="+value, "")
		})
	}
}

func TestOperationNeedsARule(t *testing.T) {
	o := op("GET", "/api/v1/open", "x", access{}, nil, (&Server{}).home)
	if o.check() == nil {
		t.Error("an operation without a rule of access would start")
	}
}
