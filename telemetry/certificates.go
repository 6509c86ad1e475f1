package telemetry

import (
	"fmt"
	"time"

	"gatecontrol/model"
)

// CertificateConditions tells of the certificates that status finds in trouble.
// Names that share one are one condition, under the name of that.
func CertificateConditions(status func() []model.CertStatus, now func() time.Time) func() []Condition {
	return func() []Condition {
		var list []Condition
		seen := make(map[string]bool)
		for _, st := range status() {
			if seen[st.Subject] {
				continue
			}
			seen[st.Subject] = true
			list = append(list, certificateCondition(&st, now()))
		}
		return list
	}
}

func certificateCondition(st *model.CertStatus, now time.Time) Condition {
	c := Condition{Subject: st.Subject, Severity: model.SeverityWarning}
	left := st.NotAfter.Sub(now)
	switch {
	case st.State == model.CertUploaded:
		c.Code = "certificate_expires"
		c.Text = fmt.Sprintf("The certificate that was brought for %s ends on %s. Bring the next one.", st.Subject, st.NotAfter.UTC().Format(time.DateOnly))
	case st.State == model.CertValid:
		c.Code = "certificate_not_renewed"
		c.Text = fmt.Sprintf("The certificate for %s could not be renewed %s and ends in %s: %s", st.Subject, times(st.Failures), span(left), told(st))
	case st.State == model.CertFailed && st.Expired:
		c.Code, c.Severity = "certificate_expired", model.SeverityError
		c.Text = fmt.Sprintf("The certificate for %s has expired, and could not be renewed: %s", st.Subject, told(st))
	default:
		c.Code = "certificate_missing"
		c.Text = fmt.Sprintf("There is no public certificate for %s, so browsers warn: %s", st.Subject, told(st))
	}
	return c
}

func told(st *model.CertStatus) string {
	if st.Advice == "" {
		return st.LastError
	}
	return st.LastError + ". " + st.Advice
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// span is a time in the unit that people would use.
func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return fmt.Sprintf("%d hours", max(d/time.Hour, 0))
}
