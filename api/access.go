package api

import (
	"net/http"
	"slices"

	"gatecontrol/model"
)

// access is the rule of who may call an operation. The zero value is no rule,
// and an operation with it does not start.
type access struct {
	public     bool // nobody needs to be signed in
	login      bool // people may call it
	tokens     bool // programs may call it, if their scopes allow
	every      bool // any valid token will do
	scopes     []model.Scope
	secrets    bool // the answer holds secrets: read-only does not open it
	mustChange bool // open even while a new password is due
}

// public opens an operation to everybody.
func public() access { return access{public: true, mustChange: true} }

// loginOnly opens an operation to people, never to programs.
func loginOnly() access { return access{login: true} }

// everybody opens an operation to whoever is signed in, and to any token.
func everybody() access { return access{login: true, tokens: true, every: true} }

// scoped opens an operation to people, to tokens with full access or one of the
// scopes, and for reading to read-only tokens.
func scoped(scopes ...model.Scope) access {
	return access{login: true, tokens: true, scopes: scopes}
}

// secret keeps read-only tokens out.
func (a access) secret() access {
	a.secrets = true
	return a
}

// whileMustChange opens an operation to people who must change their password.
func (a access) whileMustChange() access {
	a.mustChange = true
	return a
}

func (a access) decided() bool { return a.public || a.login || a.tokens }

// opensTo reports whether a token with these scopes may call the operation.
// Scopes belong to the matched operation, not to the text of the path.
func (a access) opensTo(scopes []model.Scope, method string) bool {
	if !a.tokens {
		return false
	}
	reads := method == http.MethodGet || method == http.MethodHead
	return a.every || slices.ContainsFunc(scopes, func(s model.Scope) bool {
		return s == model.ScopeFull || s == model.ScopeReadOnly && reads && !a.secrets || slices.Contains(a.scopes, s)
	})
}
