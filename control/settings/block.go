package settings

import (
	"context"
	"strings"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// BlockDefault returns what strangers get of a route that is only for the tunnel
// and says nothing else of it.
func (s *Service) BlockDefault(ctx context.Context) (b model.BlockReply, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		b, err = blockDefault(tx)
		return err
	})
	return b, err
}

func blockDefault(tx *store.Tx) (model.BlockReply, error) {
	b := model.DefaultBlock()
	for _, key := range model.BlockKeys() {
		row, err := store.Settings.Get(tx, key)
		if err != nil {
			return b, err
		}
		if row != nil {
			b = b.With(row.Key, row.Value)
		}
	}
	return b, nil
}

// BlockInput is what a caller asks for of it. What is absent stays; null is
// not_found, no body and no URL.
type BlockInput struct {
	Action model.Field[string] `json:"action" doc:"not_found, custom, redirect or empty"`
	Body   model.Field[string] `json:"body" doc:"HTML, for custom"`
	URL    model.Field[string] `json:"redirect_url" doc:"For redirect"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *BlockInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// SetBlockDefault changes it. Its error is of KindInvalid for what cannot be
// answered.
func (s *Service) SetBlockDefault(ctx context.Context, in BlockInput) error {
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		was, err := blockDefault(tx)
		if err != nil {
			return err
		}
		b := was
		if in.Action.Set {
			b.Action = in.Action.Or(model.DefaultBlock().Action)
		}
		if in.Body.Set {
			b.Body = in.Body.Value
		}
		if in.URL.Set {
			b.URL = strings.TrimSpace(in.URL.Value)
		}
		var bad model.Invalids
		if b.Action == model.BlockInherit {
			bad.Add("action", "is what others inherit from")
		}
		b.Check("", &bad)
		if err := bad.Err(); err != nil {
			return err
		}
		if b == was {
			return nil
		}
		def := model.DefaultBlock()
		for _, row := range []struct{ key, value, def string }{
			{model.BlockActionKey, b.Action, def.Action}, {model.BlockBodyKey, b.Body, def.Body}, {model.BlockURLKey, b.URL, def.URL},
		} {
			if row.value == row.def {
				_, err = store.Settings.Delete(tx, row.key)
			} else {
				err = store.Settings.Put(tx, &store.Setting{Key: row.key, Value: row.value})
			}
			if err != nil {
				return err
			}
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "route_block_default_updated", Message: "what strangers get of routes for the tunnel was changed",
		})
	})
}
