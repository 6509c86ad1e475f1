package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

// TestExplain compares what is explained with what happens to the same request.
func TestExplain(t *testing.T) {
	addr := echoHead(t, "")
	login := &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")}
	ca := newTestCA(t, "one")
	expired := ca.client("old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	forServers := ca.client("server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	middleKey := ca.client("middle", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	middle, err := x509.ParseCertificate(middleKey.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	below := (&testCA{t: t, cert: middle, key: middleKey.PrivateKey.(*ecdsa.PrivateKey)}).client("below")
	alone := *below
	below.Certificate = append(below.Certificate, middle.Raw)
	bots, err := NewBots(BotOptions{Ranges: "127.0.9.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Tunnel: testTunnel, Routes: []Route{
		{ID: 1, Host: "plain.test", Target: Target{Addr: addr, PeerName: "nas"}},
		{ID: 2, Host: "forced.test", ForceHTTPS: true, Target: Target{Addr: addr}},
		{ID: 3, Host: "gated.test", Target: Target{Addr: addr}, Options: &RouteOptions{
			Internal: &model.BlockReply{Action: model.BlockNotFound}, ACL: &ACL{[]netip.Addr{netip.MustParseAddr(peerTwo)}}, BasicAuth: login, Trace: true,
			IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: model.RuleIP, Value: "192.0.2.1"}}},
		}},
		{ID: 4, Host: "limited.test", Target: Target{Addr: addr}, Options: &RouteOptions{RateLimit: &model.RateLimit{Requests: 2, Window: time.Hour}}},
		{ID: 5, Host: "bots.test", Target: Target{Addr: addr}, Options: &RouteOptions{Bots: &model.BotBlocker{Mode: model.BotBlock}}},
		{ID: 6, Host: "open.test", Target: Target{Addr: addr}, Options: &RouteOptions{Breaker: &Breaker{RetryAfter: time.Second}}},
		{ID: 7, Host: "paths.test", Target: Target{Addr: addr}, Options: &RouteOptions{
			Headers: &model.Headers{Request: []model.HeaderField{{Name: "X-Added", Value: "yes"}}},
			Paths:   []Path{{Prefix: "/old", Redirect: "/new", Status: 301}, {Prefix: "/app", Strip: true, Target: &Target{Addr: addr, PeerName: "other"}}},
		}},
		{ID: 8, Host: "mutual.test", Target: Target{Addr: addr}, Options: &RouteOptions{ClientCA: ca.pem}},
		{ID: 9, Host: "dropped.test", Target: Target{Addr: addr}, Options: &RouteOptions{Bots: &model.BotBlocker{Mode: model.BotDrop}}},
		{ID: 10, Host: "login.test", Target: Target{Addr: addr}, Options: &RouteOptions{BasicAuth: login}},
		{ID: 11, Host: "uncertified.test", Target: Target{Addr: addr}},
		{ID: 12, Host: "behind.test", Target: Target{Addr: addr, PeerName: "home", Behind: "192.168.2.228:5001"}, Options: &RouteOptions{
			Paths: []Path{{Prefix: "/app", Target: &Target{Addr: addr}}},
		}},
		{ID: 13, Host: "filtered.test", Target: Target{Addr: addr}, Options: &RouteOptions{
			IPFilter: &model.IPFilter{Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: model.RuleCIDR, Value: "127.0.8.0/24"}}},
		}},
		{ID: 14, Host: "closed.test", Target: Target{Addr: addr}, Options: &RouteOptions{Closed: &Closed{}}},
	}}
	r := newRig(t, cfg, func(o *Options, _ *limits) {
		o.Bots = bots
		o.Certificate = func(name string) (*tls.Certificate, error) {
			if name == "uncertified.test" {
				return nil, io.EOF
			}
			return testAuthority().Certificate(name)
		}
		o.Challenge = func(host, token string) (string, bool) { return "answer", host == "gated.test" && token == "token" }
	})
	outcomes := map[string]bool{} // of steps, as far as they were met by real requests, too
	for _, tt := range []struct {
		name, url, from, method string
		fields                  []model.HeaderField
		cert                    *tls.Certificate
		route                   model.RouteID
		refused                 string
		status                  int    // 0: forwarded
		steps                   string // name+ or name-, of the gates
	}{
		{name: "forwarded", url: "http://plain.test/a%2Fb?c=%zz", route: 1},
		{name: "forwarded over TLS", url: "https://Plain.Test/", route: 1},
		{name: "with fields", url: "https://plain.test/", route: 1, method: "DELETE", fields: []model.HeaderField{
			{Name: "X-Forwarded-For", Value: "6.6.6.6"}, {Name: "Connection", Value: "x-hop"}, {Name: "X-Hop", Value: "1"}, {Name: "Cookie", Value: "gc.sid=secret; a=b"}}},
		{name: "nobody", url: "http://nobody.test/", refused: "match", status: 404},
		{name: "another name", url: "https://plain.test/", refused: "match", status: 421, fields: []model.HeaderField{{Name: "Host", Value: "gated.test"}}},
		{name: "a bad target", url: `http://plain.test/a\b`, refused: "head", status: 400},
		{name: "a bad method", url: "http://plain.test/", method: "TRACE", refused: "head", status: 405},
		{name: "two hosts", url: "http://plain.test/", refused: "head", status: 400, fields: []model.HeaderField{{Name: "Host", Value: "a.test"}, {Name: "Host", Value: "b.test"}}},
		{name: "forced", url: "http://forced.test/x", route: 2, refused: "force_https", status: 308, steps: "force_https-"},
		{name: "not forced", url: "https://forced.test/x", route: 2, steps: "force_https+"},
		{name: "outside", url: "https://gated.test/", route: 3, refused: "external", status: 404, steps: "external- peer_acl- trace+ ip_filter+ basic_auth-"},
		{name: "not listed", url: "https://gated.test/", from: peerThree, route: 3, refused: "peer_acl", status: 403, steps: "external+ peer_acl- trace+ ip_filter+ basic_auth-"},
		{name: "not signed in", url: "https://gated.test/", from: peerTwo, route: 3, refused: "basic_auth", status: 401, steps: "external+ peer_acl+ trace+ ip_filter+ basic_auth-"},
		{name: "signed in", url: "https://gated.test/", from: peerTwo, route: 3, fields: []model.HeaderField{{Name: "Authorization", Value: "Basic YWRhOnJpZ2h0"}},
			steps: "external+ peer_acl+ trace+ ip_filter+ basic_auth+"},
		{name: "within the limit", url: "https://limited.test/", route: 4, steps: "rate_limit+"},
		{name: "within it still", url: "https://limited.test/", route: 4, steps: "rate_limit+"},
		{name: "over the limit", url: "https://limited.test/", route: 4, refused: "rate_limit", status: 429, steps: "rate_limit-"},
		{name: "a bot", url: "https://bots.test/", from: "127.0.9.9", route: 5, refused: "bot_blocker", status: 403, steps: "bot_blocker-"},
		{name: "no bot", url: "https://bots.test/", route: 5, steps: "bot_blocker+"},
		{name: "breaker", url: "https://open.test/", route: 6, refused: "circuit_breaker", status: 503, steps: "circuit_breaker-"},
		{name: "closed", url: "https://closed.test/", route: 14, refused: "access_window", status: 403, steps: "access_window-"},
		{name: "a path that redirects", url: "https://paths.test/old/x?y", route: 7, refused: "path", status: 301, steps: "path-"},
		{name: "a path that leads elsewhere", url: "https://paths.test/app/x?y", route: 7, steps: "path+"},
		{name: "a challenge", url: "http://gated.test/.well-known/acme-challenge/token", refused: "acme_challenge", status: 200},
		{name: "no challenge", url: "http://gated.test/.well-known/acme-challenge/other", route: 3, refused: "external", status: 404, steps: "external- peer_acl- trace+ ip_filter+ basic_auth-"},
		{name: "filtered", url: "https://filtered.test/", from: "127.0.8.8", route: 13, refused: "ip_filter", status: 403, steps: "ip_filter-"},
		{name: "not filtered", url: "https://filtered.test/", route: 13, steps: "ip_filter+"},
		{name: "wrong password", url: "https://login.test/", route: 10, refused: "basic_auth", status: 401, steps: "basic_auth-",
			fields: []model.HeaderField{{Name: "Authorization", Value: "Basic YWRhOndyb25n"}}},
		{name: "a bot that is dropped", url: "https://dropped.test/", from: "127.0.9.9", route: 9, refused: "bot_blocker", status: 444, steps: "bot_blocker-"},
		{name: "nobody over TLS", url: "https://nobody.test/", refused: "tls_handshake", status: 444},
		{name: "no certificate for it", url: "https://uncertified.test/", route: 11, refused: "tls_handshake", status: 444},
		{name: "client certificate", url: "https://mutual.test/", route: 8, cert: ca.client("ann"), steps: "force_https+ client_certificate+"},
		{name: "through another authority", url: "https://mutual.test/", route: 8, cert: below, steps: "force_https+ client_certificate+"},
		{name: "without that other authority", url: "https://mutual.test/", route: 8, cert: &alone, refused: "tls_handshake", status: 444, steps: "force_https+ client_certificate-"},
		{name: "no client certificate", url: "https://mutual.test/", route: 8, refused: "tls_handshake", status: 444, steps: "force_https+ client_certificate-"},
		{name: "of a stranger", url: "https://mutual.test/", route: 8, cert: newTestCA(t, "one").client("eve"), refused: "tls_handshake", status: 444, steps: "force_https+ client_certificate-"},
		{name: "expired", url: "https://mutual.test/", route: 8, cert: expired, refused: "tls_handshake", status: 444, steps: "force_https+ client_certificate-"},
		{name: "for servers", url: "https://mutual.test/", route: 8, cert: forServers, refused: "tls_handshake", status: 444, steps: "force_https+ client_certificate-"},
		{name: "on the plain port", url: "http://mutual.test/", route: 8, cert: ca.client("ann"), refused: "force_https", status: 308, steps: "force_https- client_certificate-"},
		{name: "certificate that nobody asks for", url: "https://plain.test/", route: 1, cert: ca.client("ann")},
		{name: "through a home gateway", url: "https://behind.test/", route: 12, steps: "gateway+", fields: []model.HeaderField{{Name: "X-Gateway-Target", Value: "10.0.0.1:22"}}},
		{name: "past a home gateway", url: "https://behind.test/app", route: 12, steps: "path+"},
		{name: "a path that is none", url: "https://paths.test/application", route: 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := tt.from
			if from == "" {
				from = stranger
			}
			ask := model.ExplainRequest{URL: tt.url, Method: tt.method, Address: netip.MustParseAddr(from), Headers: tt.fields}
			if tt.cert != nil {
				for _, der := range tt.cert.Certificate {
					ask.ClientCertificate += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
				}
			}
			counts, traced := r.srv.BotCounts()[tt.route], len(r.srv.Trace(tt.route, 100, time.Time{}).Entries)
			var got *model.Explanation
			for range 3 { // nothing is used up by asking
				var err error
				if got, err = r.srv.Explain(ask); err != nil {
					t.Fatal(err)
				}
			}
			if r.srv.BotCounts()[tt.route] != counts || len(r.srv.Trace(tt.route, 100, time.Time{}).Entries) != traced || len(r.srv.logins.known) > 1 {
				t.Error("asking was counted")
			}
			var steps []string
			for _, st := range got.Steps {
				if st.Reason == "" || st.Passes == (st.Status != 0) {
					t.Errorf("step %+v", st)
				}
				outcome := st.Name + map[bool]string{true: "+", false: "-"}[st.Passes]
				if tt.refused == "" || st.Name == tt.refused {
					outcomes[outcome] = true
				}
				if !slices.Contains([]string{"tls_handshake", "head", "acme_challenge", "match"}, st.Name) {
					steps = append(steps, outcome)
				}
			}
			if got.Refused != tt.refused || got.Status != tt.status || got.Route != tt.route && tt.refused == "" || strings.Join(steps, " ") != tt.steps {
				t.Errorf("%+v, steps %v; want refused by %q, %d, %q", got, steps, tt.refused, tt.status, tt.steps)
			}
			// What happens to it.
			r.from = from
			scheme, rest, _ := strings.Cut(tt.url, "://")
			host, target, _ := strings.Cut(rest, "/")
			method := tt.method
			if method == "" {
				method = "GET"
			}
			text := fmt.Sprintf("%s /%s HTTP/1.1\r\n", method, target)
			if !slices.ContainsFunc(tt.fields, func(f model.HeaderField) bool { return f.Name == "Host" }) {
				text += "Host: " + host + "\r\n"
			}
			for _, f := range tt.fields {
				text += f.Name + ": " + f.Value + "\r\n"
			}
			conn := io.ReadWriter(nil)
			if conn = r.dial(); scheme == "https" {
				trust := r.trust()
				trust.ServerName = strings.ToLower(host)
				trust.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if tt.cert == nil {
						return new(tls.Certificate), nil
					}
					return tt.cert, nil
				}
				c, err := r.dialer().Dial("tcp", r.tls)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				conn = tls.Client(c, trust)
			}
			var resp *http.Response
			if _, err = io.WriteString(conn, text+"\r\n"); err == nil {
				resp, err = http.ReadResponse(bufio.NewReader(conn), nil)
			}
			if tt.status == model.StatusDropped {
				if err == nil {
					t.Errorf("explained as no answer, answered with %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			head := readAll(t, resp)
			if tt.status != 0 {
				if resp.StatusCode != tt.status {
					t.Errorf("explained as %d, answered with %d", tt.status, resp.StatusCode)
				}
				return
			}
			if resp.StatusCode != 200 || got.Head != head+"\r\n" {
				t.Errorf("%d, the backend got\n%s\nexplained as\n%s", resp.StatusCode, head, got.Head)
			}
			if len(got.Targets) != 1 || got.Targets[0].Addr != addr {
				t.Errorf("targets %+v", got.Targets)
			}
		})
	}
	ask := model.ExplainRequest{URL: "https://behind.test/", Address: netip.MustParseAddr(stranger)}
	for want, seen := range map[string]Sighting{"home leads on to 192.168.2.228:5001": {Online: true}, "home leads on to 192.168.2.228:5001; it is not connected": {}} {
		r.srv.opts.LastSeen = func(netip.Addr) (Sighting, bool) { return seen, true }
		if e, err := r.srv.Explain(ask); err != nil || !strings.HasSuffix(e.Steps[len(e.Steps)-1].Reason, want) {
			t.Errorf("%+v, %v, want %s", e, err, want)
		}
	}
	if e, err := r.srv.Explain(model.ExplainRequest{URL: "https://mutual.test/", Address: netip.MustParseAddr(stranger), HasCertificate: true}); err != nil || e.Refused != "" {
		t.Errorf("with a certificate that is not given: %+v, %v", e, err)
	}
	all := []string{"tls_handshake", "head", "match", "path", "gateway"}
	for _, step := range pipeline {
		all = append(all, step.name)
	}
	never := []string{
		"trace-", "gateway-", // refuse nobody
		"circuit_breaker+",    // there is none while it is closed
		"access_window+",      // nor such a gate while the route is open
		"client_certificate-", // a new connection is refused before; an old one: TestClientCertificatesOfEveryVersion
	}
	for _, name := range all {
		for _, outcome := range []string{name + "+", name + "-"} {
			if outcomes[outcome] == slices.Contains(never, outcome) {
				t.Errorf("%s: compared %v", outcome, outcomes[outcome])
			}
		}
	}
}

