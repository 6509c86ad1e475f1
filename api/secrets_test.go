package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gatecontrol/control/accounts"
	"gatecontrol/control/events"
	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/model"
)

// TestSecretsStayInside calls every operation and looks for secrets in what it
// answers, and in the log afterwards. Those that an operation is there to tell
// are listed with it.
func TestSecretsStayInside(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.LoginLimit = 1000 })
	admin := f.admin(t)
	made, err := f.Peers.Create(t.Context(), peers.Input{Name: model.Value("marked")})
	if err != nil {
		t.Fatal(err)
	}
	value, token, err := f.Accounts.CreateToken(t.Context(), accounts.TokenInput{Name: "t", Scopes: []string{"full-access"}})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := f.Peers.Get(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	route, err := f.Routes.Create(t.Context(), routes.Input{
		Domain: model.Value("marked.example.com"), TargetPort: model.Value(int64(8080)),
		Access: routes.Access{BasicAuthUser: model.Value("anna"), BasicAuthPassword: model.Value("marked password of a route")},
	})
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"the password":              adminPassword,
		"the hash of the password":  cheapHash(),
		"a session cookie":          strings.TrimPrefix(admin.header.Get("Cookie"), "gc.sid="),
		"a token":                   value.Reveal(),
		"the hash of a token":       token.Hash,
		"a private key":             made.PrivateKey.Base64(),
		"a preshared key":           made.PresharedKey.Base64(),
		"the server's private key":  serverKey.Base64(),
		"a CSRF token":              admin.csrf,
		"a sealed private key":      string(peer.PrivateKey),
		"a sealed preshared key":    string(peer.PresharedKey),
		"the key that seals":        strings.Repeat("ab", 32),
		"the wrong password of one": "marked-wrong-password",
		"the password of a route":   "marked password of a route",
		"the hash of that":          route.Options().BasicAuth.Hash,
		"the secret of a zone":      "bWFya2VkIHNlY3JldCBvZiBhIHpvbmU=",
	}
	allowed := map[string][]string{
		"GET /dashboard":                {"a CSRF token"},
		"POST /dashboard/password":      {"a CSRF token"},
		"GET /api/v1/session":           {"a CSRF token"},
		"GET /api/v1/peers/{id}/config": {"a private key", "a preshared key"},
		"GET /api/v1/peers/{id}/qr":     {"a private key", "a preshared key"},
		"GET /api/v1/settings/backup":   {"a sealed private key", "a sealed preshared key", "the hash of a token", "the hash of the password", "the hash of that"},
	}
	search := func(where, text string, except []string) {
		t.Helper()
		for name, secret := range secrets {
			if strings.Contains(text, secret) && !slices.Contains(except, name) {
				t.Errorf("%s holds %s", where, name)
			}
		}
	}
	body := fmt.Sprintf(`{"username":"admin","password":"marked-wrong-password","current":"marked-wrong-password","next":"marked-wrong-password 2",
		"provider":"rfc2136","server":"127.0.0.1","key_name":"key","key_secret":"bWFya2VkIHNlY3JldCBvZiBhIHpvbmU=",
		"basic_auth_user":"anna","basic_auth_password":"marked password of a route","name":"other","peer_id":%d,"target_port":"x","scopes":["%s"],"action":"%s","ids":[99]}`, made.ID, value.Reveal(), value.Reveal()[:50])
	for _, o := range f.table {
		if o.method == "DELETE" || o.path == "/logout" {
			continue
		}
		target := strings.NewReplacer("{$}", "", "{id}", made.ID.String(), "{domain}", "app.example.com", "{zone}", "marked.example.com").Replace(o.path)
		send := ""
		if o.method != "GET" {
			send = body
		}
		as := admin
		if o.path == "/login" {
			as = admin.with("X-CSRF-Token", "")
		}
		w := as.do(o.method, target, send)
		text := w.Body.String()
		for name, values := range w.Header() {
			text += name + ": " + strings.Join(values, " ") + "\n"
		}
		name := o.method + " " + o.path
		search(name, text, allowed[name])
		for _, secret := range allowed[name] {
			if name == "GET /api/v1/session" && !strings.Contains(text, secrets[secret]) {
				t.Errorf("%s does not tell %s; is the test still right?", name, secret)
			}
		}
	}
	search("the log", f.log.String(), nil)
	list, _, err := f.Events.List(events.Filter{}, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		search("the activity log", e.Message+string(e.Details), nil)
	}
}
