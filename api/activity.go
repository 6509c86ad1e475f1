package api

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
)

type eventView struct {
	ID        model.EventID   `json:"id"`
	Type      string          `json:"event_type"`
	Message   string          `json:"message"`
	Details   json.RawMessage `json:"details"`
	Source    string          `json:"source"`
	Addr      *string         `json:"ip_address"`
	Severity  model.Severity  `json:"severity"`
	CreatedAt string          `json:"created_at"`
	Color     string          `json:"color" enum:"blue,green,amber,red"`
}

func viewEvents(list []*model.Event) []eventView {
	out := make([]eventView, len(list))
	for i, e := range list {
		v := eventView{
			ID: e.ID, Type: e.Type, Message: e.Message, Details: e.Details, Source: e.Source,
			Severity: e.Severity, CreatedAt: dt(e.At), Color: color(e.Severity),
		}
		if e.Addr.IsValid() {
			v.Addr = orNull(e.Addr.String())
		}
		if len(v.Details) == 0 {
			v.Details = json.RawMessage("null")
		}
		out[i] = v
	}
	return out
}

func color(s model.Severity) string {
	switch s {
	case model.SeveritySuccess:
		return "green"
	case model.SeverityWarning:
		return "amber"
	case model.SeverityError:
		return "red"
	}
	return "blue"
}

type activityQuery struct {
	Limit    int    `query:"limit" default:"50" min:"1" max:"100"`
	Page     int    `query:"page" default:"1" min:"1" max:"1000000" doc:"From 1; offset wins"`
	Offset   string `query:"offset"`
	Severity string `query:"severity"`
	Source   string `query:"source"`
	Type     string `query:"event_type"`
	Since    string `query:"since" doc:"ISO date or time, or milliseconds since 1970"`
	Until    string `query:"until" doc:"The same; a date includes its whole day"`
}

type activityAnswer struct {
	OK         ok          `json:"ok"`
	Entries    []eventView `json:"entries"`
	Total      int         `json:"total"`
	Page       int         `json:"page"`
	Limit      int         `json:"limit"`
	TotalPages int         `json:"totalPages"`
}

func (s *Server) listActivity(_ context.Context, _ *request, in *activityQuery) (activityAnswer, error) {
	f := events.Filter{Severity: model.Severity(in.Severity), Source: in.Source, Type: in.Type}
	var bad model.Invalids
	f.Since = instant("since", in.Since, false, &bad)
	f.Until = instant("until", in.Until, true, &bad)
	if err := bad.Err(); err != nil {
		return activityAnswer{}, err
	}
	offset := (in.Page - 1) * in.Limit
	if n, err := strconv.ParseUint(in.Offset, 10, 31); err == nil {
		offset = int(n)
	}
	list, total, err := s.Events.List(f, in.Limit, offset)
	if err != nil {
		return activityAnswer{}, err
	}
	return activityAnswer{
		Entries: viewEvents(list), Total: total, Page: offset/in.Limit + 1, Limit: in.Limit,
		TotalPages: (total + in.Limit - 1) / in.Limit,
	}, nil
}

// instant reads a bound of a period. A date stands for its first moment, as the
// end of a period for the first one after it.
func instant(field, text string, end bool, bad *model.Invalids) time.Time {
	if text == "" {
		return time.Time{}
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		if end {
			day = day.AddDate(0, 0, 1)
		}
		return day
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms).UTC()
	}
	t, err := model.ParseExpiry(field, text)
	bad.AddError(err)
	return t
}

type recentQuery struct {
	Limit int `query:"limit" default:"6" min:"1" max:"20"`
}

type recentAnswer struct {
	OK      ok          `json:"ok"`
	Entries []eventView `json:"entries"`
}

func (s *Server) recentActivity(_ context.Context, _ *request, in *recentQuery) (recentAnswer, error) {
	list, _, err := s.Events.List(events.Filter{}, in.Limit, 0)
	return recentAnswer{Entries: viewEvents(list)}, err
}
