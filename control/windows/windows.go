// Package windows decides about access windows: when routes and peers can be used.
// The planes go by the clock when they are told what to run, and Run has them told
// anew whenever that changes. Of ours it imports model, store and control/events.
package windows

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Options are what a Service needs.
type Options struct {
	DB  *store.DB
	Now func() time.Time // its location is that of all schedules
	Log *slog.Logger     // for Run; nil is silent
	// Count brings what peers have moved up to date, which the tunnel forgets of those
	// that leave it; nil: nobody counts.
	Count func()
}

// Service reads and changes windows. Its methods may be called from any goroutine; a
// change that returned nil is live.
type Service struct {
	o    Options
	wake chan struct{} // tells Run that there are other windows

	// Of the goroutine of Run, at the last look.
	closed   map[Target]bool // nil before the first one
	revision model.Revision
}

// New returns a service.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Count == nil {
		o.Count = func() {}
	}
	return &Service{o: o, wake: make(chan struct{}, 1)}
}

// Target is what has windows: a route or a peer, the other one is 0.
type Target struct {
	Route model.RouteID
	Peer  model.PeerID
}

// target is one as a transaction has it.
type target struct {
	windows *model.Windows
	enabled bool
	kind    string // "route" or "peer"
	name    string
	details map[string]any // for events
	put     func() error   // stores what windows points to
}

// load returns a target, or an error of KindNotFound.
func (t Target) load(tx *store.Tx) (*target, error) {
	if t.Peer != 0 {
		p, err := store.Peers.Get(tx, t.Peer)
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, model.NotFound("peer")
		}
		return &target{&p.Windows, p.Enabled, "peer", p.Name, map[string]any{"peerId": p.ID}, func() error { return store.Peers.Put(tx, p) }}, nil
	}
	r, err := store.Routes.Get(tx, t.Route)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, model.NotFound("route")
	}
	return &target{&r.Windows, r.Enabled, "route", r.Label(), map[string]any{"routeId": r.ID}, func() error { return store.Routes.Put(tx, r) }}, nil
}

// View are the windows of a target, and what they come to now.
type View struct {
	List []model.Window
	Open bool
	By   *model.Window // of List, the one that decided; nil: none
}

// List returns the windows of t. Its error is of KindNotFound if t is not there.
func (s *Service) List(_ context.Context, t Target) (v View, err error) {
	err = s.o.DB.View(func(tx *store.Tx) error {
		found, err := t.load(tx)
		if err != nil {
			return err
		}
		v.List = found.windows.List
		v.Open, v.By = found.windows.At(s.o.Now())
		return nil
	})
	return v, err
}

// Input is a window as a caller asks for it. Null is the same as absent.
type Input struct {
	Mode     model.Field[string] `json:"mode" doc:"allow or block; what blocks goes first"`
	Schedule model.Field[string] `json:"schedule" doc:"Entries such as Mon-Fri 09:00-17:00, with ; or lines between them, in the local time of the server"`
	From     model.Field[string] `json:"valid_from" doc:"First day on which it counts, such as 2026-01-31"`
	Until    model.Field[string] `json:"valid_until" doc:"Last day on which it counts"`
	Label    model.Field[string] `json:"label"`
}

// UnmarshalJSON reads a JSON object; its error is a model.Error that names every
// member at fault.
func (in *Input) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Input) window() (model.Window, error) {
	w := model.Window{
		Mode: strings.TrimSpace(in.Mode.Value), Schedule: strings.TrimSpace(in.Schedule.Value),
		From: strings.TrimSpace(in.From.Value), Until: strings.TrimSpace(in.Until.Value), Label: strings.TrimSpace(in.Label.Value),
	}
	_, err := w.Read()
	return w, err
}

// Add gives t one more window and returns its number. Kinds: KindInvalid with every
// field at fault, KindNotFound, KindConflict where no place is left.
func (s *Service) Add(ctx context.Context, t Target, in Input) (id model.WindowID, err error) {
	w, err := in.window()
	if err != nil {
		return 0, err
	}
	return id, s.change(ctx, t, func(ws *model.Windows) error {
		if len(ws.List) >= model.MaxWindows {
			return model.Conflict("", "there are already %d access windows, which is the most that one route or peer takes", model.MaxWindows)
		}
		ws.Last++
		w.ID, id = ws.Last, ws.Last
		ws.List = append(ws.List, w)
		return nil
	})
}

// Change replaces a window of t. Kinds: KindInvalid with every field at fault,
// KindNotFound also for a window of something else.
func (s *Service) Change(ctx context.Context, t Target, id model.WindowID, in Input) error {
	w, err := in.window()
	if err != nil {
		return err
	}
	return s.change(ctx, t, func(ws *model.Windows) error {
		i := indexOf(ws, id)
		if i < 0 {
			return model.NotFound("access window")
		}
		w.ID = id
		ws.List[i] = w
		return nil
	})
}

