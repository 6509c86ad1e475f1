package model

import (
	"strconv"
	"time"
)

// Monitoring is how monitored routes are checked, and who is told.
type Monitoring struct {
	Interval    time.Duration // whole seconds, MinMonitorInterval to MaxMonitorInterval
	EmailAlerts bool
	AlertEmail  string
}

// The bounds of Monitoring.Interval.
const (
	MinMonitorInterval = 10 * time.Second
	MaxMonitorInterval = time.Hour
)

// The settings that hold what of Monitoring was changed, as a backup spells them.
const (
	MonitorIntervalKey = "monitoring.interval" // seconds
	MonitorAlertsKey   = "monitoring.email_alerts"
	MonitorEmailKey    = "monitoring.alert_email"
)

// MonitoringKeys lists them.
func MonitoringKeys() []string {
	return []string{MonitorIntervalKey, MonitorAlertsKey, MonitorEmailKey}
}

// DefaultMonitoring is what holds where nothing is stored.
func DefaultMonitoring() Monitoring { return Monitoring{Interval: time.Minute} }

// With returns m with a stored setting. An interval that cannot be is not taken;
// other keys than MonitoringKeys change nothing.
func (m Monitoring) With(key, value string) Monitoring {
	switch key {
	case MonitorIntervalKey:
		n, err := strconv.ParseInt(value, 10, 32)
		if d := time.Duration(n) * time.Second; err == nil && d >= MinMonitorInterval && d <= MaxMonitorInterval {
			m.Interval = d
		}
	case MonitorAlertsKey:
		m.EmailAlerts = value == "true"
	case MonitorEmailKey:
		m.AlertEmail = value
	}
	return m
}
