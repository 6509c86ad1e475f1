package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestAccessLogEntries(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for i, status := range []int{200, 404, 403} {
		f.access.Record(&model.AccessRecord{
			ID: [16]byte{15: byte(i + 1)}, At: start.Add(time.Duration(i) * time.Second), Duration: 1600 * time.Microsecond, Status: status, Size: 5,
			Remote: netip.MustParseAddr("192.0.2.7"), Proto: "HTTP/2.0", Host: []byte("App.Test"), Method: []byte("GET"), URI: []byte("/<x>"), UserAgent: []byte("t/1"),
		})
	}
	want := `{"timestamp":"2026-05-01T12:00:02.000Z","request_id":"00000000000000000000000000000003","method":"GET","host":"App.Test","uri":"/\u003cx\u003e",` +
		`"proto":"HTTP/2.0","status":403,"duration":2,"size":5,"remote_ip":"192.0.2.7","user_agent":"t/1"}`
	for _, tt := range []struct{ query, want string }{
		{"?limit=1", `{"ok":true,"entries":[` + want + `],"total":3,"page":1,"limit":1,"totalPages":3}`},
		{"?limit=1&offset=2&domain=app", `"total":3,"page":3,"limit":1,"totalPages":3}`},
		{"?status=404", `"total":2,"page":1,"limit":50,"totalPages":1}`},
		{"?status=7", `"total":3,`},
		{"?method=POST", `{"ok":true,"entries":[],"total":0,"page":1,"limit":50,"totalPages":0}`},
		{"?request_id=00000000000000000000000000000003", `{"ok":true,"entries":[` + want + `],"total":1,"page":1,"limit":50,"totalPages":1}`},
	} {
		if body := admin.do("GET", "/api/v1/logs/access"+tt.query, "").Body.String(); !strings.Contains(body, tt.want) {
			t.Errorf("%s: %s, want %s", tt.query, body, tt.want)
		}
	}
}

func TestRouteTrace(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 404, "GET", "/api/v1/routes/1/trace", "")
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"nas"}`)
	admin.call(t, 201, "POST", "/api/v1/routes", `{"domain":"a.example.com","peer_id":1,"target_port":1}`)
	get := func(query string) string {
		return strings.TrimSpace(admin.do("GET", "/api/v1/routes/1/trace"+query, "").Body.String())
	}
	if got := get(""); got != `{"ok":true,"data":{"entries":[],"kept":0,"dropped":7}}` {
		t.Error(got)
	}
	entry := model.TraceEntry{
		ID: "ab", At: start, Method: "GET", URI: "/x", Remote: netip.MustParseAddr("192.0.2.7"), Host: "a.example.com", UserAgent: "t/1", Status: 200, Size: 0,
	}
	running := entry
	running.Status, running.At = 0, start.Add(time.Millisecond)
	f.trace = []model.TraceEntry{running, entry}
	const first = `{"timestamp":"2026-05-01T12:00:00.001Z","request_id":"ab","method":"GET","uri":"/x","remote_ip":"192.0.2.7","host":"a.example.com","user_agent":"t/1"}`
	const second = `{"timestamp":"2026-05-01T12:00:00.000Z","request_id":"ab","method":"GET","uri":"/x","remote_ip":"192.0.2.7","host":"a.example.com","user_agent":"t/1","status":200,"response_size":0}`
	for query, want := range map[string]string{
		"":                                `[` + first + `,` + second + `]`,
		"?limit=1":                        `[` + first + `]`,
		"?since=2026-05-01T12:00:00.000Z": `[` + first + `]`,
		"?since=2026-05-01T12:00:00.001Z": `[]`,
	} {
		if got := get(query); got != `{"ok":true,"data":{"entries":`+want+`,"kept":2,"dropped":7}}` {
			t.Errorf("%s: %s", query, got)
		}
	}
	admin.call(t, 400, "GET", "/api/v1/routes/1/trace?since=yesterday", "")
}
