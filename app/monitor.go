package app

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// buildMonitor makes what checks routes: as the proxy and the ports do, by dial.
func (a *App) buildMonitor(dial func(context.Context, string, netip.AddrPort) (net.Conn, error)) {
	a.monitor = telemetry.NewMonitor(telemetry.MonitorOptions{
		Log: a.log.With("part", "monitor"), Dial: dial, UserAgent: "GateControl-Monitor/" + productVersion(a.version),
		HTTPTimeout: a.options.MonitorHTTPTimeout.Duration(), TCPTimeout: a.options.MonitorTCPTimeout.Duration(),
		Begin: func(ctx context.Context, id model.RouteID) error { return a.routes.BeginCheck(ctx, id) },
		Observe: func(ctx context.Context, list []model.ProbeResult) ([]model.Checked, error) {
			return a.routes.EndChecks(ctx, list)
		},
	})
}

// productVersion is version as a product token has one (RFC 9110, section 10.1.5).
func productVersion(version string) string {
	version = strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.ContainsRune(".-_+", c) {
			return c
		}
		return -1
	}, version)
	if version == "" {
		return "dev"
	}
	return version
}
