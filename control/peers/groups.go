package peers

import (
	"context"
	"errors"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// MaxGroups bounds the groups of one server. They are listed all at once: with
// the longest texts, a thousand are an answer of 2 MB.
const MaxGroups = 1000

// GroupInput is what a caller asks for of a group. CreateGroup needs Name;
// UpdateGroup leaves alone what is absent.
type GroupInput struct {
	Name        model.Field[string] `json:"name"`
	Color       model.Field[string] `json:"color" doc:"# and 3 to 8 hex digits; null is #6b7280"`
	Description model.Field[string] `json:"description"`
	Isolated    model.Field[bool]   `json:"isolated"`
	NoExit      model.Field[bool]   `json:"no_exit"`
}

// GroupView is a group and how many peers are in it.
type GroupView struct {
	model.Group
	Members int
}

// Groups returns every group in the order of their names.
func (s *Service) Groups(ctx context.Context) (list []GroupView, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		members := make(map[string]int)
		for group := range store.Peers.Entries(tx, "group", "") {
			members[group]++
		}
		for _, id := range store.Groups.Entries(tx, "name", "") {
			g, err := loadGroup(tx, id)
			if err != nil {
				return err
			}
			list = append(list, GroupView{*g, members[id.String()]})
		}
		return nil
	})
	return list, err
}

// CreateGroup adds a group. Kinds: KindInvalid with every field at fault;
// KindConflict for a name in use and where no place is left.
func (s *Service) CreateGroup(ctx context.Context, in GroupInput) (*model.Group, error) {
	in.Name.Set, in.Color.Set = true, true // without them, they are empty
	now := s.o.Now().UTC()
	g := &model.Group{CreatedAt: now}
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := in.apply(g); err != nil {
			return err
		}
		if store.Groups.Len(tx) >= MaxGroups {
			return model.Conflict("", "there are already %d groups, which is the most that one server takes", MaxGroups)
		}
		if err := putGroup(store.Groups.Insert(tx, g)); err != nil {
			return err
		}
		return groupEvent(ctx, tx, now, "created", model.SeveritySuccess, g)
	})
	return g, err
}

// UpdateGroup changes the fields of a group that in holds. Its switches hold for
// every member once it returns. Kinds are those of CreateGroup, and KindNotFound.
func (s *Service) UpdateGroup(ctx context.Context, id model.GroupID, in GroupInput) (g *model.Group, err error) {
	now := s.o.Now().UTC()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if g, err = loadGroup(tx, id); err != nil {
			return err
		}
		if err := in.apply(g); err != nil {
			return err
		}
		if err := putGroup(store.Groups.Put(tx, g)); err != nil {
			return err
		}
		return groupEvent(ctx, tx, now, "updated", model.SeverityInfo, g)
	})
	return g, err
}

// DeleteGroup removes a group. Its members are in none then.
func (s *Service) DeleteGroup(ctx context.Context, id model.GroupID) error {
	now := s.o.Now().UTC()
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		g, err := loadGroup(tx, id)
		if err != nil {
			return err
		}
		members, err := store.Peers.FindAll(tx, "group", id.String())
		if err != nil {
			return err
		}
		for _, p := range members {
			p.Group, p.UpdatedAt = 0, now
			if err := store.Peers.Put(tx, p); err != nil {
				return err
			}
		}
		if _, err := store.Groups.Delete(tx, id); err != nil {
			return err
		}
		return groupEvent(ctx, tx, now, "deleted", model.SeverityWarning, g)
	})
}

// apply puts into g what in holds, and returns every field at fault as one error.
func (in *GroupInput) apply(g *model.Group) error {
	var bad model.Invalids
	for _, text := range []struct {
		in    model.Field[string]
		parse func(string) (string, error)
		to    *string
	}{
		{in.Name, model.ParseGroupName, &g.Name},
		{in.Color, model.ParseGroupColor, &g.Color},
		{in.Description, model.ParseDescription, &g.Description},
	} {
		if text.in.Set {
			value, err := text.parse(text.in.Value)
			bad.AddError(err)
			*text.to = value
		}
	}
	if in.Isolated.Set {
		g.Isolated = in.Isolated.Value
	}
	if in.NoExit.Set {
		g.NoExit = in.NoExit.Value
	}
	return bad.Err()
}

func loadGroup(tx *store.Tx, id model.GroupID) (*model.Group, error) {
	g, err := store.Groups.Get(tx, id)
	if err == nil && g == nil {
		err = model.NotFound("group")
	}
	return g, err
}

// putGroup tells a name in use as such.
func putGroup(err error) error {
	if dup, ok := errors.AsType[*store.DuplicateError](err); ok {
		return model.Conflict("name", "another group has the name %q", dup.Key)
	}
	return err
}

// groupEvent tells what became of a group, and what its switches are, since they
// change what others may do.
func groupEvent(ctx context.Context, tx *store.Tx, now time.Time, what string, severity model.Severity, g *model.Group) error {
	return events.Append(ctx, tx, now, events.Entry{
		Type: "peer_group_" + what, Message: "group " + g.Name + " was " + what, Severity: severity,
		Details: map[string]any{"groupId": g.ID, "isolated": g.Isolated, "noExit": g.NoExit},
	})
}
