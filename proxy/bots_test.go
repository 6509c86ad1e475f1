package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestBotNetworks(t *testing.T) {
	for _, tt := range []struct {
		ranges string
		want   map[string]string // list by address
	}{
		{"", map[string]string{
			"20.171.206.1": "openai", "52.95.130.1": "aws", "2600:1f00::1": "aws", "34.64.0.1": "gcloud", "35.225.112.198": "gcloud", "20.85.130.105": "githubcopilot",
			"4.144.1.1": "azurepubliccloud", "8.8.8.8": "", "192.0.2.1": "", "10.0.0.1": "", "66.249.66.1": "", "2001:db8::1": "",
		}},
		{"openai, deepseek", map[string]string{"20.171.206.1": "openai", "52.95.130.1": "", "35.225.112.198": "deepseek"}},
		{"OpenAI,203.0.113.0/24,2001:db8:7::/48 , 198.51.100.7,openai", map[string]string{
			"20.171.206.1": "openai", "203.0.113.9": "custom", "2001:db8:7::1": "custom", "198.51.100.7": "custom", "198.51.100.8": "", "52.95.130.1": "",
		}},
		{"::ffff:203.0.113.0/120", map[string]string{"203.0.113.9": "custom", "20.171.206.1": ""}},
	} {
		b, err := NewBots(BotOptions{Ranges: tt.ranges})
		if err != nil {
			t.Errorf("%q: %v", tt.ranges, err)
			continue
		}
		for addr, want := range tt.want {
			if got := b.Network(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%q: %s is in %q, want %q", tt.ranges, addr, got, want)
			}
		}
	}
	for _, bad := range []string{"azure", "openai,10.0.0.0/33", "fe80::1%eth0"} {
		if _, err := NewBots(BotOptions{Ranges: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	lists, err := embeddedLists()
	if err != nil || len(lists) != 6 {
		t.Errorf("%d lists, %v", len(lists), err)
	}
	for _, l := range lists {
		for _, p := range l.set.Prefixes() {
			if _, err := sanePrefix(p.String()); err != nil {
				t.Errorf("%s: %v", l.name, err)
			}
		}
	}
}

// botRig serves a route with a bot blocker; strangers are bots, peers are not.
func botRig(t *testing.T, tune ...func(*Options, *limits)) (r *rig, commit func(model.BotBlocker), seen *observer) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "backend") })
	bots, err := NewBots(BotOptions{Ranges: stranger + "/32,127.0.1.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	seen = new(observer)
	r = newRig(t, Config{}, append(tune, func(o *Options, _ *limits) { o.Bots, o.Observe = bots, seen.observe })...)
	return r, func(b model.BotBlocker) {
		b.Enabled = true
		r.commit(gated(addr, RouteOptions{Bots: &b, BasicAuth: &model.BasicAuth{User: "a", Hash: hashOf(t, "b")}}))
	}, seen
}

func TestBotModes(t *testing.T) {
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r, commit, seen := botRig(t, func(_ *Options, l *limits) { l.tarpit = 2 * time.Second })
		for _, tt := range []struct {
			name   string
			b      model.BotBlocker
			status int // 0: no answer
			check  func(t *testing.T, resp *http.Response, body string)
		}{
			{"block", model.BotBlocker{Mode: model.BotBlock}, 403, func(t *testing.T, resp *http.Response, body string) {
				if body != "Access denied.\n" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
					t.Errorf("%q as %s", body, resp.Header.Get("Content-Type"))
				}
			}},
			{"custom", model.BotBlocker{Mode: model.BotCustom, Status: 451, Message: "<script>no & no</script>"}, 451, func(t *testing.T, resp *http.Response, body string) {
				if body != "&lt;script&gt;no &amp; no&lt;/script&gt;" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
					t.Errorf("%q as %s", body, resp.Header.Get("Content-Type"))
				}
			}},
			{"custom without a status", model.BotBlocker{Mode: model.BotCustom, Message: "no"}, 403, nil},
			{"custom with a status that is no end", model.BotBlocker{Mode: model.BotCustom, Status: 101, Message: "no"}, 403, nil},
			{"redirect", model.BotBlocker{Mode: model.BotRedirect, URL: "https://else.test/"}, 308, func(t *testing.T, resp *http.Response, _ string) {
				if got := resp.Header.Get("Location"); got != "https://else.test/" {
					t.Errorf("to %s", got)
				}
			}},
			{"garbage", model.BotBlocker{Mode: model.BotGarbage}, 200, func(t *testing.T, resp *http.Response, body string) {
				if strings.Count(body, "\n") != garbageLines || len(body) < 40*garbageLines {
					t.Errorf("%d lines in %d bytes", strings.Count(body, "\n"), len(body))
				}
			}},
			{"tarpit", model.BotBlocker{Mode: model.BotTarpit}, 200, func(t *testing.T, resp *http.Response, body string) {
				if len(body) != 2*tarpitPiece {
					t.Errorf("%d bytes", len(body))
				}
			}},
			{"drop", model.BotBlocker{Mode: model.BotDrop}, 0, nil},
		} {
			t.Run(tt.name, func(t *testing.T) {
				commit(tt.b)
				before := r.srv.BotCounts()[1]
				r.from = stranger
				began := time.Now()
				req, _ := http.NewRequest("POST", "https://app.test/", strings.NewReader("")) // is not sent again by itself
				resp, err := via(r).Do(req)
				if (err != nil) != (tt.status == 0) {
					t.Fatal(err)
				}
				want := model.StatusDropped
				size := int64(0)
				if err == nil {
					body := readAll(t, resp)
					if want, size = tt.status, int64(len(body)); resp.StatusCode != tt.status {
						t.Errorf("status %d", resp.StatusCode)
					}
					if tt.check != nil {
						tt.check(t, resp, body)
					}
				}
				if d := time.Since(began); (tt.b.Mode == model.BotTarpit) != (d > 1500*time.Millisecond) {
					t.Errorf("it took %v", d)
				}
				if n := r.srv.BotCounts()[1] - before; n != 1 {
					t.Errorf("counted %d times", n)
				}
				got := seen.take(t)
				if got.Status != want || got.Size != size || got.Refused != "bot_blocker" || got.Reason != "the address is in a network of bots: custom" {
					t.Errorf("recorded as %+v", got)
				}
				r.from = peerTwo
				resp, err = via(r).Get("https://app.test/")
				if err != nil {
					t.Fatal(err)
				}
				if readAll(t, resp); resp.StatusCode != 401 {
					t.Errorf("who is no bot gets %d", resp.StatusCode)
				}
				if got := seen.take(t); got.Refused != "basic_auth" {
					t.Errorf("recorded as %+v", got)
				}
			})
		}
	})
}

