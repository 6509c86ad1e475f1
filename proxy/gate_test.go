package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"gatecontrol/model"
)

// Loopback has many addresses: those of tests are inside of the tunnel or not.
var (
	testTunnel = []netip.Prefix{netip.MustParsePrefix("127.8.0.0/24")}
	peerTwo    = "127.8.0.2"
	peerThree  = "127.8.0.3"
	stranger   = "127.0.0.1"
)

// gated is a Config of one route with options, whose backend is addr.
func gated(addr netip.AddrPort, o RouteOptions) Config {
	cfg := site(addr)
	cfg.Tunnel = testTunnel
	cfg.Routes[0].Options = &o
	return cfg
}

// clientFrom is an HTTP client whose connections come from a loopback address.
func (r *rig) clientFrom(from string) *http.Client {
	from, r.from = r.from, from
	defer func() { r.from = from }()
	return r.client()
}

// hashOf is a cheap bcrypt hash.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func TestGates(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "backend authorization=%q", r.Header.Values("Authorization"))
	})
	login := &model.BasicAuth{Enabled: true, User: "ada", Hash: hashOf(t, "correct horse")}
	white := func(rules ...model.IPRule) *model.IPFilter {
		return &model.IPFilter{Enabled: true, Mode: model.FilterWhitelist, Rules: rules}
	}
	black := func(rules ...model.IPRule) *model.IPFilter {
		return &model.IPFilter{Enabled: true, Mode: model.FilterBlacklist, Rules: rules}
	}
	ip := func(v string) model.IPRule { return model.IPRule{Type: model.RuleIP, Value: v} }
	reply := func(b model.BlockReply) RouteOptions { return RouteOptions{Internal: &b} }
	notFound := &model.BlockReply{Action: model.BlockNotFound}
	limited := &model.RateLimit{Enabled: true, Requests: 1, Window: time.Hour}
	tests := []struct {
		name    string
		options RouteOptions
		from    string
		fields  []string // name, value, ...
		status  int
		body    string   // part of it; "-" for none at all
		answer  []string // name, value, ...
	}{
		{name: "outside, not found", options: reply(model.BlockReply{Action: model.BlockNotFound}), from: stranger, status: 404, body: "-"},
		{name: "outside, custom", options: reply(model.BlockReply{Action: model.BlockCustom, Body: "<h1>members</h1>"}), from: stranger, status: 404,
			body: "<h1>members</h1>", answer: []string{"Content-Type", "text/html; charset=utf-8"}},
		{name: "outside, redirect", options: reply(model.BlockReply{Action: model.BlockRedirect, URL: "https://else.test/x?y=1"}), from: stranger, status: 302,
			body: "-", answer: []string{"Location", "https://else.test/x?y=1"}},
		{name: "outside, empty", options: reply(model.BlockReply{Action: model.BlockEmpty}), from: stranger, status: 200, body: "-"},
		{name: "inside", options: reply(model.BlockReply{Action: model.BlockNotFound}), from: peerTwo, status: 200, body: "backend"},
		{name: "a header makes nobody an insider", options: reply(model.BlockReply{Action: model.BlockNotFound}), from: stranger,
			fields: []string{"X-Forwarded-For", peerTwo, "X-Real-IP", peerTwo, "Forwarded", "for=" + peerTwo}, status: 404, body: "-"},

		{name: "peer of the list", options: RouteOptions{ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}}}, from: peerTwo, status: 200, body: "backend"},
		{name: "peer of no list", options: RouteOptions{ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}}}, from: peerThree, status: 403},
		{name: "a header makes nobody a peer", options: RouteOptions{ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}}}, from: peerThree,
			fields: []string{"X-Forwarded-For", peerTwo}, status: 403},
		{name: "a mapped address in the list", options: RouteOptions{ACL: &ACL{[]netip.Addr{netip.MustParseAddr("::ffff:" + peerTwo)}}}, from: peerTwo, status: 200},
		{name: "an empty list", options: RouteOptions{ACL: new(ACL)}, from: peerTwo, status: 403},

		{name: "breaker", options: RouteOptions{Breaker: &Breaker{RetryAfter: 30 * time.Second}}, from: stranger, status: 503, answer: []string{"Retry-After", "30"}},
		{name: "outsiders do not learn of the breaker", options: RouteOptions{Breaker: &Breaker{}, Internal: notFound}, from: stranger, status: 404, body: "-"},
		{name: "the breaker is before the login", options: RouteOptions{Breaker: &Breaker{RetryAfter: time.Millisecond}, BasicAuth: login}, from: stranger, status: 503, answer: []string{"Retry-After", "1"}},

		{name: "on the white list", options: RouteOptions{IPFilter: white(ip(stranger))}, from: stranger, status: 200},
		{name: "not on the white list", options: RouteOptions{IPFilter: white(ip(stranger))}, from: peerTwo, status: 403},
		{name: "an empty white list", options: RouteOptions{IPFilter: white()}, from: stranger, status: 403},
		{name: "on the black list", options: RouteOptions{IPFilter: black(ip(stranger))}, from: stranger, status: 403},
		{name: "not on the black list", options: RouteOptions{IPFilter: black(ip(stranger))}, from: peerTwo, status: 200},

		{name: "no credentials", options: RouteOptions{BasicAuth: login}, from: stranger, status: 401, answer: []string{"Www-Authenticate", `Basic realm="restricted"`}},
		{name: "right credentials are not passed on", options: RouteOptions{BasicAuth: login}, from: stranger,
			fields: []string{"Authorization", "Basic YWRhOmNvcnJlY3QgaG9yc2U="}, status: 200, body: "authorization=[]"},
		{name: "any spelling", options: RouteOptions{BasicAuth: login}, from: stranger,
			fields: []string{"aUTHORIZATION", "bASIC   YWRhOmNvcnJlY3QgaG9yc2U="}, status: 200, body: "authorization=[]"},
		{name: "wrong password", options: RouteOptions{BasicAuth: login}, from: stranger, fields: []string{"Authorization", "Basic YWRhOm5v"}, status: 401},
		{name: "wrong user", options: RouteOptions{BasicAuth: login}, from: stranger, fields: []string{"Authorization", "Basic Ym9iOmNvcnJlY3QgaG9yc2U="}, status: 401},
		{name: "not base64", options: RouteOptions{BasicAuth: login}, from: stranger, fields: []string{"Authorization", "Basic !!!"}, status: 401},
		{name: "another scheme", options: RouteOptions{BasicAuth: login}, from: stranger, fields: []string{"Authorization", "Bearer YWRhOmNvcnJlY3QgaG9yc2U="}, status: 401},
		{name: "too long", options: RouteOptions{BasicAuth: login}, from: stranger, fields: []string{"Authorization", "Basic " + strings.Repeat("A", maxCredentials+4)}, status: 401},
		{name: "credentials of others pass", options: RouteOptions{}, from: stranger, fields: []string{"Authorization", "Bearer x"}, status: 200, body: `authorization=["Bearer x"]`},
		{name: "filter before login", options: RouteOptions{BasicAuth: login, IPFilter: black(ip(stranger))}, from: stranger,
			fields: []string{"Authorization", "Basic YWRhOmNvcnJlY3QgaG9yc2U="}, status: 403},
		{name: "login after filter", options: RouteOptions{BasicAuth: login, IPFilter: white(ip(stranger))}, from: stranger, status: 401},
		{name: "who is not signed in is not counted", options: RouteOptions{BasicAuth: login, RateLimit: limited}, from: "127.0.0.9", status: 401},
		{name: "within the limit", options: RouteOptions{RateLimit: limited}, from: "127.0.0.9", status: 200},
		{name: "over the limit", options: RouteOptions{RateLimit: limited}, from: "127.0.0.9", status: 429, body: "-", answer: []string{"Retry-After", "the window"}},
		{name: "another address has a limit of its own", options: RouteOptions{RateLimit: limited}, from: "127.0.0.10", status: 200},
	}
	forEachProtocol(t, func(t *testing.T, via func(*rig) *http.Client) {
		r := newRig(t, Config{})
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				r.commit(gated(addr, tt.options))
				r.from = tt.from
				req, err := http.NewRequest("GET", "https://app.test/", nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(tt.fields); i += 2 {
					req.Header[tt.fields[i]] = []string{tt.fields[i+1]}
				}
				resp, err := via(r).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body := readAll(t, resp)
				if resp.StatusCode != tt.status || tt.body == "-" && body != "" || tt.body != "-" && !strings.Contains(body, tt.body) {
					t.Errorf("got %d %q, want %d with %q", resp.StatusCode, body, tt.status, tt.body)
				}
				for i := 0; i < len(tt.answer); i += 2 {
					got := resp.Header.Get(tt.answer[i])
					if tt.status == 429 {
						if n, err := strconv.Atoi(got); err != nil || n < 3590 || n > 3660 {
							t.Errorf("Retry-After %q", got)
						}
					} else if got != tt.answer[i+1] {
						t.Errorf("%s: %q, want %q", tt.answer[i], got, tt.answer[i+1])
					}
				}
				if !strings.Contains(body, "backend") {
					h := resp.Header
					if len(h.Get("X-Request-Id")) != 32 || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
						t.Errorf("fields of the answer: %v", h)
					}
				}
			})
		}
	})
}

