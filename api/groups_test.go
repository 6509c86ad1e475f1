package api

import (
	"strings"
	"testing"
	"time"
)

// TestGroupAnswers compares every answer about groups, and what others say of
// them, with a file each.
func TestGroupAnswers(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"groups-none", "GET", "/peer-groups", ``, 200},
		{"group-created", "POST", "/peer-groups", `{"name":"Travel"}`, 201},
		{"group-created-full", "POST", "/peer-groups", `{"name":" Guests ","color":"#F59e0b","description":"not <at home>","isolated":1,"no_exit":"true"}`, 201},
		{"group-unreadable", "POST", "/peer-groups", `{"name":[],"isolated":"maybe"}`, 400},
		{"group-invalid", "POST", "/peer-groups", `{"name":" ","color":"orange","description":"` + strings.Repeat("a", 256) + `"}`, 400},
		{"group-conflict", "POST", "/peer-groups", `{"name":"Guests"}`, 409},
		{"group-changed", "PUT", "/peer-groups/1", `{"description":"abroad","no_exit":1}`, 200},
		{"group-invalid", "PUT", "/peer-groups/1", `{"name":null,"color":"#0","description":"` + strings.Repeat("a", 256) + `"}`, 400},
		{"group-conflict", "PUT", "/peer-groups/1", `{"name":"Guests"}`, 409},
		{"group-missing", "PUT", "/peer-groups/99", `{"name":"x"}`, 404},
		{"group-missing", "DELETE", "/peer-groups/99", ``, 404},

		{"group-peer-created", "POST", "/peers", `{"name":"a","group_id":"2"}`, 201},
		{"group-peer-changed", "PUT", "/peers/1", `{"group_id":1}`, 200},
		{"group-peer-invalid", "PUT", "/peers/1", `{"group_id":99}`, 400},
		{"group-route-peers", "GET", "/routes/peers", ``, 200},
		{"groups", "GET", "/peer-groups", ``, 200},
		{"group-deleted", "DELETE", "/peer-groups/1", ``, 200},
		{"group-peer-left", "GET", "/peers/1", ``, 200},
		{"group-activity", "GET", "/logs/activity?event_type=peer_group_updated", ``, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := admin.do(c.method, "/api/v1"+c.path, c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			golden(t, c.name, steady(w.Body.String()))
			f.clock.advance(time.Second)
		})
	}
	for _, path := range []string{"/peer-groups/x", "/peer-groups/0", "/peer-groups/-1"} {
		admin.call(t, 404, "PUT", "/api/v1"+path, `{"name":"b"}`)
		admin.call(t, 404, "DELETE", "/api/v1"+path, "")
	}
}

func TestGroupByForm(t *testing.T) {
	f := newFixture(t)
	form := f.token(t, "full-access").with("Content-Type", "application/x-www-form-urlencoded")
	form.call(t, 201, "POST", "/api/v1/peer-groups", "name=Home&color=&description=&isolated=1&no_exit=on")
	g := form.call(t, 200, "PUT", "/api/v1/peer-groups/1", "isolated=0")["group"].(map[string]any)
	if g["name"] != "Home" || g["color"] != "#6b7280" || g["description"] != nil || g["isolated"] != false || g["no_exit"] != true {
		t.Errorf("%v", g)
	}
}
