package api

import (
	"net/http"
	"strings"

	"gatecontrol/control/accounts"
	"gatecontrol/model"
)

// Cookies of ours.
const (
	sessionCookie = "gc.sid"
	deviceCookie  = "gc.device" // a browser that signed in before
	formCookie    = "gc.form"   // belongs to the _csrf of a sign-in form
	flashCookie   = "gc.flash"  // what the next page tells
)

// identify finds out who asks. A valid login wins over a token; tokens count on
// the API alone. An invalid token is the same as none; that of a disabled owner
// is an error.
func (s *Server) identify(r *request) error {
	actor := model.Actor{Name: "anonymous", Addr: r.peer.addr}
	defer func() { r.Request = r.WithContext(model.WithActor(r.Context(), actor)) }()

	if value := r.cookie(sessionCookie); value != "" {
		in, err := s.Accounts.AuthenticateSession(model.Secret(value))
		if err == nil {
			r.session = in
			actor.User, actor.Name, actor.Session = in.User.ID, in.User.Username, in.Session
			return nil
		}
		if model.KindOf(err) != model.KindUnauthenticated {
			return err
		}
	}
	if !isAPI(r.URL.Path) {
		return nil
	}
	value := presentedToken(r.Header)
	if value == "" && r.URL.Path == metricsPath {
		// What collects metrics may not be able to send fields.
		if q := r.URL.Query()["token"]; len(q) == 1 && strings.HasPrefix(q[0], accounts.TokenPrefix) {
			value = model.Secret(q[0])
		}
	}
	if value == "" {
		return nil
	}
	c, err := s.Accounts.AuthenticateToken(value)
	if model.KindOf(err) == model.KindUnauthenticated && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	r.token = c
	actor.User, actor.Name, actor.Token = c.Token.User, c.Token.Name, c.Token
	return nil
}

// cookie returns the value of a cookie of ours. Of a name that comes twice none
// counts: one of them may have been set by a neighbour on the same site.
func (r *request) cookie(name string) string {
	value, found := "", 0
	for _, c := range r.CookiesNamed(name) {
		value = c.Value
		found++
	}
	if found != 1 {
		return ""
	}
	return value
}

// presentedToken returns the first token that the headers hold, "" without one.
func presentedToken(h http.Header) model.Secret {
	for _, name := range []string{"Authorization", "X-API-Token", "X-API-Key"} {
		values := h.Values(name)
		if len(values) != 1 {
			continue
		}
		value := values[0]
		if name == "Authorization" {
			scheme, rest, _ := strings.Cut(value, " ")
			if !strings.EqualFold(scheme, "Bearer") {
				continue
			}
			value = rest
		}
		if value = strings.TrimSpace(value); strings.HasPrefix(value, accounts.TokenPrefix) {
			return model.Secret(value)
		}
	}
	return ""
}

// setCookie adds a cookie for this host alone that scripts cannot read.
func (s *Server) setCookie(r *request, name, value string, maxAge int) {
	c := http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: s.BaseURL.Scheme == "https",
	}
	r.header.Add("Set-Cookie", c.String())
}

func (s *Server) dropCookie(r *request, name string) { s.setCookie(r, name, "", -1) }
