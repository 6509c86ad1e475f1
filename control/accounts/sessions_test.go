package accounts

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestLoginRefusesAlike(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	hash, err := f.hasher.hash(t.Context(), adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	err = f.db.Update(t.Context(), func(tx *store.Tx) error {
		for _, u := range []*model.User{
			{Username: "off", Role: model.RoleAdmin, PasswordHash: hash},
			{Username: "plain", Role: model.RoleUser, PasswordHash: hash, Enabled: true},
			{Username: "none", Role: model.RoleAdmin, PasswordHash: "!", Enabled: true},
		} {
			if err := store.Users.Insert(tx, u); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := errSignIn().Error()
	for _, c := range []struct{ name, user, password string }{
		{"wrong password", "admin", "wrong password"},
		{"empty password", "admin", ""},
		{"a huge password", "admin", strings.Repeat("x", 1<<20)},
		{"unknown user", "nobody", adminPassword},
		{"empty name", "", adminPassword},
		{"disabled", "off", adminPassword},
		{"role user", "plain", adminPassword},
		{"no password", "none", "!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: c.user, Password: model.Secret(c.password)})
			if in != nil || err == nil || err.Error() != want || model.KindOf(err) != model.KindUnauthenticated {
				t.Errorf("got %v, %v", in, err)
			}
		})
	}
}

func TestSession(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	got, err := f.AuthenticateSession(in.Cookie)
	if err != nil || got.User.Username != "admin" || got.Session.CSRFToken != in.Session.CSRFToken {
		t.Fatalf("got %+v, %v", got, err)
	}
	if strings.Contains(string(in.Session.ID), in.Cookie.Reveal()) || len(in.Session.ID) != 64 {
		t.Errorf("the session is stored as %s", in.Session.ID)
	}
	for _, bad := range []string{"", "x", in.Cookie.Reveal() + "x", strings.Repeat("A", 43), string(in.Session.ID)} {
		_, err := f.AuthenticateSession(model.Secret(bad))
		wantKind(t, err, model.KindUnauthenticated)
	}
	if err := f.Logout(t.Context(), in.Session.ID); err != nil {
		t.Fatal(err)
	}
	_, err = f.AuthenticateSession(in.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
}

func TestSessionLivesWhileUsed(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	used := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	idle := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	for i := range 6 {
		f.advance(45 * time.Minute)
		if _, err := f.AuthenticateSession(used.Cookie); err != nil {
			t.Fatalf("after %d uses: %v", i, err)
		}
		if i%2 == 0 { // written down or not makes no difference
			if err := f.FlushUse(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := f.AuthenticateSession(idle.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
	if err := f.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := 0
	err = f.db.View(func(tx *store.Tx) error {
		left = store.Sessions.Len(tx)
		return nil
	})
	if err != nil || left != 1 {
		t.Errorf("%d sessions are left, %v", left, err)
	}
	if err := f.FlushUse(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	if _, err := f.AuthenticateSession(used.Cookie); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	f.advance(time.Hour + time.Second)
	_, err = f.AuthenticateSession(used.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
}

func TestSessionEndsWithItsUser(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	if _, err := f.AuthenticateSession(in.Cookie); err != nil {
		t.Fatal(err)
	}
	err := f.db.Update(t.Context(), func(tx *store.Tx) error {
		in.User.Enabled = false
		return store.Users.Put(tx, in.User)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Forget() // as whoever writes the table from outside does
	_, err = f.AuthenticateSession(in.Cookie)
	wantKind(t, err, model.KindUnauthenticated)
}

func TestLockout(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	for _, name := range []string{"admin", "ghost"} {
		for range maxAttempts - 1 {
			_, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: name, Password: "wrong password"})
			wantKind(t, err, model.KindUnauthenticated)
		}
	}
	// Spaces and case make no other account; a success clears the count.
	f.login(t, Attempt{Username: " ADMIN", Password: adminPassword})
	for range maxAttempts {
		_, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: "Admin ", Password: "wrong password"})
		wantKind(t, err, model.KindUnauthenticated)
	}
	_, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: adminPassword})
	wantKind(t, err, model.KindUnauthenticated)

	if err := f.FlushFailures(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	_, err = f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: adminPassword})
	wantKind(t, err, model.KindUnauthenticated)
	f.advance(lockWindow - time.Second)
	_, err = f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: adminPassword})
	wantKind(t, err, model.KindUnauthenticated)
	f.advance(time.Second)
	f.login(t, Attempt{Username: "admin", Password: adminPassword})

	if err := f.FlushFailures(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, messages := f.events(t)
	for _, want := range []string{"account_locked system warning", "login_failed system warning", "login system info", "user_created system info"} {
		if !slices.Contains(list, want) {
			t.Errorf("no event %q among %q", want, list)
		}
	}
	if all := strings.Join(messages, "\n"); strings.Contains(all, "ghost") || strings.Contains(all, adminPassword) {
		t.Errorf("the activity log holds what was typed:\n%s", all)
	}
}

func TestLockoutHoldsAgainstManyAtOnce(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	var mu sync.Mutex
	checked := 0
	var wg sync.WaitGroup
	subject := subject{"user:1", true}
	for range 50 {
		wg.Go(func() {
			ok, err := f.lockout.begin(subject, f.Now())
			if err != nil {
				t.Error(err)
			}
			if ok {
				mu.Lock()
				checked++
				mu.Unlock()
				f.lockout.settle(subject, false, f.Now())
			}
		})
	}
	wg.Wait()
	if checked != maxAttempts {
		t.Errorf("%d of 50 tries at once were let through, want %d", checked, maxAttempts)
	}
}

func TestLockoutForgetsUnknownNames(t *testing.T) {
	f := newFixture(t)
	for i := range maxUnknown + 500 {
		s := nameSubject(strings.Repeat("x", i%7) + time.Duration(i).String())
		if ok, err := f.lockout.begin(s, f.Now()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		f.lockout.settle(s, false, f.Now())
	}
	if n := len(f.lockout.entries); n > maxUnknown {
		t.Errorf("%d names are remembered, want at most %d", n, maxUnknown)
	}
}

func TestKnownBrowserIsCountedApart(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	for range maxAttempts + 1 { // a stranger
		_, err := f.Login(from(t, "203.0.113.9"), Attempt{Username: "admin", Password: "wrong password"})
		wantKind(t, err, model.KindUnauthenticated)
	}
	forged := Attempt{Username: "admin", Password: adminPassword, Device: in.Device[:len(in.Device)-2] + "xx"}
	_, err := f.Login(from(t, "203.0.113.9"), forged)
	wantKind(t, err, model.KindUnauthenticated)

	f.login(t, Attempt{Username: "admin", Password: adminPassword, Device: in.Device})
	for range maxAttempts {
		_, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: "wrong password", Device: in.Device})
		wantKind(t, err, model.KindUnauthenticated)
	}
	_, err = f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: adminPassword, Device: in.Device})
	wantKind(t, err, model.KindUnauthenticated)
}

func TestKnownBrowserStaysKnown(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	_, device, err := f.ChangePassword(t.Context(), in.Session, adminPassword, "a new password")
	if err != nil {
		t.Fatal(err)
	}
	for range maxAttempts { // a stranger
		_, err := f.Login(from(t, "203.0.113.9"), Attempt{Username: "admin", Password: "wrong password"})
		wantKind(t, err, model.KindUnauthenticated)
	}
	_, err = f.Login(t.Context(), Attempt{Username: "admin", Password: "a new password", Device: in.Device})
	wantKind(t, err, model.KindUnauthenticated)
	f.login(t, Attempt{Username: "admin", Password: "a new password", Device: device})
}

func TestHasherIsBounded(t *testing.T) {
	h := newHasher()
	var ends []func()
	for range cap(h.turns) {
		end, err := h.begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	var wg sync.WaitGroup
	for range maxWaitingHashes {
		wg.Go(func() {
			if end, err := h.begin(t.Context()); err != nil {
				t.Error(err)
			} else {
				end()
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); h.waiting.Load() < maxWaitingHashes; {
		if time.Now().After(deadline) {
			t.Fatal("the queue never filled")
		}
		time.Sleep(time.Millisecond)
	}
	_, err := h.begin(t.Context())
	wantKind(t, err, model.KindUnavailable)
	for _, end := range ends {
		end()
	}
	wg.Wait()
}

func TestStoredHashesAreBounded(t *testing.T) {
	for name, stored := range map[string]string{
		"empty":           "",
		"none":            "!",
		"bcrypt":          "$2a$10$abcdefghijklmnopqrstuv",
		"too much memory": "$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"no passes":       "$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"no key":          "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$",
		"argon2i":         "$argon2i$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	} {
		if _, ok := parsePHC(stored); ok {
			t.Errorf("%s is taken as a hash", name)
		}
	}
}

func TestRun(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	done := make(chan error, 1)
	stop := startRun(t, f, done)
	_, err := f.Login(from(t, "192.0.2.1"), Attempt{Username: "admin", Password: "wrong password"})
	wantKind(t, err, model.KindUnauthenticated)
	deadline := time.Now().Add(10 * time.Second)
	for {
		list, _ := f.events(t)
		if slices.Contains(list, "login_failed system warning") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a failed login was never written")
		}
		time.Sleep(10 * time.Millisecond)
	}
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	f.advance(50 * time.Minute)
	if _, err := f.AuthenticateSession(in.Cookie); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	f.advance(50 * time.Minute)
	if _, err := f.AuthenticateSession(in.Cookie); err != nil {
		t.Errorf("the last use was not written at the end: %v", err)
	}
}
