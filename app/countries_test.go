package app_test

import (
	"path/filepath"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestCountryRules asks about clients whose country a local database knows, and
// once more without the database.
func TestCountryRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "country.mmdb")
	countryFile(t, path, networks)
	for _, tt := range []struct {
		name, path, mode string
		british, unknown bool // pass
	}{
		{"whitelist", path, "whitelist", true, false},
		{"blacklist", path, "blacklist", false, false},
		{"whitelist without a database", "", "whitelist", false, false},
		{"blacklist without a database", "", "blacklist", false, false},
		{"blacklist with a file that is missing", path + ".none", "blacklist", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lab.Start(t, func(o *app.Options) { o.GeoIPDB = tt.path })
			id, _ := s.Peer(t, "nas")
			s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
				"domain": "app.example.com", "peer_id": id, "target_port": 8000,
				"ip_filter_enabled": true, "ip_filter_mode": tt.mode, "ip_filter_rules": []map[string]any{{"type": "country", "value": "gb"}},
			}, nil)
			for addr, passes := range map[string]bool{"81.2.69.160": tt.british, "203.0.113.9": tt.unknown} {
				var a struct {
					RefusedBy *string `json:"refused_by"`
				}
				s.API.Call(t, 200, "POST", "/api/v1/routes/explain", map[string]any{"url": "https://app.example.com/", "address": addr}, &a)
				if (a.RefusedBy == nil) != passes || a.RefusedBy != nil && *a.RefusedBy != "ip_filter" {
					t.Errorf("%s: refused by %v, want it to pass: %v", addr, a.RefusedBy, passes)
				}
			}
		})
	}
}