// TestTarpitsAreBounded fills every place, and ends all of them with the server.
func TestTarpitsAreBounded(t *testing.T) {
	r, commit, _ := botRig(t)
	commit(model.BotBlocker{Mode: model.BotTarpit})
	var open sync.WaitGroup
	for range 20 {
		c := r.clientFrom(stranger)
		open.Go(func() {
			resp, err := c.Get("http://app.test/")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Error("the answer came to its end")
			}
		})
	}
	eventually(t, "all are in", func() bool { return r.srv.tarpits.Load() == 20 })
	r.srv.tarpits.Add(maxTarpits - 20)
	resp, body := get(t, r.clientFrom(stranger), "http://app.test/")
	if resp.StatusCode != 403 {
		t.Errorf("one too many: %d %s", resp.StatusCode, body)
	}
	r.srv.tarpits.Add(20 - maxTarpits)
	if got := r.raw("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("HTTP/1.0: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := r.srv.Shutdown(ctx); err != nil {
		t.Errorf("shutdown waits for bots: %v", err)
	}
	open.Wait()
	if n := r.srv.tarpits.Load(); n != 0 {
		t.Errorf("%d places are lost", n)
	}
}

func TestBadBotOptions(t *testing.T) {
	r := newRig(t, Config{})
	for _, tt := range []struct {
		field string
		b     model.BotBlocker
	}{
		{"bot_blocker_mode", model.BotBlocker{Mode: "laugh"}},
		{"bot_blocker_config", model.BotBlocker{Mode: model.BotRedirect, URL: "ftp://x.test"}},
		{"bot_blocker_config", model.BotBlocker{Mode: model.BotRedirect}},
		{"bot_blocker_config", model.BotBlocker{Mode: model.BotCustom, Status: 600}},
	} {
		if _, err := r.srv.Prepare(gated(netip.MustParseAddrPort("127.0.0.1:1"), RouteOptions{Bots: &tt.b})); err == nil || !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%+v: %v", tt.b, err)
		}
	}
}

