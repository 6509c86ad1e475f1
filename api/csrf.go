package api

import (
	"crypto/hmac"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gatecontrol/model"
)

var errCSRF = &httpError{http.StatusForbidden, "Invalid CSRF token"}

// checkCrossSite refuses a change that another site made a browser send. The
// session's own token is asked for, and where a browser says which site the
// request comes from, it must be this one: neighbours on the same site are
// other people's services, so SameSite cookies do not keep them out.
func (s *Server) checkCrossSite(r *request, o *operation) error {
	if safeMethod(r.Method) || r.token != nil {
		return nil
	}
	if o.access.public && r.URL.Path == loginPath {
		return s.checkLoginForm(r)
	}
	if r.session == nil {
		return nil
	}
	if !s.sameOrigin(r) {
		return errCSRF
	}
	given, ok := r.body.csrf()
	if !ok {
		given = r.Header.Get("X-CSRF-Token")
	}
	if !equalSecret(given, r.session.Session.CSRFToken) {
		return errCSRF
	}
	return nil
}

// checkLoginForm guards the sign-in, for which there is no session yet. What a
// browser sends must carry the value of the form; a program may leave it out,
// but a wrong one is wrong.
func (s *Server) checkLoginForm(r *request) error {
	given, ok := r.body.csrf()
	if !ok {
		given = r.Header.Get("X-CSRF-Token")
		ok = given != ""
	}
	known := equalSecret(given, s.formToken(r.cookie(formCookie))) ||
		r.session != nil && equalSecret(given, r.session.Session.CSRFToken)
	if ok && !known {
		return errCSRF
	}
	if browser := r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""; browser && (!ok || !s.sameOrigin(r)) {
		return errCSRF
	}
	return nil
}

// formToken returns the _csrf value that belongs to the cookie of a sign-in
// form; "" belongs to none.
func (s *Server) formToken(cookie string) string {
	if cookie == "" {
		return ""
	}
	mac := hmac.New(sha512.New, s.formKey)
	_, _ = mac.Write([]byte(cookie))
	return hex.EncodeToString(mac.Sum(nil))
}

// equalSecret compares in constant time; nothing equals the empty text.
func equalSecret(given, want string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(given), []byte(want)) == 1
}

// sameOrigin reports whether a request comes from a page of this server, or from
// no browser. Behind a foreign proxy that ends TLS the scheme of Origin differs
// from ours; then Sec-Fetch-Site, which no script can set, vouches for it.
func (s *Server) sameOrigin(r *request) bool {
	site, origins := r.Header.Get("Sec-Fetch-Site"), r.Header.Values("Origin")
	if site != "" && site != "same-origin" || len(origins) > 1 {
		return false
	}
	if len(origins) == 0 || origins[0] == "" {
		return true
	}
	scheme := "http"
	if r.peer.https {
		scheme = "https"
	}
	own := originOf(scheme, r.peer.host)
	u, err := url.Parse(origins[0])
	if err != nil || u.Host == "" {
		return false
	}
	origin := originOf(u.Scheme, u.Host)
	return origin != "" && (origin == own || origin == s.origin || site != "" && originOf(scheme, u.Host) == own)
}

// originOf returns the canonical text of an origin, without the usual port, or
// "" for a host that is none.
func originOf(scheme, host string) string {
	scheme = strings.ToLower(scheme)
	name, ok := model.NormalizeHost(host)
	if !ok {
		return ""
	}
	switch port := model.HostPort([]byte(host)); {
	case port == 0, scheme == "http" && port == 80, scheme == "https" && port == 443:
	default:
		name += ":" + strconv.Itoa(int(port))
	}
	return scheme + "://" + name
}
