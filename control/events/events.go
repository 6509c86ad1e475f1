// Package events is the activity log. A change appends its event inside its own
// transaction, so that an event tells of a change that happened and no change
// goes untold; a drainer then moves events into the history file under the same
// number. Of ours it imports model and store.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

// Entry is what a change says of itself.
type Entry struct {
	Type     string // event name of the contract, e.g. "peer_created"
	Message  string
	Details  map[string]any // no secrets
	Source   string         // "": admin for a person or token, system for the server itself
	Severity model.Severity // "": info
}

// Append adds e to the activity log as part of tx. The actor and its address
// come from ctx.
func Append(ctx context.Context, tx *store.Tx, now time.Time, e Entry) error {
	actor := model.ActorFrom(ctx)
	ev := model.Event{
		Type: e.Type, Message: e.Message, Source: e.Source, Severity: e.Severity,
		Addr: actor.Addr.Unmap(), At: now.UTC(),
	}
	if ev.Severity == "" {
		ev.Severity = model.SeverityInfo
	}
	if ev.Source == "" {
		ev.Source = source(actor)
	}
	if len(e.Details) > 0 {
		raw, err := json.Marshal(e.Details)
		if err != nil {
			return fmt.Errorf("event %s: %w", e.Type, err)
		}
		ev.Details = raw
	}
	return store.Outbox.Insert(tx, &ev)
}

// source follows the contract's table: what administrators do is "admin", with
// a login as with a token.
func source(a model.Actor) string {
	if a.Session == nil && a.Token == nil {
		return "system"
	}
	return "admin"
}
