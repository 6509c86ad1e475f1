package settings

import (
	"context"
	"strconv"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Metrics reports whether the metrics may be read at all.
func (s *Service) Metrics(context.Context) (on bool, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		on, err = metrics(tx)
		return err
	})
	return on, err
}

func metrics(tx *store.Tx) (bool, error) {
	row, err := store.Settings.Get(tx, model.MetricsKey)
	if err != nil || row == nil {
		return false, err
	}
	on, err := strconv.ParseBool(row.Value)
	return err == nil && on, nil
}

// MetricsInput is what a caller asks for of it. What is absent stays; null is off.
type MetricsInput struct {
	Enabled model.Field[bool] `json:"enabled" doc:"GET /metrics answers"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *MetricsInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// SetMetrics changes it.
func (s *Service) SetMetrics(ctx context.Context, in MetricsInput) error {
	if !in.Enabled.Set {
		return nil
	}
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		was, err := metrics(tx)
		if err != nil || was == in.Enabled.Value {
			return err
		}
		if in.Enabled.Value {
			err = store.Settings.Put(tx, &store.Setting{Key: model.MetricsKey, Value: "true"})
		} else {
			_, err = store.Settings.Delete(tx, model.MetricsKey)
		}
		if err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{Type: "metrics_settings_updated", Message: "whether metrics can be read was changed"})
	})
}