// TestBotRefresh fetches lists in the forms in which they are published.
func TestBotRefresh(t *testing.T) {
	var mu sync.Mutex
	pages := map[string]string{}
	asked := map[string]int{}
	set := func(path, body string) { mu.Lock(); pages[path] = body; mu.Unlock() }
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		if body, ok := pages[r.URL.Path]; ok {
			io.WriteString(w, body)
		} else {
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	sources := map[string]botSource{
		"openai":           {urls: []string{s.URL + "/gpt", s.URL + "/search"}, read: readPrefixes},
		"aws":              {urls: []string{s.URL + "/aws"}, read: readPrefixes},
		"githubcopilot":    {urls: []string{s.URL + "/meta"}, read: readCopilot},
		"azurepubliccloud": {urls: []string{s.URL + "/page"}, next: findServiceTags, read: readServiceTags},
	}
	b, err := NewBots(BotOptions{sources: sources, client: s.Client(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	set("/gpt", `{"creationTime":"2026","prefixes":[{"ipv4Prefix":"203.0.113.0/28"},{"ipv6Prefix":"2001:db8:1::/48"}]}`)
	set("/search", `{"prefixes":[{"ipv4Prefix":"203.0.113.16/28"}]}`)
	set("/aws", `{"syncToken":"1","prefixes":[{"ip_prefix":"198.51.100.0/24","region":"x"}],"ipv6_prefixes":[{"ipv6_prefix":"2001:db8:2::/48"}]}`)
	set("/meta", `{"hooks":["192.0.2.0/24"],"copilot":["203.0.114.7"]}`)
	set("/page", `<a href="`+s.URL+`/download/ServiceTags_Public_20260101.json">`)
	set("/download/ServiceTags_Public_20260101.json", `{"values":[{"name":"ActionGroup","properties":{"addressPrefixes":["192.0.2.0/24"]}},{"name":"AzureCloud","properties":{"addressPrefixes":["203.0.115.0/24"]}}]}`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	expect := func(want map[string]string) {
		t.Helper()
		for addr, list := range want {
			if got := b.Network(netip.MustParseAddr(addr)); got != list {
				t.Errorf("%s is in %q, want %q", addr, got, list)
			}
		}
	}
	eventually(t, "the last list is there", func() bool { return b.Network(netip.MustParseAddr("203.0.115.1")) != "" })
	cancel()
	<-done
	expect(map[string]string{
		"203.0.113.1": "openai", "203.0.113.17": "openai", "2001:db8:1::1": "openai", "20.171.206.1": "", // of before
		"198.51.100.1": "aws", "2001:db8:2::1": "aws", "203.0.114.7": "githubcopilot", "203.0.115.1": "azurepubliccloud",
		"192.0.2.1": "", "35.225.112.198": "gcloud", // of which nobody told a source
	})
	many, _ := json.Marshal(map[string]any{"copilot": make([]string, botMaxNets+1)})
	for name, body := range map[string]string{
		"not JSON":          `<html>`,
		"empty":             `{"copilot":[]}`,
		"something else":    `{"copilot":["203.0.113.0/24","bots"]}`,
		"everything":        `{"copilot":["0.0.0.0/0"]}`,
		"everything in two": `{"copilot":["2000::/3"]}`,
		"private":           `{"copilot":["10.0.0.0/8"]}`,
		"the tunnel":        `{"copilot":["100.64.0.0/10"]}`,
		"too many":          string(many),
		"too long":          `{"copilot":["203.0.113.0/24"],"x":"` + strings.Repeat("x", botMaxBytes) + `"}`,
	} {
		set("/meta", body)
		if err := b.refresh(t.Context(), "githubcopilot", sources["githubcopilot"]); err == nil {
			t.Errorf("%s is taken", name)
		}
		expect(map[string]string{"203.0.114.7": "githubcopilot"})
	}
	set("/page", "nothing")
	for name, src := range map[string]botSource{
		"a page without a link": sources["azurepubliccloud"],
		"not found":             {urls: []string{s.URL + "/none"}, read: readCopilot},
		"one of two":            {urls: []string{s.URL + "/gpt", s.URL + "/none"}, read: readPrefixes},
	} {
		if err := b.refresh(t.Context(), "openai", src); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for name, src := range botSources {
		for _, url := range src.urls {
			if !strings.HasPrefix(url, "https://") || !contains(*b.current.Load(), name) {
				t.Errorf("%s: %s", name, url)
			}
		}
	}
}

func BenchmarkBots(b *testing.B) {
	bots, err := NewBots(BotOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for _, addr := range []string{"20.171.206.1", "192.0.2.1"} {
		a := netip.MustParseAddr(addr)
		b.Run(fmt.Sprintf("in %q", bots.Network(a)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bots.Network(a)
			}
		})
	}
}
