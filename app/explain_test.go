package app_test

import (
	"strings"
	"testing"

	"gatecontrol/lab"
)

// TestExplainRoute asks about a route for peers, from both sides of the tunnel.
func TestExplainRoute(t *testing.T) {
	s := lab.Start(t)
	id, p := s.Peer(t, "nas")
	var made struct{ Route struct{ ID int64 } }
	s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
		"domain": "app.example.com", "peer_id": id, "target_port": 8000, "external_enabled": false, "debug_enabled": true,
	}, &made)
	type answer struct {
		RouteID   *int64  `json:"route_id"`
		RefusedBy *string `json:"refused_by"`
		Status    *int
		Head      *string
		Steps     []struct{ Name, Verdict, Reason string }
		Targets   []struct {
			Address string
			Peer    string
		}
	}
	ask := func(url, addr string) (a answer) {
		s.API.Call(t, 200, "POST", "/api/v1/routes/explain", map[string]any{"url": url, "address": addr}, &a)
		return a
	}
	out := ask("https://app.example.com/x", "203.0.113.9")
	if out.RefusedBy == nil || *out.RefusedBy != "external" || out.Status == nil || *out.Status != 404 || out.RouteID == nil || *out.RouteID != made.Route.ID {
		t.Errorf("outside: %+v", out)
	}
	in := ask("https://app.example.com/x", p.Addr.String())
	if in.RefusedBy != nil || in.Status != nil || in.Head == nil || !strings.HasPrefix(*in.Head, "GET /x HTTP/1.1\r\nHost: app.example.com\r\n") ||
		!strings.Contains(*in.Head, "\r\nX-Forwarded-For: "+p.Addr.String()+"\r\n") || len(in.Targets) != 1 || in.Targets[0].Peer != "nas" ||
		in.Targets[0].Address != p.Addr.String()+":8000" {
		t.Errorf("inside: %+v", in)
	}
	var trace struct{ Data struct{ Entries []any } }
	s.API.Call(t, 200, "GET", "/api/v1/routes/1/trace", nil, &trace)
	if len(trace.Data.Entries) != 0 {
		t.Errorf("asking left a trace: %v", trace)
	}
	for scheme, step := range map[string]string{"http": "match", "https": "tls_handshake"} {
		if a := ask(scheme+"://nobody.example.com/", "203.0.113.9"); a.RefusedBy == nil || *a.RefusedBy != step || a.RouteID != nil {
			t.Errorf("nobody, %s: %+v", scheme, a)
		}
	}
}
