package api

import (
	"context"

	"gatecontrol/model"
)

type conditionView struct {
	Code     string         `json:"code" doc:"Stable, such as peer_clock_behind"`
	Subject  string         `json:"subject,omitempty" doc:"The name of the peer or route that it is about"`
	PeerID   model.PeerID   `json:"peer_id,omitempty"`
	RouteID  model.RouteID  `json:"route_id,omitempty"`
	Severity model.Severity `json:"severity" enum:"warning,error"`
	Text     string         `json:"text" doc:"What it is and what to do, in plain words"`
	Since    string         `json:"since" format:"date-time"`
}

type conditionsAnswer struct {
	OK         ok              `json:"ok"`
	Conditions []conditionView `json:"conditions"`
}

// listConditions tells what lasts at the moment, what does not work first.
func (s *Server) listConditions(context.Context, *request, *none) (conditionsAnswer, error) {
	list := s.Conditions()
	a := conditionsAnswer{Conditions: make([]conditionView, len(list))}
	for i, c := range list {
		a.Conditions[i] = conditionView{
			Code: c.Code, Subject: c.Subject, PeerID: c.Peer, RouteID: c.Route, Severity: c.Severity, Text: c.Text, Since: iso(c.Since),
		}
	}
	return a, nil
}
