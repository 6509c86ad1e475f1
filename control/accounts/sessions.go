package accounts

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

const (
	cookieSize = 32 // bytes of a session cookie
	csrfSize   = 64 // bytes of a CSRF token
)

// maxSessions bounds the sessions of one user. A script that signs in every
// minute and never out stays below it for most of a day; beyond it the session
// that would expire first ends.
const maxSessions = 1000

// SignedIn is a valid session and its user. Both are shared and never written.
type SignedIn struct {
	Session *model.Session
	User    *model.User
}

// Attempt is one try to sign in. The address comes from the actor in the context.
type Attempt struct {
	Username string
	Password model.Secret
	Device   model.Secret // what an earlier SignIn of this browser gave; may be empty
}

// SignIn is what a browser keeps after signing in: the two cookies.
type SignIn struct {
	SignedIn
	Cookie model.Secret
	Device model.Secret
}

// Login signs an administrator in. Unknown name, wrong password, disabled user
// and locked account all give the same error of kind Unauthenticated;
// Unavailable means that too many passwords are being checked.
func (s *Service) Login(ctx context.Context, a Attempt) (*SignIn, error) {
	name := strings.TrimSpace(a.Username)
	user, err := s.find(name)
	if err != nil {
		return nil, err
	}
	against := nameSubject(name)
	stored := nobody
	if user != nil {
		name = user.Username
		against = accountSubject(user)
		if s.knowsDevice(user, a.Device) {
			against = deviceSubject(a.Device)
		}
		if user.CanSignIn() {
			stored = user.PasswordHash
		}
	} else {
		name = ""
	}
	note := func(typ string) {
		s.failed.add(failure{typ, name, model.ActorFrom(ctx).Addr.Unmap()})
	}

	open, err := s.lockout.begin(against, s.now())
	if err != nil {
		return nil, err
	}
	if !open { // before any hashing
		note("login_failed")
		return nil, errSignIn()
	}
	ok, err := s.hasher.check(ctx, bounded(a.Password), stored)
	if err != nil {
		s.lockout.cancel(against)
		return nil, err
	}
	if !ok {
		note("login_failed")
		if s.lockout.settle(against, false, s.now()) {
			note("account_locked")
		}
		return nil, errSignIn()
	}
	in, err := s.open(ctx, user)
	if err != nil {
		s.lockout.cancel(against)
		return nil, err
	}
	s.lockout.settle(against, true, s.now())
	s.failed.wake()
	return in, nil
}

func errSignIn() error {
	return model.Failure(model.KindUnauthenticated, "Invalid user name or password")
}

// open starts a session for a user whose password was checked as it was read.
func (s *Service) open(ctx context.Context, read *model.User) (*SignIn, error) {
	secret := make([]byte, cookieSize)
	_, _ = rand.Read(secret) // never fails
	cookie := model.Secret(base64.RawURLEncoding.EncodeToString(secret))
	now := s.now().UTC()
	session := &model.Session{
		ID: model.SessionID(hashHex(cookie)), User: read.ID, CSRFToken: randomHex(csrfSize),
		ExpiresAt: now.Add(s.maxAge), CreatedAt: now,
	}
	in := &SignIn{Cookie: cookie}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		user, err := store.Users.Get(tx, read.ID)
		if err != nil {
			return err
		}
		if user == nil || !user.CanSignIn() || user.PasswordHash != read.PasswordHash {
			return errSignIn()
		}
		user.LastLoginAt = &now
		if err := store.Users.Put(tx, user); err != nil {
			return err
		}
		if err := s.makeRoom(tx, user.ID); err != nil {
			return err
		}
		if err := store.Sessions.Put(tx, session); err != nil {
			return err
		}
		if in.Device, err = s.newDevice(tx, user); err != nil {
			return err
		}
		in.SignedIn = SignedIn{session, user}
		return events.Append(ctx, tx, now, events.Entry{Type: "login", Source: "system", Message: user.Username + " signed in"})
	})
	if err != nil {
		return nil, err
	}
	s.sessions.clear()
	return in, nil
}

