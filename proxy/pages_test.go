package proxy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

func TestLanguagesHaveTheSameTexts(t *testing.T) {
	want := slices.Sorted(maps.Keys(languages[defaultLanguage]))
	holes := regexp.MustCompile(`\{[^}]*\}`)
	for lang, table := range languages {
		if got := slices.Sorted(maps.Keys(table)); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", lang, got, want)
		}
		for key, text := range table {
			other := languages[defaultLanguage][key]
			if (text.title == "") != (other.title == "") || (text.text == "") != (other.text == "") {
				t.Errorf("%s: %s is incomplete", lang, key)
			}
			got, wanted := holes.FindAllString(text.title+text.text, -1), holes.FindAllString(other.title+other.text, -1)
			slices.Sort(got)
			slices.Sort(wanted)
			if !slices.Equal(got, wanted) {
				t.Errorf("%s: %s names %v, want %v", lang, key, got, wanted)
			}
		}
	}
	for status := 400; status < 600; status++ {
		if _, ok := languages[defaultLanguage][keyOf(status)]; !ok {
			t.Errorf("%d has no text", status)
		}
	}
}

func TestNegotiate(t *testing.T) {
	const firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, tt := range []struct {
		name             string
		accept, language []string
		form             pageForm
		lang             string
	}{
		{"nothing", nil, nil, formHTML, "en"},
		{"a browser", []string{firefox}, []string{"de,en-US;q=0.7,en;q=0.3"}, formHTML, "de"},
		{"a program", []string{"application/json"}, nil, formJSON, "en"},
		{"curl", []string{"*/*"}, nil, formHTML, "en"},
		{"axios", []string{"application/json, text/plain, */*"}, nil, formJSON, "en"},
		{"problem details", []string{"application/problem+json"}, nil, formJSON, "en"},
		{"plain text", []string{"text/plain"}, nil, formText, "en"},
		{"any text", []string{"text/*"}, nil, formHTML, "en"},
		{"text rather than HTML", []string{"text/html;q=0.5, text/plain;q=0.9"}, nil, formText, "en"},
		{"JSON rather than anything", []string{"*/*;q=0.1, application/json;q=0.2"}, nil, formJSON, "en"},
		{"no HTML", []string{"text/html;q=0, */*"}, nil, formJSON, "en"},
		{"several lines", []string{"text/plain;q=0.2", "application/json"}, nil, formJSON, "en"},
		{"parameters", []string{`application/json; charset="utf-8" ; q=1.0`}, nil, formJSON, "en"},
		{"an image", []string{"image/avif,image/webp"}, nil, formText, "en"},
		{"nonsense", []string{";;q=,,/,q=1;*"}, nil, formText, "en"},
		{"a weight that is none", []string{"application/json;q=2, text/plain;q=0.1"}, nil, formText, "en"},
		{"upper case", []string{"Application/JSON"}, []string{"DE-AT"}, formJSON, "de"},
		{"another language", nil, []string{"fr, es;q=0.5"}, formHTML, "en"},
		{"another one first", nil, []string{"fr, de;q=0.5, en;q=0.4"}, formHTML, "de"},
		{"any", nil, []string{"*"}, formHTML, "en"},
		{"anything but English", nil, []string{"*, en;q=0.1"}, formHTML, "de"},
		{"both alike", nil, []string{"de, en"}, formHTML, "en"},
		{"one that begins alike", nil, []string{"den"}, formHTML, "en"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			form, lang := negotiate(headOf(t, tt.accept, tt.language))
			if form != tt.form || lang != tt.lang {
				t.Errorf("got %d %s, want %d %s", form, lang, tt.form, tt.lang)
			}
		})
	}
}

// headOf is a request head as fasthttp reads it.
func headOf(t testing.TB, accept, language []string) *fasthttp.RequestHeader {
	t.Helper()
	text := "GET / HTTP/1.1\r\nHost: app.test\r\n"
	for _, v := range accept {
		text += "Accept: " + v + "\r\n"
	}
	for _, v := range language {
		text += "accept-language: " + v + "\r\n"
	}
	h := new(fasthttp.RequestHeader)
	h.DisableNormalizing()
	if err := h.Read(newReader([]byte(text + "\r\n"))); err != nil {
		t.Skip(err)
	}
	return h
}

func FuzzNegotiate(f *testing.F) {
	f.Add("text/html;q=0.9,*/*;q=0.8", "de-DE,de;q=0.5")
	f.Fuzz(func(t *testing.T, accept, language string) {
		form, lang := negotiate(headOf(t, []string{accept}, []string{language}))
		if form >= pageForms || languages[lang] == nil {
			t.Errorf("%d %s", form, lang)
		}
	})
}

