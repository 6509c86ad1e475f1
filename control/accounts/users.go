package accounts

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// EnsureAdmin creates the administrator name at first start, and does nothing
// once a user of that name exists. With no password it generates one, which it
// returns for printing once and which must be changed at the first sign-in.
// Errors are of kind Invalid.
func (s *Service) EnsureAdmin(ctx context.Context, name, password string) (generated model.Secret, err error) {
	if name, err = model.ParseUsername("GC_ADMIN_USER", name); err != nil {
		return "", err
	}
	existing, err := s.find(name)
	if err != nil || existing != nil {
		return "", err
	}
	if password == "" {
		generated = generatePassword()
		password = generated.Reveal()
	} else if err := model.CheckPassword("GC_ADMIN_PASSWORD", password); err != nil {
		return "", err
	}
	hash, err := s.hasher.hash(ctx, model.Secret(password))
	if err != nil {
		return "", err
	}
	now := s.now().UTC()
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		u := &model.User{
			Username: name, DisplayName: "Administrator", PasswordHash: hash, MustChange: generated != "",
			Role: model.RoleAdmin, Language: s.language, Theme: "default", Enabled: true, CreatedAt: now, UpdatedAt: now,
		}
		if err := store.Users.Insert(tx, u); err != nil {
			return err
		}
		return events.Append(ctx, tx, now, events.Entry{
			Type: "user_created", Message: "User " + name + " created",
			Details: map[string]any{"userId": u.ID, "role": u.Role},
		})
	})
	if err != nil {
		return "", fmt.Errorf("create the administrator: %w", err)
	}
	return generated, nil
}

// ChangePassword gives the user of session a new password and ends the user's
// other sessions. It returns a new CSRF token and a new device cookie; the old
// ones no longer count. Errors: Invalid with the field current or next, Limited
// after too many wrong current passwords.
func (s *Service) ChangePassword(ctx context.Context, session *model.Session, current, next model.Secret) (csrf string, device model.Secret, err error) {
	user, err := s.user(session.User)
	if err != nil {
		return "", "", err
	}
	if err := checkNext(current, next); err != nil {
		return "", "", err
	}
	if err := s.confirm(ctx, user, current); err != nil {
		return "", "", err
	}
	hash, err := s.hasher.hash(ctx, next)
	if err != nil {
		return "", "", err
	}
	csrf = randomHex(csrfSize)
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		changed, err := s.setPassword(tx, user, hash, false, session.ID)
		if err != nil {
			return err
		}
		if device, err = s.newDevice(tx, changed); err != nil {
			return err
		}
		kept, err := store.Sessions.Get(tx, session.ID)
		if err != nil {
			return err
		}
		if kept == nil {
			return errUnauthenticated()
		}
		kept.CSRFToken = csrf
		if err := store.Sessions.Put(tx, kept); err != nil {
			return err
		}
		return events.Append(ctx, tx, s.now(), events.Entry{Type: "password_changed", Message: user.Username + " changed the password"})
	})
	if err != nil {
		return "", "", err
	}
	s.sessions.clear()
	return csrf, device, nil
}

func checkNext(current, next model.Secret) error {
	var v model.Invalids
	if current == "" {
		v.Add("current", "is required")
	}
	if err := model.CheckPassword("next", next.Reveal()); err != nil && !v.AddError(err) {
		return err
	}
	if current != "" && current == next {
		v.Add("next", "must differ from the current password")
	}
	return v.Err()
}

// confirm checks the password of somebody who is already signed in.
func (s *Service) confirm(ctx context.Context, u *model.User, password model.Secret) error {
	subject := confirmSubject(u)
	ok, err := s.lockout.begin(subject, s.now())
	if err != nil {
		return err
	}
	if !ok {
		return model.Failure(model.KindLimited, "too many wrong passwords; try again in %d minutes", int(lockWindow.Minutes()))
	}
	ok, err = s.hasher.check(ctx, bounded(password), u.PasswordHash)
	if err != nil {
		s.lockout.cancel(subject)
		return err
	}
	s.lockout.settle(subject, ok, s.now())
	s.failed.wake()
	if !ok {
		return model.Invalid("current", "is not the current password")
	}
	return nil
}

// ResetAdmin gives the administrator name a generated password, which must be
// changed at the next sign-in, enables and unlocks the account and ends its
// sessions. NotFound if there is no such administrator.
func (s *Service) ResetAdmin(ctx context.Context, name string) (password model.Secret, err error) {
	user, err := s.find(strings.TrimSpace(name))
	if err != nil {
		return "", err
	}
	if user == nil || user.Role != model.RoleAdmin {
		return "", model.NotFound("administrator")
	}
	password = generatePassword()
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return "", err
	}
	locked := []subject{accountSubject(user), confirmSubject(user)}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := s.setPassword(tx, user, hash, true, ""); err != nil {
			return err
		}
		for _, subject := range locked {
			if err := s.lockout.unlock(tx, subject); err != nil {
				return err
			}
		}
		return events.Append(ctx, tx, s.now(), events.Entry{
			Type: "password_reset", Severity: model.SeverityWarning,
			Message: "The password of " + user.Username + " was reset", Details: map[string]any{"userId": user.ID},
		})
	})
	if err != nil {
		return "", err
	}
	for _, subject := range locked {
		s.lockout.forget(subject)
	}
	s.sessions.clear()
	s.tokens.clear() // the owner may have been disabled
	return password, nil
}

// setPassword stores hash for the user as it was read, and ends all sessions but
// keep. It returns the user as stored. Conflict if the password changed meanwhile.
func (s *Service) setPassword(tx *store.Tx, read *model.User, hash string, reset bool, keep model.SessionID) (*model.User, error) {
	u, err := store.Users.Get(tx, read.ID)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, model.NotFound("user")
	}
	if u.PasswordHash != read.PasswordHash {
		return nil, model.Conflict("", "the password was changed by somebody else meanwhile")
	}
	u.PasswordHash, u.MustChange, u.UpdatedAt = hash, reset, s.now().UTC()
	u.Enabled = u.Enabled || reset
	if err := store.Users.Put(tx, u); err != nil {
		return nil, err
	}
	sessions, err := store.Sessions.FindAll(tx, "user", userKey(u.ID))
	if err != nil {
		return nil, err
	}
	for _, old := range sessions {
		if old.ID == keep {
			continue
		}
		if _, err := store.Sessions.Delete(tx, old.ID); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// find returns the user of that name, nil if there is none.
func (s *Service) find(name string) (u *model.User, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		u, err = store.Users.Find(tx, "name", strings.ToLower(name))
		return err
	})
	return u, err
}

func (s *Service) user(id model.UserID) (u *model.User, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		u, err = store.Users.Get(tx, id)
		return err
	})
	if err == nil && u == nil {
		err = model.NotFound("user")
	}
	return u, err
}

// bounded replaces a password that no account can have by one that is cheap to
// hash and just as wrong.
func bounded(password model.Secret) model.Secret {
	if len(password) > 1024 {
		return ""
	}
	return password
}

func userKey(id model.UserID) string { return strconv.FormatInt(int64(id), 10) }

func errUnauthenticated() error { return model.Failure(model.KindUnauthenticated, "Unauthorized") }