// Remove takes a window from t. Its error is of KindNotFound also for a window of
// something else.
func (s *Service) Remove(ctx context.Context, t Target, id model.WindowID) error {
	return s.change(ctx, t, func(ws *model.Windows) error {
		i := indexOf(ws, id)
		if i < 0 {
			return model.NotFound("access window")
		}
		ws.List = slices.Delete(ws.List, i, i+1)
		return nil
	})
}

func indexOf(ws *model.Windows, id model.WindowID) int {
	return slices.IndexFunc(ws.List, func(w model.Window) bool { return w.ID == id })
}

// change stores what f makes of the windows of t. The rest of the record is as it
// was, and so is the time of its last change: what is known of a service behind a
// route still holds.
func (s *Service) change(ctx context.Context, t Target, f func(*model.Windows) error) error {
	s.o.Count()
	now := s.o.Now().UTC()
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		found, err := t.load(tx)
		if err != nil {
			return err
		}
		if err := f(found.windows); err != nil {
			return err
		}
		if err := found.put(); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: found.kind + "_updated", Message: "the access windows of " + found.kind + " " + found.name + " were changed", Details: found.details,
		})
	})
	if err == nil {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return err
}

// retry is how long Run waits after something refused.
const retry = 5 * time.Second

// Run has the planes follow the clock until ctx ends. Schedules have whole minutes,
// so it looks once a minute, and sees then what a clock that was set or a restore has
// changed.
func (s *Service) Run(ctx context.Context) error {
	for {
		wait := retry
		if err := s.Look(ctx); err == nil {
			now := s.o.Now()
			wait = now.Truncate(time.Minute).Add(time.Minute).Sub(now)
		} else if ctx.Err() == nil {
			s.o.Log.Error("access windows cannot be followed", "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Look has the planes do what the clock says if that may be something else than what
// they do, and notes in the activity log who has opened and who has closed since the
// last look. The first look has nothing to compare with. It is for one goroutine,
// which is that of Run.
func (s *Service) Look(ctx context.Context) error {
	now := s.o.Now()
	seen, err := s.see(now)
	if err != nil {
		return err
	}
	turned := differing(s.closed, seen.closed)
	// A plan of since then was made by a clock that may have been another one.
	replanned := seen.any && (s.closed == nil || seen.revision != s.revision)
	if len(turned) > 0 || replanned {
		s.o.Count()
		if err := s.o.DB.Apply(ctx); err != nil { // before it is told: that may fail
			return err
		}
	}
	if s.closed != nil && len(turned) > 0 {
		if err := s.tell(ctx, now, turned, seen.closed); err != nil {
			return err
		}
	}
	s.closed, s.revision = seen.closed, seen.revision
	return nil
}

// sight is what a look sees.
type sight struct {
	closed   map[Target]bool // nobody may use them
	any      bool            // something has windows
	revision model.Revision
}

// differing returns what is in one of two sets, routes first.
func differing(a, b map[Target]bool) (list []Target) {
	for _, sets := range [][2]map[Target]bool{{a, b}, {b, a}} {
		for t := range sets[0] {
			if !sets[1][t] {
				list = append(list, t)
			}
		}
	}
	slices.SortFunc(list, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Route, b.Route))
	})
	return list
}

// see looks at everything that has windows. What cannot be read is left out, as it is
// by the planes.
func (s *Service) see(now time.Time) (seen sight, err error) {
	seen.closed = make(map[Target]bool)
	err = s.o.DB.View(func(tx *store.Tx) error {
		seen.revision = tx.Revision()
		add := func(t Target) {
			seen.any = true
			if found, err := t.load(tx); err == nil && !found.windows.Open(now) {
				seen.closed[t] = true
			}
		}
		for _, id := range store.Routes.Entries(tx, "windows", "") {
			add(Target{Route: id})
		}
		for _, id := range store.Peers.Entries(tx, "windows", "") {
			add(Target{Peer: id})
		}
		return nil
	})
	return seen, err
}

// tell appends the events of those that have turned. One that was deleted or disabled
// meanwhile has not.
func (s *Service) tell(ctx context.Context, now time.Time, turned []Target, closed map[Target]bool) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for _, t := range turned {
			found, err := t.load(tx)
			if err != nil || !found.enabled {
				continue
			}
			e := events.Entry{
				Type: "access_window_allowed", Message: found.kind + " " + found.name + " is open again by its access windows",
				Source: "system", Details: found.details,
			}
			if closed[t] {
				e.Type, e.Message = "access_window_denied", found.kind+" "+found.name+" is closed by its access windows"
				e.Severity = model.SeverityWarning
			}
			if err := events.Append(ctx, tx, now, e); err != nil {
				return err
			}
		}
		return nil
	})
}
