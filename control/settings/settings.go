// Package settings decides about what an administrator can change while the
// server runs and that is of no single peer or route. A section is read and
// changed as a whole; what nobody has changed is as the environment has it. Of
// ours it imports model, store and control/events.
package settings

import (
	"context"
	"strconv"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Options are what a Service needs.
type Options struct {
	DB   *store.DB
	Now  func() time.Time
	Exit model.Exit // where nothing is stored
}

// Service reads and changes settings. Its methods may be called from any
// goroutine; a change that returned nil is live.
type Service struct{ o Options }

// New returns a service.
func New(o Options) *Service { return &Service{o} }

// Exit returns the section about the exit.
func (s *Service) Exit(ctx context.Context) (e model.Exit, err error) {
	e = s.o.Exit
	err = s.o.DB.View(func(tx *store.Tx) error {
		for _, key := range model.ExitKeys() {
			row, err := store.Settings.Get(tx, key)
			if err != nil {
				return err
			}
			if row != nil {
				e = e.With(row.Key, row.Value)
			}
		}
		return nil
	})
	return e, err
}

// ExitInput is what a caller asks for of the exit. What is absent stays, and null
// goes back to what the environment has.
type ExitInput struct {
	Enabled         model.Field[bool]   `json:"enabled" doc:"Peers may reach the internet through this server"`
	PrivateNetworks model.Field[string] `json:"private_networks" join:"," doc:"Private networks that they may reach, at most 64: an array, or a text with commas"`
	RedirectDNS     model.Field[bool]   `json:"redirect_dns" doc:"Questions to other resolvers are answered by the resolver of the tunnel"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *ExitInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// SetExit changes the section about the exit. Its error is of KindInvalid for a
// network that is none.
func (s *Service) SetExit(ctx context.Context, in ExitInput) error {
	networks, err := model.ParseNetworks("private_networks", in.PrivateNetworks.Value)
	if err != nil {
		return err
	}
	if !in.Enabled.Set && !in.PrivateNetworks.Set && !in.RedirectDNS.Set {
		return nil
	}
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for _, row := range []struct {
			set, null  bool
			key, value string
		}{
			{in.Enabled.Set, in.Enabled.Null, model.ExitEnabledKey, strconv.FormatBool(in.Enabled.Value)},
			{in.PrivateNetworks.Set, in.PrivateNetworks.Null, model.ExitPrivateKey, model.JoinNetworks(networks)},
			{in.RedirectDNS.Set, in.RedirectDNS.Null, model.ExitRedirectKey, strconv.FormatBool(in.RedirectDNS.Value)},
		} {
			var err error
			switch {
			case row.set && row.null:
				_, err = store.Settings.Delete(tx, row.key)
			case row.set:
				err = store.Settings.Put(tx, &store.Setting{Key: row.key, Value: row.value})
			}
			if err != nil {
				return err
			}
		}
		return events.Append(ctx, tx, now, events.Entry{Type: "exit_settings_updated", Message: "the settings of the exit were changed"})
	})
}
