package app

import (
	"net/netip"

	"gatecontrol/geoip"
	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// openCountries reads the database of countries and returns its lookup, nil if
// there is none.
func (a *App) openCountries() func(netip.Addr) (string, error) {
	if a.options.GeoIPDB == "" {
		return nil
	}
	a.countries = geoip.Open(a.options.GeoIPDB, a.log.With("part", "geoip"))
	return a.countries.Country
}

// countryConditions tells that the file is not in use.
func (a *App) countryConditions() []telemetry.Condition {
	err := a.countries.Err()
	if err == nil {
		return nil
	}
	c := telemetry.Condition{
		Code: "geoip_db_failed", Severity: model.SeverityWarning,
		Text: "The database of countries cannot be read; the one of before goes on. Put a good file at " + a.options.GeoIPDB + ".",
	}
	if !a.countries.Ready() {
		c.Severity = model.SeverityError
		c.Text = "The database of countries cannot be read, so routes with country rules refuse everyone whom no other rule lets in. Put a good file at " + a.options.GeoIPDB + "."
	}
	return []telemetry.Condition{c}
}
