package app_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func trace(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"debug_enabled": true, "ip_filter_enabled": true, "ip_filter_rules": []fields{{"type": "ip", "value": "127.0.0.1"}}})
	visit(t, v.outside(t), domain, "/seen?a=b").wants(t, "outside", 200, "")
	visit(t, v.inside(t, g.beta.peer), domain, "/refused").wants(t, "inside", 403, "")
	path := "/api/v1/routes/" + strconv.FormatInt(id, 10)
	read := func(query string) (uris, clients []string, newest string) {
		var answer struct {
			Data struct {
				Entries []struct {
					Timestamp, URI string
					RemoteIP       string `json:"remote_ip"`
				}
			}
		}
		g.s.API.Call(t, 200, "GET", path+"/trace"+query, nil, &answer)
		for i, e := range answer.Data.Entries {
			if i == 0 {
				newest = e.Timestamp
			}
			uris, clients = append(uris, e.URI), append(clients, e.RemoteIP)
		}
		return uris, clients, newest
	}
	uris, clients, newest := read("")
	if !slices.Equal(uris, []string{"/refused", "/seen?a=b"}) || !slices.Equal(clients, []string{g.beta.peer.Addr.String(), "127.0.0.1"}) {
		t.Errorf("the trace has %v of %v", uris, clients)
	}
	if uris, _, _ := read("?since=" + newest); len(uris) != 0 {
		t.Errorf("nothing is newer, and yet %v", uris)
	}
	if uris, _, _ := read("?limit=1"); len(uris) != 1 {
		t.Errorf("one is %v", uris)
	}
	g.change(t, id, fields{"debug_enabled": 0})
	if uris, _, _ := read(""); len(uris) != 0 {
		t.Errorf("switched off: %v", uris)
	}
}

// away asks for a service that is not there (contract 6.2).
func away(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"target_port": 8999})
	out := v.outside(t)
	for accept, kind := range map[string]string{"text/html": "text/html", "application/json": "application/json", "text/plain": "text/plain"} {
		got := visit(t, out, domain, "/", func(r *http.Request) { r.Header.Set("Accept", accept) })
		number := got.header.Get("X-Request-Id")
		if got.status != 502 || !strings.HasPrefix(got.header.Get("Content-Type"), kind) || got.header.Get("Cache-Control") != "no-store" ||
			number == "" || !strings.Contains(got.body, number) {
			t.Errorf("%s: %d %v %q", accept, got.status, got.header, got.body)
		}
		var found struct{ Entries []struct{ Status int } }
		g.s.API.Call(t, 200, "GET", "/api/v1/logs/access?request_id="+number, nil, &found)
		if len(found.Entries) != 1 || found.Entries[0].Status != 502 {
			t.Errorf("the access log has %+v of request %s", found, number)
		}
	}
}