// TestExplainPasswords: as many passwords can be tried by explaining as one address
// may try, whatever address they are explained for, and no client is locked out by it.
func TestExplainPasswords(t *testing.T) {
	addr := echoHead(t, "")
	r := newRig(t, gated(addr, RouteOptions{BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")}}))
	explain := func(i int, pair string) (*model.Explanation, error) {
		return r.srv.Explain(model.ExplainRequest{
			URL: "https://app.test/", Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			Headers: []model.HeaderField{{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))}},
		})
	}
	for i := range 3 * maxLoginFailures {
		if e, err := explain(i, "ada:right"); err != nil || e.Refused != "" {
			t.Fatalf("the right one: %+v, %v", e, err)
		}
	}
	for i := range maxLoginFailures {
		if e, err := explain(i, "ada:wrong"); err != nil || e.Status != 401 {
			t.Fatalf("the wrong one: %+v, %v", e, err)
		}
	}
	for _, pair := range []string{"ada:wrong", "ada:right"} {
		if e, err := explain(0, pair); model.KindOf(err) != model.KindLimited {
			t.Errorf("%s, one too many: %+v, %v", pair, e, err)
		}
	}
	for i := range 2 {
		req, _ := http.NewRequest("GET", "http://app.test/", nil)
		req.SetBasicAuth("ada", "right")
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 200 {
			t.Errorf("a client, request %d: %d", i, resp.StatusCode)
		}
	}
}

// TestExplainLockedOut: what wrong passwords of a client have used up shows.
func TestExplainLockedOut(t *testing.T) {
	r := newRig(t, gated(echoHead(t, ""), RouteOptions{BasicAuth: &model.BasicAuth{User: "ada", Hash: hashOf(t, "right")}}))
	status := 0
	for i := 0; i <= maxLoginFailures; i++ {
		req, _ := http.NewRequest("GET", "http://app.test/", nil)
		req.SetBasicAuth("ada", fmt.Sprint("wrong", i))
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		status = resp.StatusCode
	}
	e, err := r.srv.Explain(model.ExplainRequest{
		URL: "http://app.test/", Address: netip.MustParseAddr(stranger), Headers: []model.HeaderField{{Name: "Authorization", Value: "Basic YWRhOnJpZ2h0"}},
	})
	if err != nil || status != 429 || e.Refused != "basic_auth" || e.Status != status {
		t.Errorf("answered with %d, explained as %+v, %v", status, e, err)
	}
}

func TestExplainBadInput(t *testing.T) {
	r := newRig(t, Config{})
	good := model.ExplainRequest{URL: "http://a.test/", Address: netip.MustParseAddr("192.0.2.1")}
	ca := newTestCA(t, "one")
	slow := new(big.Int).SetBit(big.NewInt(1), 16384, 1)
	long, err := x509.CreateCertificate(rand.Reader, ca.cert, ca.cert, &rsa.PublicKey{N: slow, E: 65537}, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		field  string
		change func(*model.ExplainRequest)
	}{
		{"url", func(q *model.ExplainRequest) { q.URL = "" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "/x" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "ftp://a.test/" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "http://user@a.test/" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "http:///" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "http://a.test/x y" }},
		{"url", func(q *model.ExplainRequest) { q.URL = "http://a.test/\r\nX: y" }},
		{"address", func(q *model.ExplainRequest) { q.Address = netip.Addr{} }},
		{"method", func(q *model.ExplainRequest) { q.Method = "GET /" }},
		{"client_certificate", func(q *model.ExplainRequest) { q.ClientCertificate = "garbage" }},
		{"client_certificate", func(q *model.ExplainRequest) {
			q.ClientCertificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
		}},
		{"client_certificate", func(q *model.ExplainRequest) {
			q.ClientCertificate = strings.Repeat(ca.pem, maxExplainedChain+1)
		}},
		{"client_certificate", func(q *model.ExplainRequest) {
			q.ClientCertificate = ca.pem + strings.Repeat(" ", model.MaxCertificateSize)
		}},
		{"client_certificate", func(q *model.ExplainRequest) { // checking what it signed would take minutes if it were longer still
			q.ClientCertificate = ca.pem + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: long}))
		}},
		{"headers[0].name", func(q *model.ExplainRequest) { q.Headers = []model.HeaderField{{Name: "a b"}} }},
		{"headers[1].value", func(q *model.ExplainRequest) {
			q.Headers = []model.HeaderField{{Name: "a", Value: "b"}, {Name: "a", Value: "b\r\nc: d"}}
		}},
	} {
		q := good
		tt.change(&q)
		if _, err := r.srv.Explain(q); err == nil || !strings.HasPrefix(err.Error(), tt.field+": ") {
			t.Errorf("%+v: %v, want one that names %s", q, err, tt.field)
		}
	}
	if _, err := r.srv.Explain(good); err != nil {
		t.Error(err)
	}
}

func FuzzExplain(f *testing.F) {
	s, err := New(Options{
		Log: slog.New(slog.DiscardHandler), Certificate: testAuthority().Certificate,
		Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, io.EOF },
	})
	if err != nil {
		f.Fatal(err)
	}
	p, err := s.Prepare(gated(netip.MustParseAddrPort("127.0.0.1:1"), RouteOptions{ACL: new(ACL), IPFilter: &model.IPFilter{Mode: model.FilterWhitelist}}))
	if err != nil {
		f.Fatal(err)
	}
	p.Commit()
	f.Add("http://app.test/x?y#z", "GET", "Accept", "text/html")
	f.Add("https://app.test", "POST", "Transfer-Encoding", "chunked")
	f.Fuzz(func(t *testing.T, url, method, name, value string) {
		e, err := s.Explain(model.ExplainRequest{URL: url, Method: method, Address: netip.MustParseAddr("192.0.2.1"), Headers: []model.HeaderField{{Name: name, Value: value}}})
		if err == nil && (e.Refused == "" || e.Status == 0) {
			t.Errorf("%+v", e)
		}
	})
}
