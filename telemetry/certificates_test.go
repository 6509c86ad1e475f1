package telemetry

import (
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
)

func TestCertificateConditions(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name     string
		status   model.CertStatus
		code     string
		severity model.Severity
		says     []string
	}{
		{"never had", model.CertStatus{State: model.CertFailed, LastError: "NXDOMAIN", Advice: "Add a record.", Failures: 1},
			"certificate_missing", model.SeverityWarning, []string{"a.example.com", "NXDOMAIN. Add a record."}},
		{"not renewed", model.CertStatus{State: model.CertValid, LastError: "no way", Failures: 3, NotAfter: now.Add(5 * 24 * time.Hour)},
			"certificate_not_renewed", model.SeverityWarning, []string{"3 times", "5 days", "no way"}},
		{"over", model.CertStatus{State: model.CertFailed, Expired: true, LastError: "no way", Failures: 9, NotAfter: now.Add(-time.Hour)},
			"certificate_expired", model.SeverityError, []string{"expired"}},
		{"brought", model.CertStatus{State: model.CertUploaded, NotAfter: now.Add(24 * time.Hour)},
			"certificate_expires", model.SeverityWarning, []string{"2026-11-29", "Bring"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.status.Name, tt.status.Subject = "a.example.com", "a.example.com"
			list := CertificateConditions(func() []model.CertStatus { return []model.CertStatus{tt.status, tt.status} }, func() time.Time { return now })()
			if len(list) != 1 || list[0].Code != tt.code || list[0].Severity != tt.severity || list[0].Subject != "a.example.com" {
				t.Fatalf("%+v", list)
			}
			for _, s := range tt.says {
				if !strings.Contains(list[0].Text, s) {
					t.Errorf("%q does not say %q", list[0].Text, s)
				}
			}
		})
	}
	// Two names that share a wildcard are one condition.
	shared := []model.CertStatus{{Name: "a.example.com", Subject: "*.example.com"}, {Name: "b.example.com", Subject: "*.example.com"}}
	if list := CertificateConditions(func() []model.CertStatus { return shared }, time.Now)(); len(list) != 1 || list[0].Subject != "*.example.com" {
		t.Errorf("%+v", list)
	}
}
