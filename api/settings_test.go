package api

import (
	"strings"
	"testing"
)

// TestExitSettingAnswers compares every answer about the exit with a file each.
func TestExitSettingAnswers(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, c := range []struct {
		name, method, body string
		status             int
	}{
		{"exit", "GET", ``, 200},
		{"exit-changed", "PUT", `{"enabled":"0","private_networks":["fd12::/48","10.1.2.3/16"],"redirect_dns":1}`, 200},
		{"exit-after", "GET", ``, 200},
		{"exit-invalid", "PUT", `{"private_networks":"everything"}`, 400},
		{"exit-too-many", "PUT", `{"private_networks":"` + strings.Repeat("10.0.0.0/8,", 1000) + `"}`, 400},
		{"exit-unreadable", "PUT", `{"enabled":[],"redirect_dns":"x","private_networks":7.5}`, 400},
		{"exit-changed", "PUT", `{"enabled":null,"private_networks":null,"redirect_dns":null}`, 200},
		{"exit", "GET", ``, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := admin.do(c.method, "/api/v1/settings/exit", c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			golden(t, c.name, steady(w.Body.String()))
		})
	}
}

// TestMonitoringSettingAnswers compares every answer about monitoring with a file each.
func TestMonitoringSettingAnswers(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	for _, c := range []struct {
		name, method, body string
		status             int
	}{
		{"monitoring", "GET", ``, 200},
		{"monitoring-changed", "PUT", `{"interval":30,"emailAlerts":false,"alertEmail":"anna@example.com"}`, 200},
		{"monitoring-after", "GET", ``, 200},
		{"monitoring-invalid", "PUT", `{"interval":5,"email_alerts":true,"alert_email":"nobody"}`, 400},
		{"monitoring-unreadable", "PUT", `{"interval":"soon","email_alerts":"perhaps"}`, 400},
		{"monitoring-changed", "PUT", `{"interval":null,"alert_email":null}`, 200},
		{"monitoring", "GET", ``, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := admin.do(c.method, "/api/v1/settings/monitoring", c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			golden(t, c.name, steady(w.Body.String()))
		})
	}
}
