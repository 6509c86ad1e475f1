package settings

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func monitoringInput(t testing.TB, text string) (in MonitoringInput) {
	t.Helper()
	if err := in.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestMonitoring(t *testing.T) {
	s, db := newService(t)
	for _, step := range []struct {
		body, want string
		events     int // so far
		field      string
	}{
		{`{}`, "1m0s false ", 0, ""},
		{`{"interval":"10"}`, "10s false ", 1, ""},
		{`{"interval":10,"email_alerts":false,"alert_email":""}`, "10s false ", 1, ""},
		{`{"interval":9}`, "10s false ", 1, "interval"},
		{`{"interval":3601,"alert_email":"a@example.com"}`, "10s false ", 1, "interval"},
		{`{"interval":-1}`, "10s false ", 1, "interval"},
		{`{"email_alerts":true,"alert_email":"a@example.com","interval":60}`, "10s false ", 1, "email_alerts"},
		{`{"emailAlerts":"1"}`, "10s false ", 1, "emailAlerts"},
		{`{"alert_email":"nobody"}`, "10s false ", 1, "alert_email"},
		{`{"alertEmail":"A <a@example.com>"}`, "10s false ", 1, "alertEmail"},
		{`{"alertEmail":"a@example.com\r\nBcc: b@example.com"}`, "10s false ", 1, "alertEmail"},
		{`{"alertEmail":"a@example.com","alert_email":"b@example.com"}`, "10s false ", 1, "alertEmail"},
		{`{"alertEmail":" a@example.com ","emailAlerts":0}`, "10s false a@example.com", 2, ""},
		{`{"alert_email":"b@example.com","interval":3600}`, "1h0m0s false b@example.com", 3, ""},
		{`{"interval":null}`, "1m0s false b@example.com", 4, ""},
		{`{"alert_email":null}`, "1m0s false ", 5, ""},
	} {
		err := s.SetMonitoring(t.Context(), monitoringInput(t, step.body))
		if e, ok := errors.AsType[*model.Error](err); step.field == "" && err != nil || step.field != "" && (!ok || e.Kind != model.KindInvalid || e.Field != step.field) {
			t.Errorf("%s: %v", step.body, err)
		}
		m, err := s.Monitoring(t.Context())
		if got := fmt.Sprint(m.Interval, m.EmailAlerts, " ", m.AlertEmail); err != nil || got != step.want {
			t.Errorf("%s: %q, %v; want %q", step.body, got, err, step.want)
		}
		if err := db.View(func(tx *store.Tx) error {
			if n := store.Outbox.Len(tx); n != step.events {
				t.Errorf("%s: %d events", step.body, n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.View(func(tx *store.Tx) error {
		if n := store.Settings.Len(tx); n != 0 {
			t.Errorf("%d settings are stored after all went back", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var in MonitoringInput
	if err := in.UnmarshalJSON([]byte(`{"interval":"soon"}`)); err == nil {
		t.Error("taken")
	}
	if m, _ := s.Monitoring(t.Context()); m.Interval != time.Minute {
		t.Errorf("%+v", m)
	}
}