// TestRefusalBeforeBody sends the head of an upload that is refused: no 100 comes
// before the final status, and nothing waits for the body.
func TestRefusalBeforeBody(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { t.Error("the backend was asked") })
	r := newRig(t, gated(addr, RouteOptions{ACL: new(ACL)}))
	for _, tt := range []struct{ name, fields string }{
		{"expecting", "Content-Length: 1000000\r\nExpect: 100-continue\r\n"},
		{"chunked", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"},
		{"not expecting", "Content-Length: 1000000\r\n"},
		{"upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial()
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: app.test\r\n%s\r\n", tt.fields)
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil || line != "HTTP/1.1 403 Forbidden\r\n" {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}

// TestGatesOfOpenUpgrades: who is let in no more leaves after the time of grace, and
// nobody else does.
func TestGatesOfOpenUpgrades(t *testing.T) {
	addr := rawBackend(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, br)
	})
	r := newRig(t, gated(addr, RouteOptions{}), func(_ *Options, l *limits) { l.grace = 20 * time.Millisecond })
	open := func(from string) (net.Conn, *bufio.Reader) {
		r.from = from
		c := r.dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		br := bufio.NewReader(c)
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(err)
		}
		return c, br
	}
	echo := func(c net.Conn, br *bufio.Reader) error {
		io.WriteString(c, "x")
		_, err := br.ReadByte()
		return err
	}
	two, fromTwo := open(peerTwo)
	_, fromThree := open(peerThree)
	r.commit(gated(addr, RouteOptions{Internal: &model.BlockReply{Action: model.BlockEmpty}, ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}}}))
	if _, err := fromThree.ReadByte(); err == nil {
		t.Error("who is not in the list is still connected")
	}
	if err := echo(two, fromTwo); err != nil {
		t.Errorf("who is in the list: %v", err)
	}
	r.commit(gated(addr, RouteOptions{IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: model.RuleIP, Value: peerTwo}}}}))
	if _, err := fromTwo.ReadByte(); err == nil {
		t.Error("who is on the black list is still connected")
	}
	r.commit(gated(addr, RouteOptions{}))
	_, late := open(peerTwo)
	r.commit(gated(addr, RouteOptions{Closed: &Closed{}}))
	if _, err := late.ReadByte(); err == nil {
		t.Error("who was there when the route closed is still connected")
	}
}

