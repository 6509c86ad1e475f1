package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"

	"gatecontrol/model"
)

// carrier is the context key under which a *request passes the mux.
type carrier struct{}

// carried returns the request for the mux, which hands it to serve.
func (r *request) carried() *http.Request {
	return r.WithContext(context.WithValue(r.Context(), carrier{}, r))
}

// serve is the handler of one operation; nil is where no operation was matched.
func (s *Server) serve(o *operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := hr.Context().Value(carrier{}).(*request)
		r.Request = hr // with the path values
		s.answer(w, r, o)
	})
}

// answer takes r through its gates to its handler, and answers.
func (s *Server) answer(w http.ResponseWriter, r *request, o *operation) {
	key, counted, err := s.admit(w, r, o)
	if err != nil {
		s.send(w, r, s.refused(r, o, err))
		return
	}
	v, err := o.call(r.Context(), r)
	a := s.outcome(r, o, v, err)
	if counted {
		// What failed does not count, except for guesses of a password.
		if a.status >= 400 && o.limiter != s.login {
			o.limiter.refund(key)
		}
		o.limiter.headers(r.header, key)
	}
	s.send(w, r, a)
}

// admit passes r through the gates in their order. It reports under which key
// the request was counted.
func (s *Server) admit(w http.ResponseWriter, r *request, o *operation) (key limitKey, counted bool, err error) {
	if r.ContentLength > o.bodyLimit() {
		return key, false, tooLarge(o.bodyLimit())
	}
	if o != nil && o.offered != nil {
		if on, err := o.offered(r.Context()); err != nil || !on {
			return key, false, cmp.Or(err, error(&httpError{http.StatusNotFound, "Not found"}))
		}
	}
	if err := s.identify(r); err != nil {
		return key, false, err
	}
	if err := s.authorize(r, o); err != nil {
		return key, false, err
	}
	if r.Body == nil {
		r.Body = http.NoBody // of a request that came over no connection
	}
	r.Body = http.MaxBytesReader(w, r.Body, o.bodyLimit())
	if o.part == "" { // a file is read where it is wanted, behind all gates
		if r.body, err = readBody(r.Request); err != nil {
			return key, false, err
		}
	}
	if err := s.checkCrossSite(r, o); err != nil {
		return key, false, err
	}
	if r.token != nil && !o.access.public && !o.access.opensTo(r.token.Scopes, r.Method) {
		return key, false, model.Failure(model.KindForbidden, "this token does not have the scope for that")
	}
	if o.limiter == nil {
		return key, false, nil
	}
	key = limitKey{addr: s.Clients.Key(r.peer.addr)}
	if r.token != nil {
		key = limitKey{token: r.token.Token.ID}
	}
	if !o.limiter.take(key) {
		o.limiter.headers(r.header, key)
		r.header.Set("Retry-After", o.limiter.retryAfter(key))
		return key, false, model.Failure(model.KindLimited, "%s", o.limiter.refusal)
	}
	return key, true, nil
}

// authorize decides whether whoever asks may ask at all.
func (s *Server) authorize(r *request, o *operation) error {
	signedIn := r.session != nil || r.token != nil
	switch {
	case o == nil && !signedIn:
		return errLogin()
	case o == nil:
		return s.unmatched(r)
	case o.access.public:
		return nil
	case !signedIn:
		return errLogin()
	case r.session != nil && !o.access.login:
		return model.Failure(model.KindForbidden, "that is for programs with a token")
	case r.session != nil && r.session.User.MustChange && !o.access.mustChange:
		return errPasswordChange()
	}
	return nil
}

func errLogin() error { return model.Failure(model.KindUnauthenticated, "Unauthorized") }

// unmatched tells a path that exists with other methods from one that does not.
func (s *Server) unmatched(r *request) error {
	var allow []string
	probe := r.WithContext(r.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if path.Clean(r.URL.Path) != r.URL.Path {
			break // the mux would only offer to clean it
		}
		probe.Method = method
		if _, pattern := s.mux.Handler(probe); pattern != "" && pattern != "/" {
			if allow = append(allow, method); method == http.MethodGet {
				allow = append(allow, http.MethodHead)
			}
		}
	}
	if len(allow) == 0 {
		return &httpError{http.StatusNotFound, "Not found"}
	}
	r.header.Set("Allow", strings.Join(allow, ", "))
	return &httpError{http.StatusMethodNotAllowed, "that method is not for this path"}
}

// outcome turns what a handler returned into an answer.
func (s *Server) outcome(r *request, o *operation, v any, err error) *answer {
	if err != nil {
		return s.refused(r, o, err)
	}
	if v, ok := v.(responder); ok {
		return v.respond(r)
	}
	return jsonAnswer(o.status, v)
}

// refused answers an error: in words of JSON to programs, and with the way to
// the right page to people.
func (s *Server) refused(r *request, o *operation, err error) *answer {
	a := s.failed(r, err)
	if o != nil && !o.isPage() || o == nil && isAPI(r.URL.Path) || r.body.json {
		return a
	}
	e, ok := errors.AsType[*model.Error](err)
	switch {
	case ok && e.Kind == model.KindUnauthenticated:
		return redirect("/login").respond(r)
	case ok && e.Code == codePasswordChange:
		return redirect(dashboardPath).respond(r)
	case !ok || e.Kind != model.KindLimited:
		return s.pages.failure(r, a)
	}
	return a
}

// send writes a. What goes wrong there is the client's loss.
func (s *Server) send(w http.ResponseWriter, r *request, a *answer) {
	for name, values := range a.header {
		r.header[name] = values
	}
	if a.typ != "" {
		r.header.Set("Content-Type", a.typ)
	}
	length := int64(len(a.body))
	if a.content != nil {
		length = a.content.Size()
	}
	r.header.Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(a.status)
	switch {
	case r.Method == http.MethodHead:
	case a.content != nil:
		_, _ = io.Copy(w, a.content) // the connection ends with an answer that is too short
	default:
		_, _ = w.Write(a.body)
	}
}
