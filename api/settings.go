package api

import (
	"context"
	"time"

	"gatecontrol/control/settings"
)

type exitView struct {
	Enabled         bool     `json:"enabled" doc:"Peers may reach the internet through this server"`
	PrivateNetworks []string `json:"private_networks" doc:"Private networks that they may reach"`
	RedirectDNS     bool     `json:"redirect_dns" doc:"Questions to other resolvers are answered by the resolver of the tunnel"`
}

type exitAnswer struct {
	OK   ok       `json:"ok"`
	Data exitView `json:"data"`
}

func (s *Server) getExit(ctx context.Context, _ *request, _ *none) (exitAnswer, error) {
	e, err := s.Settings.Exit(ctx)
	if err != nil {
		return exitAnswer{}, err
	}
	v := exitView{Enabled: e.Enabled, PrivateNetworks: make([]string, len(e.PrivateNetworks)), RedirectDNS: e.RedirectDNS}
	for i, p := range e.PrivateNetworks {
		v.PrivateNetworks[i] = p.String()
	}
	return exitAnswer{Data: v}, nil
}

type exitChange struct {
	Body settings.ExitInput
}

func (s *Server) setExit(ctx context.Context, _ *request, in *exitChange) (done, error) {
	return done{}, s.Settings.SetExit(ctx, in.Body)
}

type blockDefault struct {
	Action      string  `json:"action" doc:"not_found, custom, redirect or empty"`
	Body        *string `json:"body" doc:"HTML, for custom"`
	RedirectURL *string `json:"redirect_url" doc:"For redirect"`
}

type blockDefaultAnswer struct {
	OK   ok           `json:"ok"`
	Data blockDefault `json:"data"`
}

func (s *Server) getBlockDefault(ctx context.Context, _ *request, _ *none) (blockDefaultAnswer, error) {
	b, err := s.Settings.BlockDefault(ctx)
	return blockDefaultAnswer{Data: blockDefault{b.Action, orNull(b.Body), orNull(b.URL)}}, err
}

type blockDefaultChange struct {
	Body settings.BlockInput
}

func (s *Server) setBlockDefault(ctx context.Context, _ *request, in *blockDefaultChange) (done, error) {
	return done{}, s.Settings.SetBlockDefault(ctx, in.Body)
}

type monitoringView struct {
	Interval    int    `json:"interval" doc:"Seconds between two checks of a route"`
	Alerts      bool   `json:"emailAlerts"`
	AlertsSnake bool   `json:"email_alerts"`
	Email       string `json:"alertEmail"`
	EmailSnake  string `json:"alert_email"`
}

type monitoringAnswer struct {
	OK   ok             `json:"ok"`
	Data monitoringView `json:"data"`
}

func (s *Server) getMonitoring(ctx context.Context, _ *request, _ *none) (monitoringAnswer, error) {
	m, err := s.Settings.Monitoring(ctx)
	return monitoringAnswer{Data: monitoringView{int(m.Interval / time.Second), m.EmailAlerts, m.EmailAlerts, m.AlertEmail, m.AlertEmail}}, err
}

type monitoringChange struct {
	Body settings.MonitoringInput
}

func (s *Server) setMonitoring(ctx context.Context, _ *request, in *monitoringChange) (done, error) {
	return done{}, s.Settings.SetMonitoring(ctx, in.Body)
}
