package model

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Severity of an event.
type Severity string

// The severities, as the activity log shows them.
const (
	SeverityInfo    Severity = "info"
	SeveritySuccess Severity = "success"
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error"
)

// Event is one line of the activity log.
type Event struct {
	ID       EventID         `json:"id"`
	Type     string          `json:"type"` // event_type of the contract, e.g. "peer_created"
	Message  string          `json:"message"`
	Details  json.RawMessage `json:"details,omitempty"` // a JSON object
	Source   string          `json:"source"`            // admin, system, wireguard, monitor, api, user
	Addr     netip.Addr      `json:"addr"`              // of the actor; may be invalid
	Severity Severity        `json:"severity"`
	At       time.Time       `json:"at"`
}
