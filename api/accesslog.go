package api

import (
	"context"
	"strconv"
	"time"

	"gatecontrol/model"
	"gatecontrol/telemetry"
)

type accessQuery struct {
	Page      int    `query:"page" default:"1" min:"1"`
	Limit     int    `query:"limit" default:"50" min:"1" max:"100"`
	Offset    string `query:"offset" doc:"Instead of page"`
	Domain    string `query:"domain" doc:"Part of the host, in any case"`
	Status    int    `query:"status" doc:"From 100 on: any status of the same hundred"`
	Method    string `query:"method"`
	RequestID string `query:"request_id" doc:"As error pages show it"`
}

type accessView struct {
	Timestamp string        `json:"timestamp" format:"date-time"`
	RequestID string        `json:"request_id"`
	Method    string        `json:"method"`
	Host      string        `json:"host"`
	URI       string        `json:"uri" doc:"Path and query, secrets masked"`
	Proto     string        `json:"proto"`
	Status    int           `json:"status" doc:"444: ended without an answer; 499: the client left first"`
	Duration  int64         `json:"duration" doc:"Milliseconds until the answer had ended"`
	Size      int64         `json:"size" doc:"Bytes of the answer's body"`
	RemoteIP  string        `json:"remote_ip"`
	UserAgent string        `json:"user_agent"`
	RouteID   model.RouteID `json:"route_id,omitempty"`
	Upstream  string        `json:"upstream,omitempty" doc:"The backend that was asked"`
	Refused   string        `json:"refused,omitempty" doc:"The step that refused the request"`
	Reason    string        `json:"reason,omitempty"`
	Cut       string        `json:"cut,omitempty" doc:"By whom the answer was ended early: client, backend or proxy"`
}

type accessAnswer struct {
	OK         ok           `json:"ok"`
	Entries    []accessView `json:"entries"`
	Total      int          `json:"total"`
	Page       int          `json:"page"`
	Limit      int          `json:"limit"`
	TotalPages int          `json:"totalPages"`
}

func (s *Server) listAccess(_ context.Context, _ *request, in *accessQuery) (accessAnswer, error) {
	q := telemetry.AccessQuery{ID: in.RequestID, Host: in.Domain, Method: in.Method}
	if in.Status >= 100 {
		q.Status = in.Status
	}
	offset := (in.Page - 1) * in.Limit
	if n, err := strconv.ParseUint(in.Offset, 10, 31); err == nil {
		offset = int(n)
	}
	list, total, err := s.AccessLog(q, in.Limit, offset)
	if err != nil {
		return accessAnswer{}, err
	}
	a := accessAnswer{
		Entries: make([]accessView, len(list)), Total: total, Page: offset/in.Limit + 1, Limit: in.Limit,
		TotalPages: (total + in.Limit - 1) / in.Limit,
	}
	for i := range list {
		e := &list[i]
		a.Entries[i] = accessView{
			Timestamp: iso(e.At), RequestID: e.ID, Method: e.Method, Host: e.Host, URI: e.URI, Proto: e.Proto, Status: e.Status,
			Duration: e.Duration.Round(time.Millisecond).Milliseconds(), Size: e.Size, RemoteIP: e.Remote, UserAgent: e.Agent,
			RouteID: e.Route, Upstream: e.Upstream, Refused: e.Refused, Reason: e.Reason, Cut: e.Cut,
		}
	}
	return a, nil
}

type traceQuery struct {
	ID    model.RouteID `path:"id"`
	Limit int           `query:"limit" default:"50" min:"1" max:"200"`
	Since string        `query:"since" doc:"A timestamp of an entry: newer ones alone"`
}

type traceView struct {
	Timestamp string `json:"timestamp" format:"date-time"`
	RequestID string `json:"request_id"`
	Method    string `json:"method"`
	URI       string `json:"uri" doc:"Path and query as received, secrets masked"`
	RemoteIP  string `json:"remote_ip"`
	Host      string `json:"host"`
	UserAgent string `json:"user_agent"`
	Status    *int   `json:"status,omitempty" doc:"Missing while the request runs"`
	Size      *int64 `json:"response_size,omitempty" doc:"Missing while the request runs"`
	Refused   string `json:"refused,omitempty" doc:"The step that refused the request"`
}

type traceAnswer struct {
	OK   ok        `json:"ok"`
	Data traceData `json:"data"`
}

type traceData struct {
	Entries []traceView `json:"entries"`
	Kept    int         `json:"kept" doc:"Entries there are, listed or not: 256 at most"`
	Dropped int64       `json:"dropped" doc:"Entries forgotten early since tracing was switched on, since all routes together kept too much"`
}

func (s *Server) traceRoute(ctx context.Context, _ *request, in *traceQuery) (traceAnswer, error) {
	if _, err := s.Routes.Get(ctx, in.ID); err != nil {
		return traceAnswer{}, err
	}
	var bad model.Invalids
	since := instant("since", in.Since, false, &bad)
	if err := bad.Err(); err != nil {
		return traceAnswer{}, err
	}
	trace := s.Trace(in.ID, in.Limit, since)
	list := trace.Entries
	entries := make([]traceView, len(list))
	for i := range list {
		e := &list[i]
		entries[i] = traceView{
			Timestamp: iso(e.At), RequestID: e.ID, Method: e.Method, URI: e.URI, RemoteIP: e.Remote.String(), Host: e.Host,
			UserAgent: e.UserAgent, Refused: e.Refused,
		}
		if e.Status != 0 {
			entries[i].Status, entries[i].Size = &e.Status, &e.Size
		}
	}
	return traceAnswer{Data: traceData{Entries: entries, Kept: trace.Kept, Dropped: trace.Dropped}}, nil
}