// makeRoom ends the session that would expire first if the user has too many.
func (s *Service) makeRoom(tx *store.Tx, id model.UserID) error {
	list, err := store.Sessions.FindAll(tx, "user", userKey(id))
	if err != nil || len(list) < maxSessions {
		return err
	}
	first := slices.MinFunc(list, func(a, b *model.Session) int {
		return cmp.Compare(s.expiry(a).UnixNano(), s.expiry(b).UnixNano())
	})
	_, err = store.Sessions.Delete(tx, first.ID)
	return err
}

// AuthenticateSession returns the session that belongs to cookie and counts it
// as used. Errors are of kind Unauthenticated.
func (s *Service) AuthenticateSession(cookie model.Secret) (*SignedIn, error) {
	if len(cookie) != base64.RawURLEncoding.EncodedLen(cookieSize) {
		return nil, errUnauthenticated()
	}
	id := model.SessionID(hashHex(cookie))
	in, err := s.sessions.load(id, func() (*SignedIn, error) { return s.loadSession(id) })
	if err != nil {
		return nil, err
	}
	now := s.now()
	if !s.expiry(in.Session).After(now) {
		return nil, errUnauthenticated()
	}
	s.seen.session(id, now)
	return in, nil
}

func (s *Service) loadSession(id model.SessionID) (*SignedIn, error) {
	var in SignedIn
	err := s.db.View(func(tx *store.Tx) (err error) {
		if in.Session, err = store.Sessions.Get(tx, id); err != nil || in.Session == nil {
			return err
		}
		in.User, err = store.Users.Get(tx, in.Session.User)
		return err
	})
	if err != nil {
		return nil, err
	}
	if in.Session == nil || in.User == nil || !in.User.CanSignIn() {
		return nil, errUnauthenticated()
	}
	return &in, nil
}

// Logout ends a session.
func (s *Service) Logout(ctx context.Context, id model.SessionID) error {
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := store.Sessions.Delete(tx, id)
		return err
	})
	if err != nil {
		return err
	}
	s.sessions.clear()
	return nil
}

// FlushUse writes down when sessions and tokens were used last, in one
// transaction.
func (s *Service) FlushUse(ctx context.Context) error {
	sessions, tokens := s.seen.take()
	if len(sessions) == 0 && len(tokens) == 0 {
		return nil
	}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		for id, at := range sessions {
			session, err := store.Sessions.Get(tx, id)
			if err != nil {
				return err
			}
			if session == nil || !at.Add(s.maxAge).After(session.ExpiresAt) {
				continue
			}
			session.ExpiresAt = at.Add(s.maxAge).UTC()
			if err := store.Sessions.Put(tx, session); err != nil {
				return err
			}
		}
		for id, at := range tokens {
			token, err := store.Tokens.Get(tx, id)
			if err != nil {
				return err
			}
			if token == nil {
				continue
			}
			used := at.UTC()
			token.LastUsedAt = &used
			if err := store.Tokens.Put(tx, token); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write last use: %w", err)
	}
	s.sessions.clear()
	s.tokens.clear()
	s.seen.drop(sessions, tokens)
	return nil
}

// Purge forgets sessions that have expired and failures that count no more.
func (s *Service) Purge(ctx context.Context) error {
	now := s.now()
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		var expired []model.SessionID
		for session, err := range store.Sessions.All(tx) {
			if err != nil {
				return err
			}
			if !s.expiry(session).After(now) {
				expired = append(expired, session.ID)
			}
		}
		for _, id := range expired {
			if _, err := store.Sessions.Delete(tx, id); err != nil {
				return err
			}
		}
		return s.lockout.purge(tx, now)
	})
	if err != nil {
		return fmt.Errorf("purge sessions: %w", err)
	}
	s.sessions.clear()
	return nil
}

// expiry is when session ends unless it is used again; use that is not yet
// written counts.
func (s *Service) expiry(session *model.Session) time.Time {
	if used := s.seen.sessionAt(session.ID); !used.IsZero() && used.Add(s.maxAge).After(session.ExpiresAt) {
		return used.Add(s.maxAge)
	}
	return session.ExpiresAt
}
