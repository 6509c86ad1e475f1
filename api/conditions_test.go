package api

import (
	"strings"
	"testing"

	"gatecontrol/model"
	"gatecontrol/telemetry"
)

func TestDashboardShowsConditions(t *testing.T) {
	f := newFixture(t)
	admin := f.admin(t)
	if body := admin.do("GET", "/dashboard", "").Body.String(); strings.Contains(body, "Needs attention") {
		t.Error("attention for nothing")
	}
	f.conditions = []telemetry.Condition{
		{Code: "tunnel_port_closed", Severity: model.SeverityError, Text: "The port is closed.", Since: start},
		{Code: "peer_unconfirmed", Subject: "<NAS>", Severity: model.SeverityWarning, Text: "Look for a firewall.", Since: start},
	}
	body := admin.do("GET", "/dashboard", "").Body.String()
	for _, want := range []string{"Needs attention", "Does not work:</span> The port is closed.", "<b>&lt;NAS&gt;</b> Look for a firewall.", "2026-05-01 12:00 UTC"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}