// TestBadGateOptions: what cannot be evaluated is not served at all.
func TestBadGateOptions(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:1")
	r := newRig(t, Config{})
	rule := func(kind, value string) RouteOptions {
		return RouteOptions{IPFilter: &model.IPFilter{Mode: model.FilterWhitelist, Rules: []model.IPRule{{Type: kind, Value: value}}}}
	}
	for _, tt := range []struct {
		name, field string
		options     RouteOptions
	}{
		{"inherited answer", "external_block_action", RouteOptions{Internal: &model.BlockReply{Action: model.BlockInherit}}},
		{"relative redirect", "external_block_redirect_url", RouteOptions{Internal: &model.BlockReply{Action: model.BlockRedirect, URL: "/x"}}},
		{"redirect that splits", "external_block_redirect_url", RouteOptions{Internal: &model.BlockReply{Action: model.BlockRedirect, URL: "https://x.test/\r\nA: b"}}},
		{"script redirect", "external_block_redirect_url", RouteOptions{Internal: &model.BlockReply{Action: model.BlockRedirect, URL: "javascript:alert(1)"}}},
		{"no address", "acl_peers[0]", RouteOptions{ACL: &ACL{make([]netip.Addr, 1)}}},
		{"no ip", "ip_filter_rules[0]", rule(model.RuleIP, "10.0.0.256")},
		{"ip with zone", "ip_filter_rules[0]", rule(model.RuleIP, "fe80::1%eth0")},
		{"no cidr", "ip_filter_rules[0]", rule(model.RuleCIDR, "10.0.0.0/33")},
		{"no country", "ip_filter_rules[0]", rule(model.RuleCountry, "Germany")},
		{"no type", "ip_filter_rules[0]", rule("asn", "1")},
		{"no mode", "ip_filter_mode", RouteOptions{IPFilter: &model.IPFilter{Mode: "grey"}}},
		{"too many rules", "ip_filter_rules", RouteOptions{IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: make([]model.IPRule, maxIPRules+1)}}},
		{"no user", "basic_auth_user", RouteOptions{BasicAuth: &model.BasicAuth{Hash: hashOf(t, "x")}}},
		{"no hash", "basic_auth_password", RouteOptions{BasicAuth: &model.BasicAuth{User: "a"}}},
		{"a hash that takes hours", "basic_auth_password", RouteOptions{BasicAuth: &model.BasicAuth{User: "a", Hash: strings.Replace(hashOf(t, "x"), "$04$", "$31$", 1)}}},
		{"no requests", "rate_limit_requests", RouteOptions{RateLimit: &model.RateLimit{Window: time.Minute}}},
		{"no window", "rate_limit_window", RouteOptions{RateLimit: &model.RateLimit{Requests: 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.srv.Prepare(gated(addr, tt.options))
			if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindInvalid || e.Field != tt.field {
				t.Errorf("got %v, want one that names %q", err, tt.field)
			}
		})
	}
}

