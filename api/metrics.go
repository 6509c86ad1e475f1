package api

import (
	"context"
	"time"

	"gatecontrol/control/routes"
	"gatecontrol/control/settings"
	"gatecontrol/model"
	"gatecontrol/telemetry"
)

const (
	metricsPath = "/metrics"
	// metricsLimit is how often one login or token may read them in a minute.
	metricsLimit = 60
)

type metricsView struct {
	Enabled bool `json:"enabled" doc:"GET /metrics answers"`
}

type metricsSettings struct {
	OK   ok          `json:"ok"`
	Data metricsView `json:"data"`
}

func (s *Server) getMetricsSettings(ctx context.Context, _ *request, _ *none) (metricsSettings, error) {
	on, err := s.Settings.Metrics(ctx)
	return metricsSettings{Data: metricsView{on}}, err
}

type metricsChange struct {
	Body settings.MetricsInput
}

func (s *Server) setMetricsSettings(ctx context.Context, _ *request, in *metricsChange) (done, error) {
	return done{}, s.Settings.SetMetrics(ctx, in.Body)
}

// metrics are for Prometheus.
func (s *Server) metrics(ctx context.Context, _ *request, _ *none) (responder, error) {
	list := []telemetry.Metric{
		telemetry.Gauge("gatecontrol_uptime_seconds", "Since the start of this process.", s.now().Sub(s.started).Round(time.Millisecond).Seconds()),
	}
	list, err := s.peerMetrics(ctx, list)
	if err != nil {
		return nil, err
	}
	_, total, err := s.Routes.List(ctx, "", 1, 0)
	if err != nil {
		return nil, err
	}
	monitored, err := s.Routes.Monitored(ctx)
	if err != nil {
		return nil, err
	}
	proxy := s.Proxy()
	list = append(list,
		telemetry.Gauge("gatecontrol_routes_total", "Routes.", float64(total)),
		telemetry.Gauge("gatecontrol_routes_active", "Routes that serve.", float64(proxy.HTTPRoutes+proxy.L4Routes)),
		monitoringMetric(monitored))
	return file{typ: telemetry.MetricsType, body: telemetry.AppendMetrics(nil, append(list, s.Metrics()...))}, nil
}

// monitoringMetric has one sample for each label of routes that were checked, in the
// order that these are in. Where several routes have one, as a domain and a port route
// beside it, it is up if all of them are.
func monitoringMetric(monitored []routes.Monitored) telemetry.Metric {
	m := telemetry.Metric{Name: "gatecontrol_route_monitoring_status", Help: "1 if the service behind a monitored route is up."}
	last := ""
	for _, r := range monitored {
		up := 0.0
		switch r.Status {
		case "":
			continue
		case model.StatusUp:
			up = 1
		}
		if n := len(m.Samples); n > 0 && r.Label == last {
			m.Samples[n-1].Value = min(m.Samples[n-1].Value, up)
			continue
		}
		last = r.Label
		m.Samples = append(m.Samples, telemetry.Sample{Labels: []telemetry.Label{{Name: "domain", Value: r.Label}}, Value: up})
	}
	return m
}

func (s *Server) peerMetrics(ctx context.Context, list []telemetry.Metric) ([]telemetry.Metric, error) {
	status := telemetry.Metric{Name: "gatecontrol_peer_status", Help: "1 if the peer is connected."}
	rx := telemetry.Metric{Name: "gatecontrol_peer_transfer_rx_bytes", Help: "Received from the peer since it was made."}
	tx := telemetry.Metric{Name: "gatecontrol_peer_transfer_tx_bytes", Help: "Sent to the peer since it was made."}
	var total, online, enabled int
	for {
		page, all, err := s.Peers.List(ctx, 0, total)
		if err != nil {
			return nil, err
		}
		for i := range page {
			p := &page[i]
			up := 0.0
			if p.Online {
				up = 1
				online++
			}
			if p.Enabled {
				enabled++
			}
			name := telemetry.Label{Name: "name", Value: p.Name}
			status.Samples = append(status.Samples, telemetry.Sample{Labels: []telemetry.Label{name, {Name: "ip", Value: p.Address().String()}}, Value: up})
			rx.Samples = append(rx.Samples, telemetry.Sample{Labels: []telemetry.Label{name}, Value: float64(p.Counters.TotalRx)})
			tx.Samples = append(tx.Samples, telemetry.Sample{Labels: []telemetry.Label{name}, Value: float64(p.Counters.TotalTx)})
		}
		if total += len(page); len(page) == 0 || total >= all {
			break
		}
	}
	return append(list,
		telemetry.Gauge("gatecontrol_peers_total", "Peers.", float64(total)),
		telemetry.Gauge("gatecontrol_peers_online", "Peers that are connected.", float64(online)),
		telemetry.Gauge("gatecontrol_peers_enabled", "Peers that may connect.", float64(enabled)),
		status, rx, tx), nil
}
