package app

import (
	"gatecontrol/model"
	"gatecontrol/telemetry"
)

// newAccessLog makes the access log and returns what writes to it, nil if it is
// off. It is opened with the first request.
func (a *App) newAccessLog() (record func(*model.AccessRecord), err error) {
	path := a.options.accessLog()
	if path == "" {
		return nil, nil
	}
	a.access, err = telemetry.NewAccessLog(telemetry.AccessLogOptions{Path: path, Log: a.log.With("part", "access")})
	if err != nil {
		return nil, err
	}
	return a.access.Record, nil
}

// accessEntries searches the access log; one that is off is empty.
func (a *App) accessEntries(q telemetry.AccessQuery, limit, offset int) ([]telemetry.AccessEntry, int, error) {
	if a.access == nil {
		return nil, 0, nil
	}
	return a.access.List(q, limit, offset)
}