func TestLoginIsRemembered(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "in") })
	r := newRig(t, Config{})
	try := func(from, user, password string) int {
		req, _ := http.NewRequest("GET", "http://app.test/", nil)
		req.SetBasicAuth(user, password)
		resp, err := r.clientFrom(from).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		return resp.StatusCode
	}
	with := func(user, password string) {
		r.commit(gated(addr, RouteOptions{BasicAuth: &model.BasicAuth{User: user, Hash: hashOf(t, password)}}))
	}
	with("ada", "first one")
	if got := try(stranger, "ada", "first one"); got != 200 {
		t.Fatal(got)
	}
	if n := len(r.srv.logins.known); n != 1 {
		t.Errorf("%d logins are remembered", n)
	}
	for range maxLoginFailures {
		if got := try(stranger, "ada", "wrong"); got != 401 {
			t.Fatalf("wrong password: %d", got)
		}
	}
	if got := try(stranger, "ada", "wrong"); got != 429 {
		t.Errorf("one failure too many: %d", got)
	}
	if got := try(stranger, "ada", "first one"); got != 200 {
		t.Errorf("who is known is not throttled by others at the same address: %d", got)
	}
	if got := try("127.0.0.44", "ada", "wrong"); got != 401 {
		t.Errorf("another address: %d", got)
	}
	with("ada", "second one")
	if got := try("127.0.0.45", "ada", "first one"); got != 401 {
		t.Errorf("the password of yesterday: %d", got)
	}
	with("bob", "first one")
	if got := try("127.0.0.46", "ada", "first one"); got != 401 {
		t.Errorf("the user of yesterday: %d", got)
	}
	if got := try("127.0.0.46", "bob", "first one"); got != 200 {
		t.Errorf("the user of today: %d", got)
	}
}

// TestHashingIsBounded has every core and every place in the queue taken.
func TestHashingIsBounded(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, gated(addr, RouteOptions{BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")}}))
	l := r.srv.logins
	for range cap(l.cores) {
		l.cores <- struct{}{}
	}
	try := func(from string) (status int, again string) {
		req, _ := http.NewRequest("GET", "http://app.test/", nil)
		req.SetBasicAuth("ada", "right")
		resp, err := r.clientFrom(from).Do(req)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	var mu sync.Mutex
	count := map[int]int{}
	var waiting sync.WaitGroup
	for i := range hashQueue + 20 { // the same credentials of one address wait together
		from := fmt.Sprintf("127.0.1.%d", min(i+1, hashQueue))
		c := r.clientFrom(from)
		waiting.Go(func() {
			req, _ := http.NewRequest("GET", "http://app.test/", nil)
			req.SetBasicAuth("ada", "right")
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			mu.Lock()
			count[resp.StatusCode]++
			mu.Unlock()
		})
	}
	eventually(t, "the queue is full", func() bool { return l.waiting.Load() == hashQueue })
	if status, again := try("127.0.0.7"); status != 503 || again != "2" {
		t.Errorf("with a full queue: %d, Retry-After %q", status, again)
	}
	for range cap(l.cores) {
		<-l.cores
	}
	waiting.Wait()
	if count[200] != hashQueue+20 {
		t.Errorf("answers: %v", count)
	}
}
