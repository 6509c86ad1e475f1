package api

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatecontrol/control/peers"
	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// TestAnswers compares the shape and content of every JSON answer with a file
// each. The files are the contract as clients see it.
func TestAnswers(t *testing.T) {
	f := newFixture(t)
	f.conditions = []telemetry.Condition{
		{Code: "store_failed", Severity: model.SeverityError, Text: "No change is taken any more.", Since: start},
		{Code: "peer_clock_behind", Subject: "NAS1", Peer: 2, Severity: model.SeverityWarning, Text: "Set its clock.", Since: start.Add(time.Minute)},
	}
	f.certs = []model.CertStatus{
		{Name: "app.example.com", Subject: "app.example.com", State: model.CertFailed, Issuer: "GateControl internal CA", NotBefore: start, NotAfter: start.Add(time.Hour),
			NextRenewal: start.Add(time.Minute), LastError: "NXDOMAIN", Advice: "Add a record.", Failures: 3},
		{Name: "gate.example.com", Subject: "*.example.com", State: model.CertValid, Issuer: "Some CA", NotBefore: start, NotAfter: start.Add(time.Hour), NextRenewal: start.Add(time.Minute)},
	}
	brought, other := issue(t, start.Add(24*time.Hour), "app.example.com", "*.app.example.com"), issue(t, start.Add(24*time.Hour), "other.org")
	expired := issue(t, start.Add(-time.Hour), "app.example.com")
	admin := f.admin(t)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"peer-created", "POST", "/peers", `{"name":"Laptop","description":"Travel device","tags":["Desktop","Travel"],"dns":"1.1.1.1,9.9.9.9","expires_at":"2026-12-31","hostname":"laptop"}`, 201},
		{"gateway-created", "POST", "/peers", `{"name":"NAS1","is_gateway":true,"api_port":"9876"}`, 201},
		{"peer-refused", "POST", "/peers", `{"name":"-","description":7,"persistentKeepalive":"x","api_port":80}`, 400},
		{"peer-invalid", "POST", "/peers", `{"name":"Laptop","dns":"1.1.1.1;rm","api_port":80}`, 400},
		{"peer-changed", "PUT", "/peers/1", `{"description":"","persistent_keepalive":0,"expires_at":null,"unknown":{}}`, 200},
		{"peer-toggled", "PUT", "/peers/2/toggle", ``, 200},
		{"peer-hostname", "PATCH", "/peers/2/hostname", `{"hostname":"LAPTOP"}`, 200},
		{"peer-missing", "GET", "/peers/99", ``, 404},
		{"peer", "GET", "/peers/1", ``, 200},
		{"peers", "GET", "/peers?limit=1&offset=1", ``, 200},
		{"peer-config", "GET", "/peers/1/config?format=json", ``, 200},
		{"peer-qr", "GET", "/peers/1/qr", ``, 200},
		{"peers-batch", "POST", "/peers/batch", `{"action":"enable","ids":["1",2,2]}`, 200},
		{"peers-batch-unknown", "POST", "/peers/batch", `{"action":"delete","ids":[1,99]}`, 404},
		{"peers-batch-empty", "POST", "/peers/batch", `{"action":"explode","ids":[]}`, 400},

		{"route-created", "POST", "/routes", `{"domain":"App.Example.com","peer_id":"1","target_port":"5000","https_enabled":0,"backend_https":"1"}`, 201},
		{"route-l4-created", "POST", "/routes", `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":3389,"peer_id":1,"target_port":3389,"description":"RDP"}`, 201},
		{"route-invalid", "POST", "/routes", `{"domain":"no","target_port":0,"target_ip":"10.0.0.1"}`, 400},
		{"route-conflict", "POST", "/routes", `{"domain":"app.example.com","peer_id":1,"target_port":1}`, 409},
		{"route-port-conflict", "POST", "/routes", `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","peer_id":1,"target_port":1}`, 409},
		{"route-changed", "PUT", "/routes/1", `{"description":"App","https_enabled":true}`, 200},
		{"route-toggled", "PUT", "/routes/2/toggle", `{}`, 200},
		{"route", "GET", "/routes/1", ``, 200},
		{"routes", "GET", "/routes?type=l4", ``, 200},
		{"route-peers", "GET", "/routes/peers?peer_type=gateway", ``, 200},
		{"routes-batch", "POST", "/routes/batch", `{"action":"disable","ids":[1,2]}`, 200},

		{"token-created", "POST", "/tokens", `{"name":"scripts","scopes":["peers","read-only"],"expires_at":"2026-12-31"}`, 201},
		{"token-invalid", "POST", "/tokens", `{"name":"","scopes":"root","expires_at":"2020-01-01"}`, 400},
		{"tokens", "GET", "/tokens", ``, 200},
		{"token-deleted", "DELETE", "/tokens/1", ``, 200},

		{"session", "GET", "/session", ``, 200},
		{"stats", "GET", "/dashboard/stats", ``, 200},
		{"activity", "GET", "/logs/activity?limit=4&offset=1", ``, 200},
		{"activity-invalid", "GET", "/logs/activity?since=yesterday&until=soon", ``, 400},
		{"recent", "GET", "/logs/recent?limit=2", ``, 200},
		{"certificate-uploaded", "POST", "/certificates", upload(brought.Chain, brought.Key), 201},
		{"certificate-mismatch", "POST", "/certificates", upload(brought.Chain, other.Key), 400},
		{"certificate-expired", "POST", "/certificates", upload(expired.Chain, expired.Key), 400},
		{"certificate-wrong-name", "POST", "/certificates", upload(other.Chain, other.Key), 400},
		{"certificate-oversized", "POST", "/certificates", upload(brought.Chain+strings.Repeat(" ", model.MaxCertificateSize), brought.Key), 400},
		{"certificate-incomplete", "POST", "/certificates", `{}`, 400},
		{"certificates", "GET", "/certificates", ``, 200},
		{"certificate-renewed", "POST", "/certificates/app.example.com/renew", ``, 200},
		{"certificate-renew-unknown", "POST", "/certificates/none.example.com/renew", ``, 404},
		{"certificate-renew-limited", "POST", "/certificates/LIMITED.example.com./renew", ``, 429},
		{"preflight", "POST", "/certificates/preflight", `{"domain":"APP.example.com"}`, 200},
		{"preflight-bad", "POST", "/certificates/preflight", `{"domain":"elsewhere.example.com"}`, 200},
		{"preflight-invalid", "POST", "/certificates/preflight", `{"domain":"a b"}`, 400},
		{"certificate-deleted", "DELETE", "/certificates/1", ``, 200},
		{"certificate-missing", "DELETE", "/certificates/1", ``, 404},
		{"zone-invalid", "PUT", "/certificates/dns-zones/example.com", `{"provider":"rfc2136","server":"a b"}`, 400},
		{"zone-unknown-provider", "PUT", "/certificates/dns-zones/example.com", `{"provider":"mine"}`, 400},
		{"zone-set", "PUT", "/certificates/dns-zones/Example.com", `{"provider":"rfc2136","server":"192.0.2.1","key_name":"gate","key_secret":"c2VjcmV0","wildcard":true}`, 200},
		{"zone-changed", "PUT", "/certificates/dns-zones/example.com", `{"server":"192.0.2.2:5353"}`, 200},
		{"zones", "GET", "/certificates/dns-zones", ``, 200},
		{"zone-deleted", "DELETE", "/certificates/dns-zones/example.com", ``, 200},
		{"zone-missing", "DELETE", "/certificates/dns-zones/example.com", ``, 404},

		{"dns-status", "GET", "/system/dns/status", ``, 200},
		{"dns-records", "GET", "/system/dns/records", ``, 200},
		{"wg-status", "GET", "/wg/status", ``, 200},
		{"caddy-status", "GET", "/caddy/status", ``, 200},
		{"caddy-reload", "POST", "/caddy/reload", ``, 200},
		{"conditions", "GET", "/system/conditions", ``, 200},

		{"route-deleted", "DELETE", "/routes/2", ``, 200},
		{"peer-deleted", "DELETE", "/peers/2", ``, 200},

		{"dns-check", "POST", "/routes/check-dns", `{"domain":"APP.example.com"}`, 200},
		{"dns-check-elsewhere", "POST", "/routes/check-dns", `{"domain":"elsewhere.example.com"}`, 200},
		{"dns-check-nowhere", "POST", "/routes/check-dns", `{"domain":"nowhere.example.com"}`, 200},
		{"dns-check-invalid", "POST", "/routes/check-dns", `{"domain":"example"}`, 400},

		{"window-added", "POST", "/routes/1/access-rules", `{"mode":"allow","schedule":"Mo-Fr 09:00-17:00; Sa 10:00-12:00","valid_from":"2026-01-01","valid_until":null,"label":" Office "}`, 201},
		{"window-invalid", "POST", "/routes/1/access-rules", `{"mode":"open","schedule":"Mo","valid_from":"2026-02-30","valid_until":7}`, 400},
		{"window-order", "POST", "/peers/1/access-rules", `{"mode":"block","schedule":"So 00:00-24:00","valid_from":"2026-02-02","valid_until":"2026-02-01"}`, 400},
		{"window-missing", "PUT", "/routes/1/access-rules/2", `{"mode":"block","schedule":"So 00:00-24:00"}`, 404},
		{"windows", "GET", "/routes/1/access-rules", ``, 200},
		{"window-changed", "PUT", "/routes/1/access-rules/1", `{"mode":"block","schedule":"Mon-Sun 00:00-24:00"}`, 200},
		{"windows-changed", "GET", "/routes/1/access-rules", ``, 200},
		{"window-deleted", "DELETE", "/routes/1/access-rules/1", ``, 200},
		{"window-peer-added", "POST", "/peers/1/access-rules", `{"mode":"block","schedule":"Mon-Sun 00:00-24:00"}`, 201},
		{"window-not-of-target", "DELETE", "/routes/1/access-rules/1", ``, 404},
		{"windows-of-peer", "GET", "/peers/1/access-rules", ``, 200},
		{"window-peer-deleted", "DELETE", "/peers/1/access-rules/1", ``, 200},
		{"windows-none", "GET", "/peers/1/access-rules", ``, 200},
		{"windows-of-nobody", "GET", "/peers/99/access-rules", ``, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "peers" {
				f.connect(t, 1, 30*time.Second)
				f.connect(t, 2, time.Hour)
			}
			w := admin.do(c.method, "/api/v1"+c.path, c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			golden(t, c.name, steady(w.Body.String()))
			f.clock.advance(time.Second)
		})
	}
}

