package model

import (
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// Role is what a user may do at most.
type Role string

// The roles. A user of role user owns client tokens and never signs in.
const (
	RoleAdmin Role = "admin"
	RoleUser  Role = "user"
)

// User is a person who administers this server or owns devices.
type User struct {
	ID           UserID     `json:"id"`
	Username     string     `json:"username"`
	DisplayName  string     `json:"display_name"`
	Email        string     `json:"email,omitempty"`
	PasswordHash string     `json:"password_hash"` // argon2id PHC string; "!" cannot sign in
	MustChange   bool       `json:"must_change,omitempty"`
	Role         Role       `json:"role"`
	Language     string     `json:"language"`
	Theme        string     `json:"theme"`
	Enabled      bool       `json:"enabled"`
	LastLoginAt  *time.Time `json:"last_login_at,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	UpdatedAt    time.Time  `json:"updated_at"`
}

// CanSignIn reports whether u may sign in with a password at all.
func (u *User) CanSignIn() bool { return u.Enabled && u.Role == RoleAdmin && u.PasswordHash != "!" }

// Session is a signed-in person. The store keys it by the hash of its cookie,
// so a stolen store signs nobody in.
type Session struct {
	ID        SessionID `json:"id"`
	User      UserID    `json:"user"`
	CSRFToken string    `json:"csrf"` // 128 hex characters, one per session
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

// Scope is what an API token opens.
type Scope string

// The scopes that a token can have.
const (
	ScopeFull           Scope = "full-access"
	ScopeReadOnly       Scope = "read-only"
	ScopePeers          Scope = "peers"
	ScopeRoutes         Scope = "routes"
	ScopeSettings       Scope = "settings"
	ScopeWebhooks       Scope = "webhooks"
	ScopeLogs           Scope = "logs"
	ScopeSystem         Scope = "system"
	ScopeBackup         Scope = "backup"
	ScopeClient         Scope = "client"
	ScopeClientServices Scope = "client:services"
	ScopeClientTraffic  Scope = "client:traffic"
	ScopeClientDNS      Scope = "client:dns"
	ScopeClientRDP      Scope = "client:rdp"
	ScopeGateway        Scope = "gateway" // a valid name that opens nothing here: gateways have tokens of their own
)

// Scopes lists every scope that a token can have.
func Scopes() []Scope {
	return []Scope{
		ScopeFull, ScopeReadOnly, ScopePeers, ScopeRoutes, ScopeSettings, ScopeWebhooks, ScopeLogs,
		ScopeSystem, ScopeBackup, ScopeClient, ScopeClientServices, ScopeClientTraffic, ScopeClientDNS, ScopeClientRDP, ScopeGateway,
	}
}

// Token is the credential of a program. Its value is shown once, at creation.
type Token struct {
	ID         TokenID    `json:"id"`
	Name       string     `json:"name"`
	Hash       string     `json:"hash"` // lower-case hex SHA-256 of the whole value
	Scopes     []Scope    `json:"scopes"`
	User       UserID     `json:"user,omitempty"`
	Peer       PeerID     `json:"peer,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
}

// Actor is who asks: a session's user, a token, or the server itself.
type Actor struct {
	User    UserID // 0: none
	Name    string // user or token name, for the activity log
	Session *Session
	Token   *Token
	Addr    netip.Addr // where the request came from; invalid for the server itself
}

// System is the server itself as an actor.
func System() Actor { return Actor{Name: "system"} }

var username = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$`)

// ParseUsername trims s and checks it: 1 to 64 letters, digits and . _ @ -.
func ParseUsername(field, s string) (string, error) {
	s = strings.TrimSpace(s)
	if !username.MatchString(s) {
		return "", Invalid(field, "must be 1-64 letters, digits or . _ @ - and start with a letter or digit")
	}
	return s, nil
}

// MinPasswordLength is the least length of a password, in characters.
const MinPasswordLength = 8

// CheckPassword refuses a password that is too short, too long (hashing costs
// with the length), or the one that every guide prints.
func CheckPassword(field, s string) error {
	switch n := len([]rune(s)); {
	case n < MinPasswordLength:
		return Invalid(field, "must have at least %d characters", MinPasswordLength)
	case len(s) > 1024:
		return Invalid(field, "must have at most 1024 bytes")
	case strings.EqualFold(s, "changeme"):
		return Invalid(field, "must not be %q", "changeme")
	}
	return nil
}
