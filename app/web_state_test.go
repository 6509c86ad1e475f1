package app_test

import (
	"strconv"
	"strings"
	"testing"
)

// TestRefusedOptionsChangeNothing asks for what only the proxy finds to be wrong,
// together with other changes.
func TestRefusedOptionsChangeNothing(t *testing.T) {
	g := newGallery(t)
	id, domain := g.show(t, fields{"acl_enabled": true, "acl_peers": []int64{g.beta.id}})
	path := "/api/v1/routes/" + strconv.FormatInt(id, 10)
	var before, after string
	g.s.API.Call(t, 200, "GET", path, nil, &before)
	var refused struct{ Fields map[string]string }
	g.s.API.Call(t, 400, "PUT", path, fields{"acl_enabled": false, "acl_peers": []int64{g.alpha.id}, "debug_enabled": 1,
		"custom_headers": fields{"response": []fields{{"name": "Set-Cookie", "value": "gc.sid=stolen"}}}}, &refused)
	if len(refused.Fields) != 1 || !strings.HasPrefix(strings.Join(keys(refused.Fields), ""), "custom_headers.response[0]") {
		t.Errorf("the refusal names %v", refused.Fields)
	}
	g.s.API.Call(t, 200, "GET", path, nil, &after)
	if before != after {
		t.Errorf("something was stored:\n%s\n%s", before, after)
	}
	for _, v := range g.visitors() {
		visit(t, v.inside(t, g.alpha.peer), domain, "/").wants(t, "still not on the list", 403, "")
		visit(t, v.inside(t, g.beta.peer), domain, "/").wants(t, "still on the list", 200, "")
	}
}

func keys(m map[string]string) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	return list
}
