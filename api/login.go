package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"gatecontrol/control/accounts"
	"gatecontrol/model"
)

const (
	loginPath     = "/login"
	dashboardPath = "/dashboard"
)

// Lifetimes of the small cookies, in seconds.
const (
	deviceMaxAge = 365 * 24 * 3600
	flashMaxAge  = 60
)

// flash is what the sign-in page tells of the attempt before. The cookie holds
// the word, never a text.
type flash string

const (
	flashFailed flash = "failed"
	flashBusy   flash = "busy"
)

type credentials struct {
	Body struct {
		Username model.Field[string] `json:"username"`
		Password model.Field[string] `json:"password"`
	}
}

// userView is a user as the API shows one.
type userView struct {
	ID          model.UserID `json:"id"`
	Username    string       `json:"username"`
	DisplayName string       `json:"display_name"`
	Email       *string      `json:"email"`
	Role        model.Role   `json:"role"`
	Language    string       `json:"language"`
	Theme       string       `json:"theme"`
	LastLoginAt *string      `json:"last_login_at"`
	CreatedAt   string       `json:"created_at"`
}

func viewUser(u *model.User) userView {
	return userView{
		ID: u.ID, Username: u.Username, DisplayName: u.DisplayName, Email: orNull(u.Email), Role: u.Role,
		Language: u.Language, Theme: u.Theme, LastLoginAt: dtOrNull(u.LastLoginAt), CreatedAt: dt(u.CreatedAt),
	}
}

type signedIn struct {
	OK         ok       `json:"ok"`
	CSRFToken  string   `json:"csrfToken"`
	User       userView `json:"user"`
	MustChange bool     `json:"must_change_password"`
}

func (s *Server) loginPage(_ context.Context, r *request, _ *none) (responder, error) {
	if r.session != nil {
		return redirect("/"), nil
	}
	form := r.cookie(formCookie)
	if len(form) != 32 {
		form = hex.EncodeToString(randomBytes(16))
		s.setCookie(r, formCookie, form, 0)
	}
	told := flash(r.cookie(flashCookie))
	if told != "" {
		s.dropCookie(r, flashCookie)
	}
	return s.pages.render(http.StatusOK, "login.html", map[string]any{"CSRF": s.formToken(form), "Flash": told})
}

// signIn answers a form with a redirect whatever happens, and JSON with JSON.
func (s *Server) signIn(ctx context.Context, r *request, in *credentials) (responder, error) {
	attempt := accounts.Attempt{
		Username: in.Body.Username.Value, Password: model.Secret(in.Body.Password.Value),
		Device: model.Secret(r.cookie(deviceCookie)),
	}
	// The login is what signs in, not a session that is still there.
	ctx = model.WithActor(ctx, model.Actor{Name: "anonymous", Addr: r.peer.addr})
	got, err := s.Accounts.Login(ctx, attempt)
	if err != nil {
		if r.body.json {
			return nil, err
		}
		told := flashFailed
		switch model.KindOf(err) {
		case model.KindUnauthenticated:
		case model.KindUnavailable:
			told = flashBusy
		default:
			return nil, err
		}
		s.setCookie(r, flashCookie, string(told), flashMaxAge)
		return redirect(loginPath), nil
	}
	if r.session != nil { // a new sign-in ends the one that this browser had
		if err := s.Accounts.Logout(ctx, r.session.Session.ID); err != nil {
			s.log.Warn("an old session could not be ended", "err", err)
		}
	}
	s.setCookie(r, sessionCookie, got.Cookie.Reveal(), int(s.Accounts.SessionMaxAge()/time.Second))
	s.setCookie(r, deviceCookie, got.Device.Reveal(), deviceMaxAge)
	if r.cookie(formCookie) != "" {
		s.dropCookie(r, formCookie)
	}
	if !r.body.json {
		return redirect(dashboardPath), nil
	}
	return jsonOf{http.StatusOK, signedIn{
		CSRFToken: got.Session.CSRFToken, User: viewUser(got.User), MustChange: got.User.MustChange,
	}}, nil
}

func (s *Server) signOut(ctx context.Context, r *request, _ *none) (responder, error) {
	if err := s.Accounts.Logout(ctx, r.session.Session.ID); err != nil {
		return nil, err
	}
	s.dropCookie(r, sessionCookie)
	return redirect(loginPath), nil
}

type sessionAnswer struct {
	OK         ok       `json:"ok"`
	User       userView `json:"user"`
	CSRFToken  string   `json:"csrfToken"`
	MustChange bool     `json:"must_change_password"`
	ExpiresAt  string   `json:"expires_at"`
}

func (s *Server) getSession(_ context.Context, r *request, _ *none) (sessionAnswer, error) {
	in := r.session
	return sessionAnswer{
		User: viewUser(in.User), CSRFToken: in.Session.CSRFToken, MustChange: in.User.MustChange,
		ExpiresAt: iso(s.now().Add(s.Accounts.SessionMaxAge())), // this request extended it
	}, nil
}

type passwordInput struct {
	Body struct {
		Current model.Field[string] `json:"current" alias:"current_password"`
		Next    model.Field[string] `json:"next" alias:"new_password"`
	}
}

type passwordAnswer struct {
	OK        ok     `json:"ok"`
	CSRFToken string `json:"csrfToken" doc:"The new one; the old one no longer counts"`
}

func (s *Server) changePassword(ctx context.Context, r *request, in *passwordInput) (passwordAnswer, error) {
	csrf, err := s.setPassword(ctx, r, in.Body.Current.Value, in.Body.Next.Value)
	return passwordAnswer{CSRFToken: csrf}, err
}

// setPassword changes the password of who is signed in, and has the browser
// remembered under the new one.
func (s *Server) setPassword(ctx context.Context, r *request, current, next string) (csrf string, err error) {
	csrf, device, err := s.Accounts.ChangePassword(ctx, r.session.Session, model.Secret(current), model.Secret(next))
	if err == nil {
		s.setCookie(r, deviceCookie, device.Reveal(), deviceMaxAge)
	}
	return csrf, err
}
