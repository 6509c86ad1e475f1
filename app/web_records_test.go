package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// trace looks at the last requests of a route (contract 3.11).
func trace(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"debug_enabled": true, "ip_filter_enabled": true, "ip_filter_rules": []fields{{"type": "ip", "value": "127.0.0.1"}}})
	agent := func(r *http.Request) { r.Header.Set("User-Agent", "test of "+v.version) }
	visit(t, v.outside(t), domain, "/seen?a=b", agent).wants(t, "outside", 200, "alpha:8000 GET /seen?a=b")
	visit(t, v.inside(t, g.beta.peer), domain, "/refused", agent).wants(t, "inside", 403, "")
	type entry struct {
		Timestamp, Method, URI, Host, Refused string
		RemoteIP                              string `json:"remote_ip"`
		UserAgent                             string `json:"user_agent"`
		Status                                int
		Size                                  int `json:"response_size"`
	}
	read := func(query string) []entry {
		var answer struct{ Data struct{ Entries []entry } }
		g.s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/routes/%d/trace%s", id, query), nil, &answer)
		return answer.Data.Entries
	}
	list := read("")
	if len(list) != 2 {
		t.Fatalf("the trace has %+v", list)
	}
	newest := list[0].Timestamp
	for i, want := range []entry{
		{"", "GET", "/refused", domain, "ip_filter", g.beta.peer.Addr.String(), "test of " + v.version, 403, list[0].Size},
		{"", "GET", "/seen?a=b", domain, "", "127.0.0.1", "test of " + v.version, 200, len("alpha:8000 GET /seen?a=b")},
	} {
		if at, err := time.Parse("2006-01-02T15:04:05.000Z", list[i].Timestamp); err != nil || time.Since(at) > time.Hour {
			t.Errorf("%+v, %v", list[i], err)
		}
		if list[i].Timestamp = ""; list[i] != want || list[i].Size == 0 {
			t.Errorf("the trace has %+v, want %+v", list[i], want)
		}
	}
	// Bots are refused before it, and so are those whom the tunnel alone would let in.
	for _, options := range []fields{{"bot_blocker_enabled": true}, {"bot_blocker_enabled": false, "external_enabled": false}} {
		g.change(t, id, options)
		if got := visit(t, v.outside(t), domain, "/bot"); got.status != 403 && got.status != 404 {
			t.Errorf("with %v: %d", options, got.status)
		}
	}
	if list := read("?since=" + newest); len(list) != 0 {
		t.Errorf("nothing is newer, and yet %+v", list)
	}
	if list := read("?limit=1"); len(list) != 1 {
		t.Errorf("one is %+v", list)
	}
	g.change(t, id, fields{"debug_enabled": 0})
	if list := read(""); len(list) != 0 {
		t.Errorf("switched off: %+v", list)
	}
}

// away asks for services that are not there, or do not answer (contract 6.2).
func away(t *testing.T, g *gallery, v visitor) {
	_, none := g.show(t, fields{"target_port": 8999})
	_, cuts := g.show(t, nil)
	_, plain := g.show(t, fields{"backend_https": true})
	out := v.outside(t)
	v.faulty(t, out, none, "/", "no connection")
	v.faulty(t, out, cuts, "/cut/99/"+cuts, "no answer")
	v.faulty(t, out, plain, "/", "no TLS")
}

// faulty gets a page that says that the backend failed, in each form, and finds its
// number in the access log.
func (v visitor) faulty(t *testing.T, c *http.Client, domain, path, what string) {
	t.Helper()
	for accept, kind := range map[string]string{"text/html": "text/html", "application/json": "application/json", "text/plain": "text/plain"} {
		got := visit(t, c, domain, path, func(r *http.Request) { r.Header.Set("Accept", accept) })
		number := got.header.Get("X-Request-Id")
		if got.status != 502 || !strings.HasPrefix(got.header.Get("Content-Type"), kind) || got.header.Get("Cache-Control") != "no-store" ||
			number == "" || !strings.Contains(got.body, number) {
			t.Errorf("%s, %s: %d %v %q", what, accept, got.status, got.header, got.body)
		}
		var found struct{ Entries []struct{ Status int } }
		v.g.s.API.Call(t, 200, "GET", "/api/v1/logs/access?request_id="+number, nil, &found)
		if len(found.Entries) != 1 || found.Entries[0].Status != 502 {
			t.Errorf("%s: the access log has %+v of request %s", what, found, number)
		}
	}
}

