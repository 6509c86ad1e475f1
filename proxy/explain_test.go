package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
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
	}}
	r := newRig(t, cfg, func(o *Options, _ *limits) { o.Bots = bots })
	for _, tt := range []struct {
		name, url, from, method string
		fields                  []model.HeaderField
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
		{name: "a path that redirects", url: "https://paths.test/old/x?y", route: 7, refused: "path", status: 301, steps: "path-"},
		{name: "a path that leads elsewhere", url: "https://paths.test/app/x?y", route: 7, steps: "path+"},
		{name: "a path that is none", url: "https://paths.test/application", route: 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := tt.from
			if from == "" {
				from = stranger
			}
			ask := model.ExplainRequest{URL: tt.url, Method: tt.method, Address: netip.MustParseAddr(from), Headers: tt.fields}
			counts, traced := r.srv.Counts()[tt.route], len(r.srv.Trace(tt.route, 100, time.Time{}).Entries)
			var got *model.Explanation
			for range 3 { // nothing is used up by asking
				var err error
				if got, err = r.srv.Explain(ask); err != nil {
					t.Fatal(err)
				}
			}
			if r.srv.Counts()[tt.route] != counts || len(r.srv.Trace(tt.route, 100, time.Time{}).Entries) != traced || len(r.srv.logins.known) > 1 {
				t.Error("asking was counted")
			}
			var steps []string
			for _, st := range got.Steps {
				if st.Reason == "" || st.Passes == (st.Status != 0) {
					t.Errorf("step %+v", st)
				}
				if st.Name == "head" || st.Name == "match" {
					continue
				}
				steps = append(steps, st.Name+map[bool]string{true: "+", false: "-"}[st.Passes])
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
			if scheme == "https" {
				conn = r.dialTLS(strings.ToLower(host))
			} else {
				conn = r.dial()
			}
			if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
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
}

func TestExplainBadInput(t *testing.T) {
	r := newRig(t, Config{})
	good := model.ExplainRequest{URL: "http://a.test/", Address: netip.MustParseAddr("192.0.2.1")}
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
