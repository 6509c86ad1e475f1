package settings

import (
	"context"
	"net/mail"
	"strconv"
	"strings"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Monitoring returns how monitored routes are checked.
func (s *Service) Monitoring(context.Context) (m model.Monitoring, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		m, err = monitoring(tx)
		return err
	})
	return m, err
}

func monitoring(tx *store.Tx) (model.Monitoring, error) {
	m := model.DefaultMonitoring()
	for _, key := range model.MonitoringKeys() {
		row, err := store.Settings.Get(tx, key)
		if err != nil {
			return m, err
		}
		if row != nil {
			m = m.With(row.Key, row.Value)
		}
	}
	return m, nil
}

// MonitoringInput is what a caller asks for of it, in either spelling. What is absent
// stays; null goes back to the default.
type MonitoringInput struct {
	Interval     model.Field[int64]  `json:"interval" doc:"Seconds between two checks of a route, 10 to 3600"`
	Alerts       model.Field[bool]   `json:"email_alerts" doc:"Not offered yet: true is refused"`
	AlertsCamel  model.Field[bool]   `json:"emailAlerts" doc:"The same as email_alerts"`
	Address      model.Field[string] `json:"alert_email" doc:"Whom alerts would be sent to"`
	AddressCamel model.Field[string] `json:"alertEmail" doc:"The same as alert_email"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *MonitoringInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// noMail says why nobody can be told by mail: what is stored would have no effect.
const noMail = "this server does not send mail yet"

// maxEmail is the longest address in bytes.
const maxEmail = 255

// SetMonitoring changes it; the interval holds at once. Its error is of KindInvalid
// for what cannot be, and for mail, which this server does not send yet.
func (s *Service) SetMonitoring(ctx context.Context, in MonitoringInput) error {
	var bad model.Invalids
	interval := time.Duration(0)
	if in.Interval.Set && !in.Interval.Null {
		least, most := int64(model.MinMonitorInterval/time.Second), int64(model.MaxMonitorInterval/time.Second)
		if interval = time.Duration(in.Interval.Value) * time.Second; in.Interval.Value < least || in.Interval.Value > most {
			bad.Add("interval", "must be %d to %d seconds", least, most)
		}
	}
	address := in.Address
	if in.Alerts.Value {
		bad.Add("email_alerts", noMail)
	}
	if in.AlertsCamel.Value {
		bad.Add("emailAlerts", noMail)
	}
	name := "alert_email"
	if !address.Set {
		address, name = in.AddressCamel, "alertEmail"
	} else if in.AddressCamel.Set && in.AddressCamel.Value != address.Value {
		bad.Add("alertEmail", "is another one than alert_email")
	}
	address.Value = strings.TrimSpace(address.Value)
	if address.Value != "" && !isEmail(address.Value) {
		bad.Add(name, "must be an e-mail address")
	}
	if err := bad.Err(); err != nil {
		return err
	}
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		was, err := monitoring(tx)
		if err != nil {
			return err
		}
		m, def := was, model.DefaultMonitoring()
		if in.Interval.Set {
			if m.Interval = interval; interval == 0 {
				m.Interval = def.Interval
			}
		}
		if in.Alerts.Set || in.AlertsCamel.Set { // and not on
			m.EmailAlerts = false
		}
		if address.Set {
			m.AlertEmail = address.Value
		}
		if m == was {
			return nil
		}
		for _, row := range []struct{ key, value, def string }{
			{model.MonitorIntervalKey, seconds(m.Interval), seconds(def.Interval)},
			{model.MonitorAlertsKey, strconv.FormatBool(m.EmailAlerts), strconv.FormatBool(def.EmailAlerts)},
			{model.MonitorEmailKey, m.AlertEmail, def.AlertEmail},
		} {
			if row.value == row.def {
				_, err = store.Settings.Delete(tx, row.key)
			} else {
				err = store.Settings.Put(tx, &store.Setting{Key: row.key, Value: row.value})
			}
			if err != nil {
				return err
			}
		}
		return events.Append(ctx, tx, now, events.Entry{Type: "monitoring_settings_updated", Message: "the settings of monitoring were changed"})
	})
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// isEmail reports whether s is one address and nothing else.
func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && len(s) <= maxEmail
}
