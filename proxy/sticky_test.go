package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func stickySite(addrs ...netip.AddrPort) Config {
	weights := make([]int, len(addrs))
	for i := range weights {
		weights[i] = 1
	}
	cfg := several(weights, addrs...)
	cfg.Routes[0].Options.Sticky = &model.Sticky{Enabled: true, Cookie: "gc_sticky", TTL: time.Hour}
	return cfg
}

func withKey(o *Options, _ *limits) { o.StickyKey = []byte("a key of the test, 32 bytes long") }

// visit makes a request with a Cookie field, and returns what came of it.
func stickyVisit(t testing.TB, c *http.Client, url, cookie string) (body string, set []*http.Cookie) {
	t.Helper()
	req, _ := http.NewRequest("GET", url, nil)
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, resp), resp.Cookies()
}

func TestSticky(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		var sw switchboard
		r := newRig(t, stickySite(a, b, c), withKey, func(o *Options, l *limits) {
			o.Dial = sw.dial
			l.rest = time.Hour
		})
		cl := via(r)
		first, set := stickyVisit(t, cl, "https://app.test/x/y", "")
		if len(set) != 1 {
			t.Fatalf("cookies %v", set)
		}
		got := *set[0]
		value := got.Value
		if len(value) != 32 || strings.Contains(got.Raw, "127.0.0.1") {
			t.Errorf("value %q", value)
		}
		if want := "gc_sticky=" + value + "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=None"; got.Raw != want {
			t.Errorf("%s, want %s", got.Raw, want)
		}
		seen := map[string]bool{}
		for range 60 {
			if body, set := stickyVisit(t, cl, "https://app.test/", "gc_sticky="+value); body != first || len(set) != 0 {
				t.Fatalf("%q %v, want %q and no cookie", body, set, first)
			}
			body, _ := stickyVisit(t, cl, "https://app.test/", "")
			seen[body] = true
		}
		if len(seen) != 3 {
			t.Errorf("new clients all go to %v", seen)
		}
		// Among others, and as what it is not.
		if body, set := stickyVisit(t, cl, "https://app.test/", "x=1; gc_sticky="+value+"; y=2"); body != first+" x=1; y=2" || len(set) != 0 {
			t.Errorf("%q %v", body, set)
		}
		for _, bad := range []string{"", "x", strings.Repeat("0", 32), value[:31], strings.Repeat("z", 4000)} {
			if _, set := stickyVisit(t, cl, "https://app.test/", "gc_sticky="+bad); len(set) != 1 || len(set[0].Value) != 32 {
				t.Errorf("%.40q: %v", bad, set)
			}
		}
		// Its backend goes away.
		pool := &r.srv.snapshot.Load().routes[1].balance.members[strings.Index("abc", first)].pool
		(*pool).rest.Store(int64(time.Hour))
		body, set := stickyVisit(t, cl, "https://app.test/", "gc_sticky="+value)
		if body == first || len(set) != 1 || set[0].Value == value {
			t.Errorf("%q %v", body, set)
		}
	})
}

func TestStickyPlain(t *testing.T) {
	r := newRig(t, stickySite(named(t, "a")), withKey)
	_, set := stickyVisit(t, r.client(), "http://app.test/", "")
	if len(set) != 1 || !strings.HasSuffix(set[0].Raw, "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax") {
		t.Errorf("%v", set)
	}
}

// TestStickyRestart has another Server with the same key, and one with its own.
func TestStickyRestart(t *testing.T) {
	cfg := stickySite(named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d"))
	first, set := stickyVisit(t, newRig(t, cfg, withKey).client(), "https://app.test/", "")
	for range 8 {
		body, again := stickyVisit(t, newRig(t, cfg, withKey).client(), "https://app.test/", "gc_sticky="+set[0].Value)
		if body != first || len(again) != 0 {
			t.Errorf("%q %v, want %q", body, again, first)
		}
	}
	if _, again := stickyVisit(t, newRig(t, cfg).client(), "https://app.test/", "gc_sticky="+set[0].Value); len(again) != 1 {
		t.Error("a cookie of another key is taken")
	}
	cfg.Routes[0].ID = 2
	if _, again := stickyVisit(t, newRig(t, cfg, withKey).client(), "https://app.test/", "gc_sticky="+set[0].Value); len(again) != 1 {
		t.Error("a cookie of another route is taken")
	}
}

// TestStickyOfBackend has a backend that sets the cookie itself.
func TestStickyOfBackend(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "gc_sticky=mine; Path=/")
		w.Header().Add("Set-Cookie", "other=1")
	})
	r := newRig(t, stickySite(addr), withKey)
	_, set := stickyVisit(t, r.client(), "https://app.test/", "")
	if len(set) != 2 || set[0].Name != "other" || set[1].Name != "gc_sticky" || set[1].Value == "mine" {
		t.Errorf("%v", set)
	}
}

// TestStickyUpgrade has WebSockets come back to where they were.
func TestStickyUpgrade(t *testing.T) {
	upgrading := func(name string) netip.AddrPort {
		return rawUpgrade(t, switching+name+"\n", func(c net.Conn, br *bufio.Reader) { _, _ = br.ReadByte() })
	}
	r := newRig(t, stickySite(upgrading("a"), upgrading("b"), upgrading("c")), withKey)
	open := func(cookie string) (name string, set []*http.Cookie) {
		c := r.dial()
		defer c.Close()
		br := bufio.NewReader(c)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\nCookie: "+cookie+"\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		name, _ = br.ReadString('\n')
		return name, resp.Cookies()
	}
	first, set := open("x=1")
	if len(set) != 1 {
		t.Fatal(set)
	}
	for range 10 {
		if name, again := open("gc_sticky=" + set[0].Value); name != first || len(again) != 0 {
			t.Errorf("%q %v, want %q", name, again, first)
		}
	}
}

// FuzzCookie compares what is read of a Cookie field with what goes to the backend:
// a cookie that was read does not go on.
func FuzzCookie(f *testing.F) {
	f.Add("a=1; gc_sticky=x; b=2")
	f.Add("gc_sticky=x;gc_sticky = y;=z;;gc_sticky")
	f.Fuzz(func(t *testing.T, value string) {
		if !isClean([]byte(value)) {
			return
		}
		q := request{fields: []field{{[]byte("Cookie"), trimSpace([]byte(value)), cookieField}}}
		_ = q.cookie("gc_sticky")
		on := appendCookies(nil, &q.fields[0], "gc_sticky")
		rest := request{fields: []field{{[]byte("Cookie"), trimSpace(bytes.TrimPrefix(bytes.TrimSuffix(on, []byte("\r\n")), []byte("Cookie:"))), cookieField}}}
		if got := rest.cookie("gc_sticky"); got != nil {
			t.Errorf("%q goes on in %q", got, on)
		}
	})
}
