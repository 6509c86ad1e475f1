package app_test

import (
	"net/http"
	"testing"
)

func retries(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{"retry_enabled": true, "retry_count": 2, "retry_status_codes": "503"})
	out := v.outside(t)
	before := g.alpha.count()
	visit(t, out, domain, "/flaky").wants(t, "at the second attempt", 200, "alpha:8000 GET /flaky")
	if n := g.alpha.count() - before; n != 2 {
		t.Errorf("%d attempts", n)
	}
	g.change(t, id, fields{"retry_match_status": []int{502}})
	visit(t, out, domain, "/flaky").wants(t, "another status", 503, "")
	visit(t, out, domain, "/flaky").wants(t, "of the service", 200, "")
	g.change(t, id, fields{"retry_match_status": "503"})
	visit(t, out, domain, "/flaky", func(r *http.Request) { r.Method = "POST" }).wants(t, "what may not be said twice", 503, "")
	visit(t, out, domain, "/flaky").wants(t, "of the service", 200, "") // an even number for the next visitor
}
