package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// onThisHost leads to a service beside the gateway (contract 2.1).
func onThisHost(t *testing.T, g *gallery, v visitor) {
	beside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "beside "+r.Host) }))
	t.Cleanup(beside.Close)
	_, domain := g.show(t, fields{"peer_id": nil, "target_port": beside.Listener.Addr().(*net.TCPAddr).Port})
	visit(t, v.outside(t), domain, "/").wants(t, "outside", 200, "beside "+domain)
	visit(t, v.inside(t, g.beta.peer), domain, "/").wants(t, "inside", 200, "beside "+domain)
}

// anotherName asks for a route on a connection that was made for another one
// (contract 6.1): what that one knows of the client says nothing here.
func anotherName(t *testing.T, g *gallery, v visitor) {
	_, one := g.show(t, nil)
	_, two := g.show(t, nil)
	out, before := v.outside(t), g.alpha.count()
	for _, host := range []string{two, "nobody.example.test"} {
		visit(t, out, one, "/", func(r *http.Request) { r.Host = host }).wants(t, host, 421, "")
	}
	if g.alpha.count() != before {
		t.Error("a request came through")
	}
	visit(t, out, one, "/").wants(t, "its own name", 200, "")
}

func paths(t *testing.T, g *gallery, v visitor) {
	_, domain := g.show(t, fields{"paths": []fields{
		{"prefix": "/api", "peer_id": g.beta.id, "port": 8001, "strip": true},
		{"prefix": "/api/own", "port": 8001},
		{"prefix": "/old", "redirect": "/new", "status": 308},
	}})
	out := v.outside(t)
	visit(t, out, domain, "/apis").wants(t, "another segment", 200, "alpha:8000 GET /apis")
	visit(t, out, domain, "/api/x?y").wants(t, "another peer", 200, "beta:8001 GET /x?y")
	visit(t, out, domain, "/api/own/x").wants(t, "another port", 200, "alpha:8001 GET /api/own/x")
	if got := visit(t, out, domain, "/old/x?y"); got.status != 308 || got.header.Get("Location") != "/new?y" {
		t.Errorf("redirect: %d %v", got.status, got.header)
	}
}

// anotherTarget has a route lead elsewhere while connections to it are open (contract
// 2.1), and then have another name itself.
func anotherTarget(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	for _, c := range []struct {
		name    string
		options fields
		body    string
	}{
		{"as it was made", fields{}, "alpha:8000 GET /"},
		{"another port", fields{"target_port": 8001}, "alpha:8001 GET /"},
		{"another peer", fields{"peer_id": g.beta.id}, "beta:8001 GET /"},
		{"another peer and port, as forms write them", fields{"peer_id": fmt.Sprint(g.alpha.id), "target_port": "8000"}, "alpha:8000 GET /"},
		{"another text about it", fields{"description": "mine"}, "alpha:8000 GET /"},
	} {
		g.change(t, id, c.options)
		visit(t, out, domain, "/").wants(t, c.name+", outside", 200, c.body)
		visit(t, in, domain, "/").wants(t, c.name+", inside", 200, c.body)
	}
	visit(t, out, domain, "/", func(r *http.Request) { r.Host = strings.ToUpper(domain) + ":443" }).wants(t, "its name in capitals", 200, "alpha:8000 GET /")
	g.change(t, id, fields{"domain": " New." + strings.ToUpper(domain) + " "})
	visit(t, v.outside(t), "new."+domain, "/").wants(t, "its new name", 200, "alpha:8000 GET /")
	visit(t, out, domain, "/").wants(t, "its old name, on a connection of before", 404, "")
	g.refused(t, v, domain)
}

// refused connects with a name that nobody has (contract 6.2).
func (g *gallery) refused(t *testing.T, v visitor, domain string) {
	t.Helper()
	if got, err := try(t.Context(), v.outside(t), "https://"+domain+"/"); err == nil {
		t.Errorf("%s: %d", domain, got.status)
	} else if !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("%s: %v", domain, err)
	}
}

// disabledPeer has the peer behind a route come and go (contract 12).
func disabledPeer(t *testing.T, g *gallery, v visitor) {
	name := "off-" + strings.ToLower(v.version)
	guest := g.exhibit(t, name)
	_, domain := g.show(t, fields{"peer_id": guest.id})
	out := v.outside(t)
	toggle := func() { g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/peers/%d/toggle", guest.id), nil, nil) }
	visit(t, out, domain, "/").wants(t, "enabled", 200, name+":8000 GET /")
	toggle()
	if got := visit(t, out, domain, "/"); got.status != 502 || got.header.Get("Cache-Control") != "no-store" || !strings.Contains(got.body, name) {
		t.Errorf("disabled: %d %v %s", got.status, got.header, got.body)
	}
	toggle()
	visit(t, out, domain, "/").wants(t, "enabled again", 200, name+":8000 GET /")
}

// deletedPeer deletes the peer behind a route (contract 12): what runs ends, and the
// route, which would lead to whoever gets the address next, says what it needs.
func deletedPeer(t *testing.T, g *gallery, v visitor) {
	guest := g.exhibit(t, "gone-"+strings.ToLower(v.version))
	id, domain := g.show(t, fields{"peer_id": guest.id})
	out := v.outside(t)
	visit(t, out, domain, "/").wants(t, "while it is there", 200, "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+domain+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.outside(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	event := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(res.Body, event); err != nil {
		t.Fatal(err)
	}
	ws := v.socket(t, v.outside(t), domain, "/ws")
	g.s.API.Call(t, 200, "DELETE", fmt.Sprintf("/api/v1/peers/%d", guest.id), nil, nil)
	if n, err := res.Body.Read(event); err == nil || errors.Is(err, io.EOF) || ctx.Err() != nil {
		t.Errorf("an answer that ran goes on with %q, %v", event[:n], err)
	}
	if _, b, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a WebSocket goes on with %q, %v", b, err)
	}
	visit(t, out, domain, "/").wants(t, "on a connection of before", 404, "")
	g.refused(t, v, domain)

	path := fmt.Sprintf("/api/v1/routes/%d", id)
	var got struct {
		Route struct {
			Enabled  int
			PeerID   *int64 `json:"peer_id"`
			TargetIP string `json:"target_ip"`
			Problem  string
		}
	}
	g.s.API.Call(t, 200, "GET", path, nil, &got)
	if r := got.Route; r.Enabled != 0 || r.PeerID != nil || r.TargetIP != guest.peer.Addr.String() || !strings.Contains(r.Problem, "gone") {
		t.Errorf("the route is %+v", r)
	}
	var refused struct{ Fields map[string]string }
	g.s.API.Call(t, 400, "PUT", path+"/toggle", nil, &refused)
	if !strings.Contains(refused.Fields["target_ip"], "gone") {
		t.Errorf("it is not enabled, since %v", refused.Fields)
	}
	g.refused(t, v, domain)
	g.change(t, id, fields{"peer_id": g.beta.id, "enabled": true})
	visit(t, v.outside(t), domain, "/").wants(t, "with another peer", 200, "beta:8000 GET /")
}

// disabled has a route come and go: while it is disabled nobody knows its name.
func disabled(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	visit(t, v.outside(t), domain, "/").wants(t, "enabled", 200, "")
	toggle := func() { g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/routes/%d/toggle", id), nil, nil) }
	toggle()
	g.refused(t, v, domain)
	g.refused(t, v, "nobody.example.test")
	g.plain(t, domain, "/").wants(t, "disabled, on the plain port", 404, "")
	toggle()
	visit(t, v.outside(t), domain, "/").wants(t, "enabled again", 200, "alpha:8000 GET /")
}
