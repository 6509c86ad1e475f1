package api

import (
	"context"
	"net/netip"
	"strings"

	"gatecontrol/model"
)

type explainRequest struct {
	Body explainInput
}

type explainInput struct {
	URL     model.Field[string] `json:"url" doc:"Absolute, http or https"`
	Address model.Field[string] `json:"address" doc:"That the connection comes from"`
	Method  model.Field[string] `json:"method" doc:"GET without it"`
	Headers []model.HeaderField `json:"headers" doc:"Fields of the request; without Host that of the URL"`

	Certificate    model.Field[string] `json:"client_certificate" doc:"PEM, that of the client first: what it shows if it is asked to"`
	HasCertificate model.Field[bool]   `json:"client_certificate_valid" doc:"Instead: the client has one that is in order"`
}

type explainAnswer struct {
	OK      ok                  `json:"ok"`
	RouteID *model.RouteID      `json:"route_id" doc:"null: no route, or the administration"`
	Host    *string             `json:"host" doc:"Of what matched; null: nothing did"`
	Admin   bool                `json:"admin" doc:"The administration matched"`
	Steps   []explainedStepView `json:"steps" doc:"In their order; those behind one that refuses are asked all the same"`
	Refused *string             `json:"refused_by" doc:"The first step that refuses; null: the backend is asked"`
	Status  *int                `json:"status" doc:"Of the answer, 444 if the connection ends without one; null: the backend decides"`
	Targets []explainTargetView `json:"targets" doc:"Backends that may get the request, if no step refuses"`
	Head    *string             `json:"head" doc:"What the backend would get before the body; null: the proxy answers in any case"`
}

type explainedStepView struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict" enum:"pass,refuse"`
	Status  *int   `json:"status,omitempty" doc:"Of the refusal"`
	Reason  string `json:"reason"`
}

type explainTargetView struct {
	Address string  `json:"address"`
	Peer    *string `json:"peer"`
	TLS     bool    `json:"tls"`
}

// explainRoute asks the proxy what it would do with a request. Nothing is sent.
func (s *Server) explainRoute(_ context.Context, _ *request, in *explainRequest) (explainAnswer, error) {
	b := &in.Body
	addr, err := netip.ParseAddr(strings.TrimSpace(b.Address.Value))
	var bad model.Invalids
	if err != nil || addr.Zone() != "" {
		bad.Add("address", "must be an IP address")
	}
	if strings.TrimSpace(b.URL.Value) == "" {
		bad.Add("url", "must be an absolute URL, http or https")
	}
	if err := bad.Err(); err != nil {
		return explainAnswer{}, err
	}
	e, err := s.Explain(model.ExplainRequest{
		URL: strings.TrimSpace(b.URL.Value), Method: b.Method.Value, Address: addr, Headers: b.Headers,
		ClientCertificate: b.Certificate.Value, HasCertificate: b.HasCertificate.Value,
	})
	if err != nil {
		return explainAnswer{}, err
	}
	a := explainAnswer{
		Host: orNull(e.Host), Admin: e.Admin, Refused: orNull(e.Refused), Head: orNull(e.Head),
		Steps: make([]explainedStepView, len(e.Steps)), Targets: make([]explainTargetView, len(e.Targets)),
	}
	if e.Route != 0 {
		a.RouteID = &e.Route
	}
	if e.Status != 0 {
		a.Status = &e.Status
	}
	for i := range e.Steps {
		st := &e.Steps[i]
		a.Steps[i] = explainedStepView{Name: st.Name, Verdict: "pass", Reason: st.Reason}
		if !st.Passes {
			a.Steps[i].Verdict, a.Steps[i].Status = "refuse", &st.Status
		}
	}
	for i, t := range e.Targets {
		a.Targets[i] = explainTargetView{Address: t.Addr.String(), Peer: orNull(t.Peer), TLS: t.TLS}
	}
	return a, nil
}
