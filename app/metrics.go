package app

import "gatecontrol/telemetry"

// metrics are those of the proxy. Their labels are words of this program, so their
// number does not depend on who comes.
func (a *App) metrics() []telemetry.Metric {
	c := a.proxy.Counts()
	const proxy = "gatecontrol_proxy_"
	return []telemetry.Metric{
		telemetry.Gauge(proxy+"connections", "Open connections of clients and to backends.", float64(c.Connections)),
		telemetry.Gauge(proxy+"client_addresses", "Addresses that have a connection; of IPv6, networks.", float64(c.Clients)),
		telemetry.Gauge(proxy+"upgrades", "Open WebSockets and the like.", float64(c.Upgrades)),
		telemetry.Gauge(proxy+"encoders", "Answers that are being compressed.", float64(c.Encoders)),
		telemetry.Gauge(proxy+"trace_bytes", "Memory that traces of requests take.", float64(c.TraceBytes)),
		telemetry.ByLabel(proxy+"requests_refused_total", "Requests that a step of the pipeline refused.", true, "step", c.Refused),
		telemetry.ByLabel(proxy+"limit_hits_total", "What was turned away, or had to go without, at a bound of the server.", true, "limit", c.Limits),
		telemetry.ByLabel(proxy+"mirror_copies_total", "Copies of requests for mirrors.", true, "result", map[string]int64{
			"sent": c.Mirrors.Sent, "failed": c.Mirrors.Failed, "dropped": c.Mirrors.Dropped}),
		telemetry.ByLabel(proxy+"windows", "Clients that a table keeps apart.", false, "table", c.Windows),
		telemetry.ByLabel(proxy+"windows_forgotten_total", "Busy clients that began anew since a table was full.", true, "table", c.Forgotten),
	}
}
