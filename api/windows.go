package api

import (
	"context"

	"gatecontrol/control/windows"
	"gatecontrol/model"
)

// windowView is an access window as the API shows one (contract-routes section 11.2).
type windowView struct {
	ID       model.WindowID `json:"id"`
	Mode     string         `json:"mode" enum:"allow,block"`
	Schedule string         `json:"schedule"`
	From     *string        `json:"valid_from"`
	Until    *string        `json:"valid_until"`
	Label    *string        `json:"label"`
}

func viewWindow(w *model.Window) windowView {
	return windowView{w.ID, w.Mode, w.Schedule, orNull(w.From), orNull(w.Until), orNull(w.Label)}
}

type windowsAnswer struct {
	OK    ok           `json:"ok"`
	Rules []windowView `json:"rules"`
	State string       `json:"state" enum:"allowed,denied" doc:"What the rules come to now"`
	Rule  *windowView  `json:"rule" doc:"The one that decides that; null: none does"`
}

func (s *Server) listWindows(ctx context.Context, t windows.Target) (windowsAnswer, error) {
	v, err := s.Windows.List(ctx, t)
	if err != nil {
		return windowsAnswer{}, err
	}
	a := windowsAnswer{Rules: make([]windowView, len(v.List)), State: "denied"}
	for i := range v.List {
		a.Rules[i] = viewWindow(&v.List[i])
	}
	if v.Open {
		a.State = "allowed"
	}
	if v.By != nil {
		by := viewWindow(v.By)
		a.Rule = &by
	}
	return a, nil
}

type windowAnswer struct {
	OK ok             `json:"ok"`
	ID model.WindowID `json:"id"`
}

func (s *Server) addWindow(ctx context.Context, t windows.Target, in windows.Input) (windowAnswer, error) {
	id, err := s.Windows.Add(ctx, t, in)
	return windowAnswer{ID: id}, err
}

// Of routes.

type newRouteWindow struct {
	ID   model.RouteID `path:"id"`
	Body windows.Input
}

type routeWindow struct {
	ID   model.RouteID  `path:"id"`
	Rule model.WindowID `path:"rule"`
}

type routeWindowChange struct {
	ID   model.RouteID  `path:"id"`
	Rule model.WindowID `path:"rule"`
	Body windows.Input
}

func (s *Server) listRouteWindows(ctx context.Context, _ *request, in *routeID) (windowsAnswer, error) {
	return s.listWindows(ctx, windows.Target{Route: in.ID})
}

func (s *Server) addRouteWindow(ctx context.Context, _ *request, in *newRouteWindow) (windowAnswer, error) {
	return s.addWindow(ctx, windows.Target{Route: in.ID}, in.Body)
}

func (s *Server) changeRouteWindow(ctx context.Context, _ *request, in *routeWindowChange) (done, error) {
	return done{}, s.Windows.Change(ctx, windows.Target{Route: in.ID}, in.Rule, in.Body)
}

func (s *Server) removeRouteWindow(ctx context.Context, _ *request, in *routeWindow) (done, error) {
	return done{}, s.Windows.Remove(ctx, windows.Target{Route: in.ID}, in.Rule)
}

// Of peers.

type newPeerWindow struct {
	ID   model.PeerID `path:"id"`
	Body windows.Input
}

type peerWindow struct {
	ID   model.PeerID   `path:"id"`
	Rule model.WindowID `path:"rule"`
}

type peerWindowChange struct {
	ID   model.PeerID   `path:"id"`
	Rule model.WindowID `path:"rule"`
	Body windows.Input
}

func (s *Server) listPeerWindows(ctx context.Context, _ *request, in *peerID) (windowsAnswer, error) {
	return s.listWindows(ctx, windows.Target{Peer: in.ID})
}

func (s *Server) addPeerWindow(ctx context.Context, _ *request, in *newPeerWindow) (windowAnswer, error) {
	return s.addWindow(ctx, windows.Target{Peer: in.ID}, in.Body)
}

func (s *Server) changePeerWindow(ctx context.Context, _ *request, in *peerWindowChange) (done, error) {
	return done{}, s.Windows.Change(ctx, windows.Target{Peer: in.ID}, in.Rule, in.Body)
}

func (s *Server) removePeerWindow(ctx context.Context, _ *request, in *peerWindow) (done, error) {
	return done{}, s.Windows.Remove(ctx, windows.Target{Peer: in.ID}, in.Rule)
}