// connect makes the tunnel know a peer whose last handshake is that old.
func (f *fixture) connect(t *testing.T, id model.PeerID, age time.Duration) {
	t.Helper()
	v, err := f.Peers.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	f.status[v.PublicKey] = model.PeerStatus{
		PublicKey: v.PublicKey, HasPresharedKey: true, Endpoint: netip.MustParseAddrPort("198.51.100.7:51820"),
		AllowedIPs: v.AllowedIPs, LastHandshake: f.clock.now().Add(-age), RxBytes: 1000, TxBytes: 2000, RxPackets: 10, TxPackets: 20, Keepalive: v.Keepalive,
	}
}

func TestConfigForms(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"My Laptop"}`)
	for _, c := range []struct{ query, accept, typ, disposition string }{
		{"", "", "text/plain; charset=utf-8", ""},
		{"", "*/*", "text/plain; charset=utf-8", ""},
		{"", "application/json", "application/json", ""},
		{"?format=json", "*/*", "application/json", ""},
		{"?download=1", "application/json", "application/octet-stream", `attachment; filename="` + peers.ConfigFile("My Laptop") + `"`},
	} {
		w := admin.with("Accept", c.accept).do("GET", "/api/v1/peers/1/config"+c.query, "")
		if h := w.Header(); w.Code != 200 || h.Get("Content-Type") != c.typ || h.Get("Content-Disposition") != c.disposition || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%q %q: %d %v", c.query, c.accept, w.Code, h)
		}
	}
}

func TestBackupIsAFile(t *testing.T) {
	f := newFixture(t)
	w := f.token(t, "backup").do("GET", "/api/v1/settings/backup?format=download", "")
	if w.Code != 200 || w.Header().Get("Content-Disposition") != `attachment; filename="gatecontrol-backup-2026-05-01.json"` {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestActivityFilters(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, name := range []string{"a", "b", "c"} {
		admin.call(t, 201, "POST", "/api/v1/peers", `{"name":"`+name+`"}`)
		f.clock.advance(12 * time.Hour) // 1 May 12:00, 2 May 0:00, 2 May 12:00
	}
	admin.call(t, 200, "DELETE", "/api/v1/peers/1", "") // 3 May 0:00
	for query, want := range map[string]float64{
		"":                                    4,
		"?event_type=peer_created":            3,
		"?severity=warning":                   1,
		"?source=system":                      0,
		"?since=2026-05-02":                   3,
		"?until=2026-05-01":                   1,
		"?until=2026-05-02":                   3,
		"?since=2026-05-02&until=2026-05-02":  2,
		"?since=1777723200000":                2, // 2 May 12:00
		"?since=2026-05-02T11:59:59Z":         2,
		"?since=2026-05-02&severity=success":  2,
		"?limit=0&event_type=peer_created":    3,
		"?limit=1000&offset=x":                4,
		"?limit=2&limit=2":                    4,
		"?severity=warning&event_type=peer_x": 0,
	} {
		if m := admin.call(t, 200, "GET", "/api/v1/logs/activity"+query, ""); m["total"] != want {
			t.Errorf("%s: total is %v, want %v", query, m["total"], want)
		}
	}
	m := admin.call(t, 200, "GET", "/api/v1/logs/activity?limit=3&page=2", "")
	if entries, _ := m["entries"].([]any); len(entries) != 1 || m["page"] != 2.0 || m["totalPages"] != 2.0 {
		t.Errorf("the second page is %v", m)
	}
	m = admin.call(t, 200, "GET", "/api/v1/logs/activity?limit=2&offset=2&page=9", "")
	if m["page"] != 2.0 {
		t.Errorf("an offset of 2 is page %v", m["page"])
	}
	admin.call(t, 400, "GET", "/api/v1/logs/activity?limit=2&limit=3", "")
}

// chance is what differs from run to run: keys, tokens, images, the number of
// the process.
var chance = regexp.MustCompile(`data:image/png;base64,[A-Za-z0-9+/=]+|[A-Za-z0-9+/]{43}=|gc_(gw_)?[0-9a-f]{64,}|\b[0-9a-f]{64}\b|"pid":\d+`)

// steady replaces that by its kind and, so that equal ones stay equal, a number.
func steady(text string) string {
	seen := map[string]string{}
	return chance.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, `"pid"`) {
			return `"pid":1`
		}
		if seen[s] == "" {
			kind := "key"
			switch {
			case strings.HasPrefix(s, "data:"):
				kind = "image"
			case strings.HasPrefix(s, "gc_"):
				kind = "token"
			case !strings.HasSuffix(s, "="):
				kind = "hex"
			}
			seen[s] = fmt.Sprintf("<%s %d>", kind, len(seen)+1)
		}
		return seen[s]
	})
}
