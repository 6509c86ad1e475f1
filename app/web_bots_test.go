package app_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// botBlocker refuses who comes from a network of bots, in each way (contract 6.7), and
// counts that and nothing else.
func botBlocker(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"bot_blocker_enabled": true})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	claim := func(r *http.Request) { r.Header.Set("X-Forwarded-For", g.beta.peer.Addr.String()) }
	garbage := ""
	for _, c := range []struct {
		name    string
		options fields
		status  int
		header  string
		body    string
		blocked int // so far
	}{
		{"block", fields{}, 403, "Content-Type: text/plain; charset=utf-8", "Access denied.\n", 1},
		{"custom", fields{"bot_blocker_mode": "custom", "bot_blocker_config": fields{"message": "no <robots>", "status_code": 410}}, 410, "Content-Type: text/plain; charset=utf-8", "no &lt;robots&gt;", 2},
		{"redirect", fields{"bot_blocker_mode": "redirect", "bot_blocker_config": fields{"url": "https://example.org/x"}}, 308, "Location: https://example.org/x", "", 3},
		{"garbage", fields{"bot_blocker_mode": "garbage"}, 200, "Content-Type: text/plain; charset=utf-8", "", 4},
		{"garbage again", fields{}, 200, "Content-Type: text/plain; charset=utf-8", "", 5},
		{"off", fields{"bot_blocker_enabled": false}, 200, "Content-Type: text/plain", "alpha:8000 GET /", 5},
		{"another refusal", fields{"bot_blocker_enabled": true, "external_enabled": false}, 404, "", "", 5},
	} {
		g.change(t, id, c.options)
		got := visit(t, out, domain, "/", claim)
		got.wants(t, c.name+", a bot", c.status, c.body)
		if name, value, ok := strings.Cut(c.header, ": "); ok && got.header.Get(name) != value {
			t.Errorf("%s: the answer has %v", c.name, got.header)
		}
		if strings.HasPrefix(c.name, "garbage") {
			if strings.Count(got.body, "\n") != 100 || got.body == garbage {
				t.Errorf("%s: %d bytes %.80q", c.name, len(got.body), got.body)
			}
			garbage = got.body
		}
		visit(t, in, domain, "/").wants(t, c.name+", nobody's bot", 200, "alpha:8000 GET /")
		if n := g.botCount(t, id); n != c.blocked {
			t.Errorf("%s: %d were counted, want %d", c.name, n, c.blocked)
		}
	}
	g.change(t, id, fields{"external_enabled": true, "bot_blocker_mode": "drop", "bot_blocker_config": nil})
	if got, err := try(t.Context(), out, "https://"+domain+"/"); err == nil {
		t.Errorf("drop: %d", got.status)
	}
	if n := g.botCount(t, id); n < 6 { // clients may try again what was dropped
		t.Errorf("%d were counted, want 6 at least", n)
	}
	visit(t, in, domain, "/").wants(t, "drop, nobody's bot", 200, "alpha:8000 GET /")
}

// botTarpit answers bots slowly (contract 6.7).
func botTarpit(t *testing.T, g *gallery, v visitor) {
	t.Parallel() // it takes seconds
	id, domain := g.show(t, fields{"bot_blocker_enabled": true, "bot_blocker_mode": "tarpit"})
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	tarpitted(t, out, domain)
	visit(t, in, domain, "/").wants(t, "nobody's bot", 200, "alpha:8000 GET /")
	if n := g.botCount(t, id); n != 1 {
		t.Errorf("%d were counted, want 1", n)
	}
}

// botCount is how many requests the bot blocker of a route has refused.
func (g *gallery) botCount(t *testing.T, id int64) int {
	t.Helper()
	var got struct {
		Route struct {
			Count int `json:"bot_blocker_count"`
		}
	}
	g.s.API.Call(t, 200, "GET", "/api/v1/routes/"+strconv.FormatInt(id, 10), nil, &got)
	return got.Route.Count
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
