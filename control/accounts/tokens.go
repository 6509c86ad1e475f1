package accounts

import (
	"context"
	"slices"
	"strings"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// A token is TokenPrefix and tokenSize random bytes in hex.
const (
	TokenPrefix = "gc_"
	tokenSize   = 48
)

// maxTokens bounds the table.
const maxTokens = 10_000

// TokenInput asks for a token.
type TokenInput struct {
	Name      string
	Scopes    []string
	ExpiresAt string // any form that model.ParseExpiry reads; "" is never
}

// Credential is a valid token with what it opens. It is shared and never
// written.
type Credential struct {
	Token  *model.Token
	Scopes []model.Scope // those of the token that its owner's role allows
	Owner  *model.User   // nil: the token belongs to nobody
}

// CreateToken makes a token and returns its value, which is not kept. Errors:
// Invalid with every field at fault, Conflict when there are too many.
func (s *Service) CreateToken(ctx context.Context, in TokenInput) (value model.Secret, token *model.Token, err error) {
	now := s.now().UTC()
	token, err = parseToken(in, now)
	if err != nil {
		return "", nil, err
	}
	value = model.Secret(TokenPrefix + randomHex(tokenSize))
	token.Hash = hashHex(value)
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if store.Tokens.Len(tx) >= maxTokens {
			return model.Conflict("", "there are %d tokens already; revoke some first", maxTokens)
		}
		if err := store.Tokens.Insert(tx, token); err != nil {
			return err
		}
		details := map[string]any{"tokenId": token.ID, "scopes": token.Scopes, "expiresAt": token.ExpiresAt}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "token_created", Message: "API token " + token.Name + " created", Source: "user", Details: details,
		})
	})
	if err != nil {
		return "", nil, err
	}
	return value, token, nil
}

func parseToken(in TokenInput, now time.Time) (*model.Token, error) {
	var v model.Invalids
	t := &model.Token{Name: strings.TrimSpace(in.Name), CreatedAt: now}
	if n := len([]rune(t.Name)); n < 1 || n > 100 {
		v.Add("name", "must have 1 to 100 characters")
	}
	if strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.Add("name", "must not contain control characters")
	}
	known := model.Scopes()
	for _, text := range in.Scopes {
		scope := model.Scope(text)
		if !slices.Contains(known, scope) {
			v.Add("scopes", "%q is not a scope", clip(text))
		} else if !slices.Contains(t.Scopes, scope) {
			t.Scopes = append(t.Scopes, scope)
		}
	}
	if len(in.Scopes) == 0 {
		v.Add("scopes", "must name at least one scope")
	}
	if in.ExpiresAt != "" {
		at, err := model.ParseExpiry("expires_at", in.ExpiresAt)
		switch {
		case err != nil:
			v.AddError(err)
		case !at.After(now):
			v.Add("expires_at", "must lie in the future")
		default:
			t.ExpiresAt = &at
		}
	}
	return t, v.Err()
}

// clip keeps an answer from repeating a long text.
func clip(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "..."
	}
	return s
}

// Tokens lists every token, the newest first.
func (s *Service) Tokens() ([]*model.Token, error) {
	var list []*model.Token
	err := s.db.View(func(tx *store.Tx) error {
		for t, err := range store.Tokens.Backward(tx) {
			if err != nil {
				return err
			}
			if used := s.seen.tokenAt(t.ID); !used.IsZero() {
				used = used.UTC()
				t.LastUsedAt = &used
			}
			list = append(list, t)
		}
		return nil
	})
	return list, err
}

// DeleteToken revokes a token at once. NotFound if there is none.
func (s *Service) DeleteToken(ctx context.Context, id model.TokenID) error {
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		t, err := store.Tokens.Get(tx, id)
		if err != nil {
			return err
		}
		if t == nil {
			return model.NotFound("token")
		}
		if _, err := store.Tokens.Delete(tx, id); err != nil {
			return err
		}
		return events.Append(ctx, tx, s.now(), events.Entry{
			Type: "token_deleted", Message: "API token " + t.Name + " revoked", Source: "user",
			Severity: model.SeverityWarning, Details: map[string]any{"tokenId": id},
		})
	})
	if err != nil {
		return err
	}
	s.tokens.clear()
	return nil
}

// AuthenticateToken returns the token of that value and counts it as used.
// Unauthenticated if there is none or it has expired, Forbidden if its owner is
// disabled.
func (s *Service) AuthenticateToken(value model.Secret) (*Credential, error) {
	if len(value) != len(TokenPrefix)+2*tokenSize || !strings.HasPrefix(value.Reveal(), TokenPrefix) {
		return nil, errUnauthenticated()
	}
	hash := hashHex(value)
	c, err := s.tokens.load(hash, func() (*Credential, error) { return s.loadToken(hash) })
	if err != nil {
		return nil, err
	}
	now := s.now()
	if c.Token.ExpiresAt != nil && !c.Token.ExpiresAt.After(now) {
		return nil, errUnauthenticated()
	}
	if c.Owner != nil && !c.Owner.Enabled {
		return nil, model.Failure(model.KindForbidden, "the owner of this token is disabled")
	}
	s.seen.token(c.Token.ID, now)
	return c, nil
}

func (s *Service) loadToken(hash string) (*Credential, error) {
	c := new(Credential)
	err := s.db.View(func(tx *store.Tx) (err error) {
		if c.Token, err = store.Tokens.Find(tx, "hash", hash); err != nil || c.Token == nil {
			return err
		}
		if c.Token.User != 0 {
			c.Owner, err = store.Users.Get(tx, c.Token.User)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.Token == nil || c.Token.User != 0 && c.Owner == nil {
		return nil, errUnauthenticated()
	}
	c.Scopes = effective(c.Token.Scopes, c.Owner)
	return c, nil
}

// effective returns the scopes that count: a token gives no more than the role
// of its owner.
func effective(scopes []model.Scope, owner *model.User) []model.Scope {
	if owner == nil || owner.Role == model.RoleAdmin {
		return scopes
	}
	client := []model.Scope{
		model.ScopeClient, model.ScopeClientServices, model.ScopeClientTraffic, model.ScopeClientDNS, model.ScopeClientRDP,
	}
	return slices.DeleteFunc(slices.Clone(scopes), func(s model.Scope) bool { return !slices.Contains(client, s) })
}