// accessLog reads what is told of requests: each has one line (contract 6.17).
func accessLog(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	out := v.outside(t)
	agent := func(r *http.Request) { r.Header.Set("User-Agent", "test of "+v.version) }
	visit(t, out, domain, "/a?b=c&token=secret", agent).wants(t, "a request", 200, "alpha:8000 GET /a?b=c&token=secret")
	visit(t, v.inside(t, g.beta.peer), domain, "/route-auth/share/secret", agent, func(r *http.Request) { r.Method = "HEAD" }).wants(t, "from the tunnel", 200, "")
	v.socket(t, out, domain, "/ws").CloseNow()
	g.change(t, id, fields{"external_enabled": false})
	visit(t, out, domain, "/refused", agent).wants(t, "refused", 404, "")

	type entry struct {
		Method, Host, URI, Proto string
		Status                   int
		Size                     int64
		RemoteIP                 string `json:"remote_ip"`
		UserAgent                string `json:"user_agent"`
		RouteID                  int64  `json:"route_id"`
		Upstream, Refused        string
	}
	proto := map[string]string{"HTTP1": "HTTP/1.1", "HTTP2": "HTTP/2.0", "HTTP3": "HTTP/3.0"}[v.version]
	upstream, socket := g.alpha.peer.Addr.String()+":8000", entry{}
	want := []entry{
		{"GET", domain, "/refused", proto, 404, 0, "127.0.0.1", "test of " + v.version, id, "", "external"},
		{"HEAD", domain, "/route-auth/share/[redacted]", proto, 200, 0, g.beta.peer.Addr.String(), "test of " + v.version, id, upstream, ""},
		{"GET", domain, "/a?b=c&token=[redacted]", proto, 200, int64(len("alpha:8000 GET /a?b=c&token=secret")), "127.0.0.1", "test of " + v.version, id, upstream, ""},
	}
	var list []entry
	lab.Eventually(t, 10*time.Second, "one line of each request", func() error { // once its answer has ended
		var answer struct{ Entries []entry }
		g.s.API.Call(t, 200, "GET", "/api/v1/logs/access?domain="+domain, nil, &answer)
		list = slices.DeleteFunc(answer.Entries, func(e entry) bool {
			if e.URI == "/ws" {
				socket = e
			}
			return e.URI == "/ws"
		})
		if len(answer.Entries) != 4 || len(list) != 3 {
			return fmt.Errorf("%+v", answer.Entries)
		}
		return nil
	})
	if !slices.Equal(list, want) {
		t.Errorf("the log has %+v, want %+v", list, want)
	}
	if s := socket; s.Status != 101 && s.Status != 200 || s.Proto != proto || s.Upstream != upstream || s.RouteID != id {
		t.Errorf("the log has %+v of a WebSocket", s)
	}

	b, err := os.ReadFile(filepath.Join(g.s.Dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte(domain)); n != 4 || bytes.Contains(b, []byte("secret")) {
		t.Errorf("the file speaks %d times of %s: %s", n, domain, b)
	}
	for line := range bytes.Lines(b) {
		var l struct {
			TS, Duration float64
			Status, Size *int
			Request      struct {
				Host, Method, URI string
				RemoteIP          string `json:"remote_ip"`
			}
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(line, []byte(`"/a?b=c`)) || l.Request.Host != domain {
			continue
		}
		if at := time.Unix(int64(l.TS), 0); time.Since(at) > time.Hour || l.Duration <= 0 || *l.Status != 200 || int64(*l.Size) != want[2].Size ||
			l.Request.Method != "GET" || l.Request.URI != want[2].URI || l.Request.RemoteIP != "127.0.0.1" {
			t.Errorf("the file has %s", line)
		}
	}
}