func TestPages(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := netip.MustParseAddrPort(gone.Addr().String())
	gone.Close()
	seen := map[string]Sighting{
		"away":   {Last: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)},
		"online": {Online: true, Last: time.Now()},
		"never":  {},
	}
	var now atomic.Value // which of them has the address
	tune := func(o *Options, _ *limits) {
		o.LastSeen = func(addr netip.Addr) (Sighting, bool) {
			at, ok := seen[now.Load().(string)]
			return at, ok && addr == dead.Addr()
		}
	}
	const behind = "192.168.2.228:5001" // is on no page
	tests := []struct {
		name, seen, peer, accept, language string
		want                               []string
		retry                              string
		behind                             string
	}{
		{"online", "online", "nas", "text/plain", "", []string{"app.test cannot be reached", "but nas does not answer"}, "", ""},
		{"not a peer", "", "nas", "text/plain", "", []string{"but nas does not answer"}, "", ""},
		{"no name", "away", "", "text/plain", "", []string{"the service behind it does not answer"}, "", ""},
		{"away", "away", "nas", "text/plain", "", []string{"nas is not connected", "last on 4 March 2026, 05:06 UTC"}, "30", ""},
		{"away, in German", "away", "nas", "text/plain", "de", []string{"nas ist nicht verbunden", "zuletzt am 04.03.2026, 05:06 UTC"}, "30", ""},
		{"never seen", "never", "nas", "text/plain", "", []string{"nas is not connected", "has not been connected"}, "30", ""},
		{"JSON", "away", "nas", "application/json", "de", []string{`"ok":false`, `"error":"nas ist nicht verbunden"`}, "30", ""},
		{"HTML", "away", "<b>&\"", "text/html", "de", []string{`<html lang="de">`, "<h1>&lt;b&gt;&amp;&#34; ist nicht verbunden</h1>", "Fehler 502 &middot; Anfrage "}, "30", ""},
		{"a gateway that is there", "online", "home", "text/plain", "", []string{"app.test cannot be reached", "behind the home gateway home, which does not answer"}, "30", behind},
		{"a gateway that nobody knows", "", "home", "text/plain", "de", []string{"app.test ist nicht erreichbar", "hinter dem Heim-Gateway home"}, "30", behind},
		{"a gateway that is away", "away", "home", "text/plain", "", []string{"home is not connected", "app.test is behind", "last on 4 March 2026, 05:06 UTC"}, "30", behind},
		{"a gateway that is away, in German", "away", "home", "application/json", "de", []string{`"error":"home ist nicht verbunden"`, "zuletzt am 04.03.2026, 05:06 UTC"}, "30", behind},
		{"a gateway that never came", "never", "home", "text/plain", "", []string{"home is not connected", "has not been connected to this server yet"}, "30", behind},
		{"a gateway, HTML", "away", "<b>&\"", "text/html", "en", []string{"<h1>&lt;b&gt;&amp;&#34; is not connected</h1>", "the home gateway &lt;b&gt;&amp;&#34;, which"}, "30", behind},
	}
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, Config{}, tune)
		c := via(r)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				now.Store(tt.seen)
				r.commit(Config{Routes: []Route{{ID: 1, Host: "app.test", Target: Target{Addr: dead, PeerName: tt.peer, Behind: tt.behind}}}})
				req, _ := http.NewRequest("GET", "https://app.test/echo-me?echo-me", nil)
				req.Header.Set("Accept", tt.accept)
				req.Header.Set("Accept-Language", tt.language)
				req.Header.Set("X-Request-ID", "echo-me")
				req.Header.Set("User-Agent", "echo-me")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body := readAll(t, resp)
				if resp.StatusCode != 502 || resp.Header.Get("Retry-After") != tt.retry {
					t.Errorf("%d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
				}
				id := resp.Header.Get("X-Request-Id")
				for _, want := range append(tt.want, id) {
					if want == "" || !strings.Contains(body, want) {
						t.Errorf("%q is not in %s", want, body)
					}
				}
				if strings.Contains(body, "192.168.") {
					t.Errorf("what is behind the gateway is told: %s", body)
				}
				if strings.Contains(body, "echo-me") {
					t.Errorf("the request is repeated: %s", body)
				}
				for name, want := range map[string]string{
					"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
					"Vary": "Accept, Accept-Language", "Content-Language": map[string]string{"de": "de"}[tt.language],
				} {
					if got := resp.Header.Get(name); want != "" && got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				if tt.accept == "text/html" {
					// The browser must find the style allowed, and nothing else to load or run.
					style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)[1]
					sum := sha256.Sum256([]byte(style))
					policy := resp.Header.Get("Content-Security-Policy")
					if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';") || strings.Contains(policy, "unsafe") {
						t.Errorf("policy %q", policy)
					}
				}
				if tt.accept == "application/json" {
					var v struct {
						OK                       bool
						Error, Detail, RequestID string
					}
					if err := json.Unmarshal([]byte(body), &v); err != nil || v.OK || v.Error == "" || v.Detail == "" {
						t.Errorf("%s, %v", body, err)
					}
				}
			})
		}
	})
}

// TestPagesOfThePort are those without a route.
func TestPagesOfThePort(t *testing.T) {
	r := newRig(t, site(netip.MustParseAddrPort("127.0.0.1:1")))
	for _, tt := range []struct{ name, request, want string }{
		{"nobody serves the name", "GET / HTTP/1.1\r\nHost: nobody.test\r\nAccept: text/plain\r\nAccept-Language: de\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 Not Found\r\n|Nicht gefunden\n|\nFehler 404, Anfrage "},
		{"a head that is too long", "GET / HTTP/1.1\r\nHost: app.test\r\nX: " + strings.Repeat("x", maxFieldBlock+maxRequestLine) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large\r\n|X-Request-ID: |no-store"},
		{"a target that is too long", "GET /" + strings.Repeat("x", maxRequestLine) + " HTTP/1.1\r\nHost: app.test\r\n\r\n", "HTTP/1.1 414 |X-Request-ID: "},
		{"a method that is refused", "TRACE / HTTP/1.1\r\nHost: app.test\r\n\r\n", "HTTP/1.1 405 |Allow: "},
		{"an expectation that nobody meets", "GET / HTTP/1.1\r\nHost: app.test\r\nExpect: wonders\r\n\r\n", "HTTP/1.1 417 |X-Request-ID: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := r.raw(tt.request)
			for want := range strings.SplitSeq(tt.want, "|") {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in %q", want, got)
				}
			}
		})
	}
}
