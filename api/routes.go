package api

import (
	"context"

	"gatecontrol/control/routes"
	"gatecontrol/model"
)

type routesQuery struct {
	Limit  int    `query:"limit" default:"250" min:"1" max:"250"`
	Offset int    `query:"offset"`
	Type   string `query:"type" doc:"http or l4"`
}

type routesAnswer struct {
	OK     ok          `json:"ok"`
	Routes []routeView `json:"routes"`
	Limit  int         `json:"limit"`
	Offset int         `json:"offset"`
	Total  int         `json:"total"`
}

func (s *Server) listRoutes(ctx context.Context, _ *request, in *routesQuery) (routesAnswer, error) {
	list, total, err := s.Routes.List(ctx, in.Type, in.Limit, in.Offset)
	if err != nil {
		return routesAnswer{}, err
	}
	a := routesAnswer{Routes: make([]routeView, len(list)), Limit: in.Limit, Offset: in.Offset, Total: total}
	for i := range list {
		a.Routes[i] = viewRoute(&list[i])
	}
	return a, nil
}

type routeID struct {
	ID model.RouteID `path:"id"`
}

type routeAnswer struct {
	OK    ok        `json:"ok"`
	Route routeView `json:"route"`
}

func answerRoute(v routes.View, err error) (routeAnswer, error) {
	if err != nil {
		return routeAnswer{}, err
	}
	return routeAnswer{Route: viewRoute(&v)}, nil
}

func (s *Server) getRoute(ctx context.Context, _ *request, in *routeID) (routeAnswer, error) {
	return answerRoute(s.Routes.Get(ctx, in.ID))
}

type newRoute struct {
	Body routes.Input
}

func (s *Server) createRoute(ctx context.Context, _ *request, in *newRoute) (routeAnswer, error) {
	return answerRoute(s.Routes.Create(ctx, in.Body))
}

type routeChange struct {
	ID   model.RouteID `path:"id"`
	Body routes.Input
}

func (s *Server) updateRoute(ctx context.Context, _ *request, in *routeChange) (routeAnswer, error) {
	return answerRoute(s.Routes.Update(ctx, in.ID, in.Body))
}

func (s *Server) toggleRoute(ctx context.Context, _ *request, in *routeID) (routeAnswer, error) {
	return answerRoute(s.Routes.Toggle(ctx, in.ID))
}

type breakerAnswer struct {
	OK     ok     `json:"ok"`
	Status string `json:"status"`
}

func (s *Server) resetBreaker(ctx context.Context, _ *request, in *routeID) (breakerAnswer, error) {
	return breakerAnswer{Status: model.BreakerClosed}, s.Routes.ResetBreaker(ctx, in.ID)
}

type checkAnswer struct {
	OK           ok      `json:"ok"`
	Up           *bool   `json:"up" doc:"Null if it cannot be told, as of UDP"`
	ResponseTime *int64  `json:"responseTime" doc:"Milliseconds"`
	Status       *string `json:"status" doc:"up or down"`
	Changed      bool    `json:"changed" doc:"It was the other way before"`
	Reason       *string `json:"reason" doc:"Why it is not up"`
}

func (s *Server) checkRoute(ctx context.Context, _ *request, in *routeID) (checkAnswer, error) {
	c, err := s.Routes.Check(ctx, in.ID)
	a := checkAnswer{Status: orNull(c.Status), Changed: c.Changed, Reason: orNull(c.Reason)}
	if c.Status != "" {
		up, took := c.Status == model.StatusUp, c.Took.Milliseconds()
		a.Up, a.ResponseTime = &up, &took
	}
	return a, err
}

func (s *Server) deleteRoute(ctx context.Context, _ *request, in *routeID) (done, error) {
	return done{}, s.Routes.Delete(ctx, in.ID)
}

func (s *Server) batchRoutes(ctx context.Context, _ *request, in *batch) (batchAnswer, error) {
	n, err := s.Routes.Batch(ctx, in.Body.Action.Value, in.Body.IDs.Value)
	return batchAnswer{Affected: n}, err
}

type dnsInput struct {
	Body domainBody
}

// dnsAnswer tells everything twice, since GateControl's documents and GateControl
// itself call it differently.
type dnsAnswer struct {
	OK          ok       `json:"ok"`
	Matches     bool     `json:"matches" doc:"One of the addresses of the domain is this server's"`
	ResolvedIPs []string `json:"resolvedIps" doc:"Addresses of the domain, none if it leads nowhere"`
	ExpectedIP  *string  `json:"expectedIp" doc:"Address of this server, null where it is not known"`
	Resolves    bool     `json:"resolves" doc:"The same as matches"`
	Actual      []string `json:"actual" doc:"The same as resolvedIps"`
	Expected    *string  `json:"expected" doc:"The same as expectedIp"`
}

func (s *Server) checkDNS(ctx context.Context, _ *request, in *dnsInput) (dnsAnswer, error) {
	c, err := s.Routes.CheckDNS(ctx, in.Body.Domain.Value)
	if err != nil {
		return dnsAnswer{}, err
	}
	a := dnsAnswer{Matches: c.Matches, ResolvedIPs: make([]string, len(c.Addrs))}
	for i, addr := range c.Addrs {
		a.ResolvedIPs[i] = addr.String()
	}
	if c.Expected.IsValid() {
		text := c.Expected.String()
		a.ExpectedIP = &text
	}
	a.Resolves, a.Actual, a.Expected = a.Matches, a.ResolvedIPs, a.ExpectedIP
	return a, nil
}

type choicesQuery struct {
	Type string `query:"peer_type" doc:"regular or gateway"`
}

type peerChoice struct {
	ID        model.PeerID   `json:"id"`
	Name      string         `json:"name"`
	IP        string         `json:"ip"`
	Enabled   int01          `json:"enabled"`
	IsOnline  bool           `json:"isOnline"`
	PeerType  model.PeerType `json:"peer_type"`
	IsGateway bool           `json:"is_gateway"`
	GroupID   *model.GroupID `json:"group_id"`
	GroupName *string        `json:"group_name"`
	Hostname  *string        `json:"hostname"`
}

type choicesAnswer struct {
	OK    ok           `json:"ok"`
	Peers []peerChoice `json:"peers"`
}

func (s *Server) routePeers(ctx context.Context, _ *request, in *choicesQuery) (choicesAnswer, error) {
	list, err := s.Routes.Peers(ctx, in.Type)
	if err != nil {
		return choicesAnswer{}, err
	}
	a := choicesAnswer{Peers: make([]peerChoice, len(list))}
	for i := range list {
		p := &list[i]
		a.Peers[i] = peerChoice{
			ID: p.ID, Name: p.Name, IP: p.Addr.String(), Enabled: bit(p.Enabled), IsOnline: p.Online,
			PeerType: p.Type, IsGateway: p.Type == model.PeerGateway, GroupName: orNull(p.GroupName), Hostname: orNull(p.Hostname),
		}
		if p.Group != 0 {
			a.Peers[i].GroupID = &p.Group
		}
	}
	return a, nil
}
