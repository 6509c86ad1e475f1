package app_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

func botBlocker(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"bot_blocker_enabled": true})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	for _, c := range []struct {
		name    string
		options fields
		status  int
		body    string
	}{
		{"block", fields{}, 403, "Access denied.\n"},
		{"custom", fields{"bot_blocker_mode": "custom", "bot_blocker_config": fields{"message": "no <robots>", "status_code": 410}}, 410, "no &lt;robots&gt;"},
		{"redirect", fields{"bot_blocker_mode": "redirect", "bot_blocker_config": fields{"url": "https://example.org/"}}, 308, ""},
		{"garbage", fields{"bot_blocker_mode": "garbage"}, 200, ""},
		{"off", fields{"bot_blocker_enabled": false}, 200, "alpha:8000 GET /"},
	} {
		g.change(t, id, c.options)
		visit(t, out, domain, "/").wants(t, c.name+", a bot", c.status, c.body)
		visit(t, in, domain, "/").wants(t, c.name+", nobody's bot", 200, "alpha:8000 GET /")
	}
	g.change(t, id, fields{"bot_blocker_enabled": true, "bot_blocker_mode": "drop", "bot_blocker_config": nil})
	if res, err := out.Get("https://" + domain + "/"); err == nil {
		_ = res.Body.Close()
		t.Errorf("drop: %s", res.Status)
	}
	g.change(t, id, fields{"bot_blocker_mode": "tarpit"})
	tarpitted(t, out, domain)
	visit(t, in, domain, "/").wants(t, "tarpit, nobody's bot", 200, "alpha:8000 GET /")
	// Clients may try again what was dropped.
	var got struct {
		Route struct {
			Count int `json:"bot_blocker_count"`
		}
	}
	g.s.API.Call(t, 200, "GET", "/api/v1/routes/"+strconv.FormatInt(id, 10), nil, &got)
	if got.Route.Count < 6 {
		t.Errorf("%d were counted, want 6 at least", got.Route.Count)
	}
}

// tarpitted meets an answer that takes its time: three pieces of a few bytes are a
// second apart, and there is more to come.
func tarpitted(t *testing.T, c *http.Client, domain string) {
	t.Helper()
	begun := time.Now()
	res, err := c.Get("https://" + domain + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("tarpit: %s", res.Status)
	}
	n := 0
	for buf := make([]byte, 1024); n < 3*24; {
		m, err := res.Body.Read(buf)
		if n += m; err != nil {
			t.Fatalf("tarpit: the end came after %d bytes: %v", n, err)
		}
	}
	if took := time.Since(begun); took < 3*time.Second || n > 4*24 {
		t.Errorf("tarpit: %d bytes in %v", n, took)
	}
}
