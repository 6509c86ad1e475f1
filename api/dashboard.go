package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"gatecontrol/model"
)

// passwordPage is what the form for a new password shows.
type passwordPage struct {
	Required bool              // nothing else works before
	Errors   map[string]string // by field
	Error    string
}

// dashboard shows what there is, or the form for a new password while one is
// due.
func (s *Server) dashboard(ctx context.Context, r *request, _ *none) (responder, error) {
	if r.session.User.MustChange {
		return s.passwordPage(r, http.StatusOK, passwordPage{Required: true})
	}
	peers, total, err := s.Peers.List(ctx, 0, 0)
	if err != nil {
		return nil, err
	}
	routes, routeTotal, err := s.Routes.List(ctx, "", 0, 0)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"PeerTotal": total, "RouteTotal": routeTotal, "BaseURL": s.BaseURL.String(), "Version": s.Version, "Health": s.Health(),
		"Conditions": s.Conditions(), "Password": passwordPage{},
	}
	proxy := s.Proxy()
	data["HTTPPort"], data["HTTPSPort"] = portSuffix(proxy.HTTPPort, 80), portSuffix(proxy.HTTPSPort, 443)
	rows := make([]PeerView, len(peers))
	for i := range peers {
		rows[i] = viewPeer(&peers[i])
	}
	targets := make([]routeView, len(routes))
	for i := range routes {
		targets[i] = viewRoute(&routes[i])
	}
	data["Peers"], data["Routes"] = rows, targets
	return s.userPage(r, http.StatusOK, "dashboard.html", data)
}

// portSuffix is what a link needs behind the host: nothing for the usual port.
func portSuffix(port, usual uint16) string {
	if port == 0 || port == usual {
		return ""
	}
	return fmt.Sprintf(":%d", port)
}

type passwordForm struct {
	Body struct {
		Current model.Field[string] `json:"current"`
		Next    model.Field[string] `json:"next"`
		Again   model.Field[string] `json:"again"`
	}
}

// passwordForm is changePassword for a browser without scripts.
func (s *Server) passwordForm(ctx context.Context, r *request, in *passwordForm) (responder, error) {
	page := passwordPage{Required: r.session.User.MustChange}
	if in.Body.Next.Value != in.Body.Again.Value {
		page.Errors = map[string]string{"again": "is not the same"}
		return s.passwordPage(r, http.StatusBadRequest, page)
	}
	_, err := s.setPassword(ctx, r, in.Body.Current.Value, in.Body.Next.Value)
	if err == nil {
		return redirect(dashboardPath), nil
	}
	e, ok := errors.AsType[*model.Error](err)
	if !ok || e.Kind == model.KindInternal || e.Kind == model.KindUnauthenticated {
		return nil, err
	}
	page.Errors, page.Error = make(map[string]string), e.Message
	for _, f := range e.Fields {
		page.Errors[f.Field], page.Error = f.Message, ""
	}
	return s.passwordPage(r, statusOf(e.Kind), page)
}

func (s *Server) passwordPage(r *request, status int, page passwordPage) (responder, error) {
	return s.userPage(r, status, "password.html", map[string]any{"Password": page})
}

// userPage is a page for whoever is signed in.
func (s *Server) userPage(r *request, status int, name string, data map[string]any) (responder, error) {
	data["User"], data["CSRF"] = r.session.User.Username, r.session.Session.CSRFToken
	return s.pages.render(status, name, data)
}
