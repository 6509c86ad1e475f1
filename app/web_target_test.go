package app_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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

// disabled has a route come and go: while it is disabled nobody knows its name.
func disabled(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, nil)
	visit(t, v.outside(t), domain, "/").wants(t, "enabled", 200, "")
	toggle := func() { g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/routes/%d/toggle", id), nil, nil) }
	toggle()
	if res, err := v.outside(t).Get("https://" + domain + "/"); err == nil {
		_ = res.Body.Close()
		t.Errorf("disabled: %s", res.Status)
	} else if !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("disabled: %v", err)
	}
	toggle()
	visit(t, v.outside(t), domain, "/").wants(t, "enabled again", 200, "alpha:8000 GET /")
}
