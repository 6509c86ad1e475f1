package accounts

import (
	"strings"
	"testing"

	"gatecontrol/model"
)

func TestEnsureAdminWithPassword(t *testing.T) {
	f := newFixture(t)
	generated, err := f.EnsureAdmin(t.Context(), "admin", adminPassword)
	if err != nil || generated != "" {
		t.Fatalf("got %v, %v", generated.Reveal(), err)
	}
	in := f.login(t, Attempt{Username: " Admin ", Password: adminPassword})
	if u := in.User; u.Username != "admin" || u.DisplayName != "Administrator" || u.Role != model.RoleAdmin || u.MustChange {
		t.Errorf("the administrator is %+v", u)
	}
	if !strings.HasPrefix(in.User.PasswordHash, "$argon2id$v=19$m=64,t=3,p=1$") {
		t.Errorf("the hash is %s", in.User.PasswordHash)
	}
	// Once there, another password in the environment changes nothing.
	if generated, err := f.EnsureAdmin(t.Context(), "ADMIN", "something else"); err != nil || generated != "" {
		t.Fatalf("got %v, %v", generated.Reveal(), err)
	}
	f.login(t, Attempt{Username: "admin", Password: adminPassword})
}

func TestEnsureAdminGenerates(t *testing.T) {
	f := newFixture(t)
	generated, err := f.EnsureAdmin(t.Context(), "admin", "")
	if err != nil {
		t.Fatal(err)
	}
	// 25 characters of 32 are 125 bits.
	if text := strings.ReplaceAll(generated.Reveal(), "-", ""); len(text) != 25 || strings.Trim(text, readable) != "" {
		t.Errorf("the generated password %q is not 25 readable characters", text)
	}
	in := f.login(t, Attempt{Username: "admin", Password: generated})
	if !in.User.MustChange {
		t.Error("a generated password need not be changed")
	}
	if _, _, err := f.ChangePassword(t.Context(), in.Session, generated, adminPassword); err != nil {
		t.Fatal(err)
	}
	if in := f.login(t, Attempt{Username: "admin", Password: adminPassword}); in.User.MustChange {
		t.Error("a changed password must be changed again")
	}
}

func TestEnsureAdminRefuses(t *testing.T) {
	for _, c := range []struct{ name, user, password, field string }{
		{"the password of every guide", "admin", "changeme", "GC_ADMIN_PASSWORD"},
		{"in capitals", "admin", "ChangeMe", "GC_ADMIN_PASSWORD"},
		{"short password", "admin", "1234567", "GC_ADMIN_PASSWORD"},
		{"no name", "", adminPassword, "GC_ADMIN_USER"},
		{"name with a space", "ad min", adminPassword, "GC_ADMIN_USER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.EnsureAdmin(t.Context(), c.user, c.password)
			wantKind(t, err, model.KindInvalid)
			if e := err.(*model.Error); e.Field != c.field {
				t.Errorf("the field is %q, want %q", e.Field, c.field)
			}
		})
	}
}

func TestChangePassword(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	mine := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	other := f.login(t, Attempt{Username: "admin", Password: adminPassword})

	for _, c := range []struct{ name, current, next, field string }{
		{"nothing", "", "", "current"},
		{"wrong current", "wrong password", "a new password", "current"},
		{"short", adminPassword, "short", "next"},
		{"changeme", adminPassword, "changeme", "next"},
		{"the same", adminPassword, adminPassword, "next"},
	} {
		_, _, err := f.ChangePassword(t.Context(), mine.Session, model.Secret(c.current), model.Secret(c.next))
		wantKind(t, err, model.KindInvalid)
		if e := err.(*model.Error); e.Field != c.field {
			t.Errorf("%s: the field is %q, want %q", c.name, e.Field, c.field)
		}
	}

	csrf, _, err := f.ChangePassword(t.Context(), mine.Session, adminPassword, "a new password")
	if err != nil {
		t.Fatal(err)
	}
	if csrf == mine.Session.CSRFToken || len(csrf) != 2*csrfSize {
		t.Errorf("the CSRF token is %q", csrf)
	}
	in, err := f.AuthenticateSession(mine.Cookie)
	if err != nil || in.Session.CSRFToken != csrf {
		t.Errorf("the own session: %v, %v", in, err)
	}
	_, err = f.AuthenticateSession(other.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
	_, err = f.Login(t.Context(), Attempt{Username: "admin", Password: adminPassword})
	wantKind(t, err, model.KindUnauthenticated)
	f.login(t, Attempt{Username: "admin", Password: "a new password"})
}

func TestChangePasswordIsNoWayToGuess(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	for range maxAttempts {
		_, _, err := f.ChangePassword(t.Context(), in.Session, "wrong password", "a new password")
		wantKind(t, err, model.KindInvalid)
	}
	_, _, err := f.ChangePassword(t.Context(), in.Session, adminPassword, "a new password")
	wantKind(t, err, model.KindLimited)
	f.login(t, Attempt{Username: "admin", Password: adminPassword}) // signing in is counted apart
	f.advance(lockWindow)
	in = f.login(t, Attempt{Username: "admin", Password: adminPassword})
	if _, _, err := f.ChangePassword(t.Context(), in.Session, adminPassword, "a new password"); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

func TestResetAdmin(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	for range maxAttempts {
		_, err := f.Login(t.Context(), Attempt{Username: "admin", Password: "wrong password"})
		wantKind(t, err, model.KindUnauthenticated)
		_, _, err = f.ChangePassword(t.Context(), in.Session, "wrong password", "a new password")
		wantKind(t, err, model.KindInvalid)
	}
	if err := f.FlushFailures(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := f.ResetAdmin(t.Context(), "nobody")
	wantKind(t, err, model.KindNotFound)

	password, err := f.ResetAdmin(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.AuthenticateSession(in.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
	in = f.login(t, Attempt{Username: "admin", Password: password})
	if !in.User.MustChange {
		t.Error("a reset password need not be changed")
	}
	if _, _, err := f.ChangePassword(t.Context(), in.Session, password, "a new password"); err != nil {
		t.Errorf("and cannot be changed: %v", err)
	}
}

func TestHashCost(t *testing.T) {
	h := newHasher()
	stored, err := h.hash(t.Context(), adminPassword)
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=65536,t=3,p=1$") {
		t.Fatalf("the hash is %s, %v", stored, err)
	}
	for password, want := range map[model.Secret]bool{adminPassword: true, "wrong password": false} {
		if ok, err := h.check(t.Context(), password, stored); ok != want || err != nil {
			t.Errorf("check is %v, %v, want %v", ok, err, want)
		}
	}
}

// The test vector of the reference implementation of argon2id.
func TestHashFromElsewhere(t *testing.T) {
	h := newHasher()
	const stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if ok, err := h.check(t.Context(), "password", stored); !ok || err != nil {
		t.Errorf("a known hash does not match: %v, %v", ok, err)
	}
}
