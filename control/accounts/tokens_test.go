package accounts

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestToken(t *testing.T) {
	f := newFixture(t)
	value, token, err := f.CreateToken(t.Context(), TokenInput{Name: " scripts ", Scopes: []string{"peers", "routes", "peers"}})
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^gc_[0-9a-f]{96}$`).MatchString(value.Reveal()) {
		t.Errorf("the token has another form")
	}
	if token.Name != "scripts" || !slices.Equal(token.Scopes, []model.Scope{"peers", "routes"}) || strings.Contains(token.Hash, value.Reveal()) {
		t.Errorf("the token is %+v", token)
	}
	c, err := f.AuthenticateToken(value)
	if err != nil || c.Token.ID != token.ID {
		t.Fatalf("got %+v, %v", c, err)
	}
	list, err := f.Tokens()
	if err != nil || len(list) != 1 || list[0].LastUsedAt == nil || !list[0].LastUsedAt.Equal(f.Now()) {
		t.Errorf("the list is %+v, %v", list, err)
	}
	if err := f.FlushUse(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	if list, err := f.Tokens(); err != nil || list[0].LastUsedAt == nil {
		t.Errorf("the last use was not written: %v", err)
	}
	if _, err := f.AuthenticateToken(value); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	for _, bad := range []model.Secret{"", "gc_", value[:len(value)-1], value + "0", model.Secret(strings.ToUpper(value.Reveal())), "gc_" + model.Secret(strings.Repeat("0", 96))} {
		_, err := f.AuthenticateToken(bad)
		wantKind(t, err, model.KindUnauthenticated)
	}
	if err := f.DeleteToken(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	_, err = f.AuthenticateToken(value)
	wantKind(t, err, model.KindUnauthenticated)
	wantKind(t, f.DeleteToken(t.Context(), token.ID), model.KindNotFound)
	if list, _ := f.events(t); !slices.Contains(list, "token_created user info") || !slices.Contains(list, "token_deleted user warning") {
		t.Errorf("the events are %q", list)
	}
}

func TestTokenExpires(t *testing.T) {
	f := newFixture(t)
	value, _, err := f.CreateToken(t.Context(), TokenInput{Name: "t", Scopes: []string{"peers"}, ExpiresAt: "2026-05-01T13:00:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.AuthenticateToken(value); err != nil {
		t.Fatal(err)
	}
	f.advance(time.Hour)
	_, err = f.AuthenticateToken(value)
	wantKind(t, err, model.KindUnauthenticated)
}

func TestTokenInput(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name   string
		in     TokenInput
		fields []string
	}{
		{"nothing", TokenInput{}, []string{"name", "scopes"}},
		{"a long name", TokenInput{Name: strings.Repeat("ä", 101), Scopes: []string{"peers"}}, []string{"name"}},
		{"a line break", TokenInput{Name: "a\nb", Scopes: []string{"peers"}}, []string{"name"}},
		{"an unknown scope", TokenInput{Name: "a", Scopes: []string{"peers", "all"}}, []string{"scopes"}},
		{"the past", TokenInput{Name: "a", Scopes: []string{"peers"}, ExpiresAt: "2026-04-30"}, []string{"expires_at"}},
		{"no date", TokenInput{Name: "a", Scopes: []string{"peers"}, ExpiresAt: "soon"}, []string{"expires_at"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := f.CreateToken(t.Context(), c.in)
			wantKind(t, err, model.KindInvalid)
			var got []string
			for _, field := range err.(*model.Error).Fields {
				got = append(got, field.Field)
			}
			if !slices.Equal(got, c.fields) {
				t.Errorf("the fields are %q, want %q", got, c.fields)
			}
		})
	}
	if list, err := f.Tokens(); err != nil || len(list) != 0 {
		t.Errorf("refused tokens were stored: %v, %v", list, err)
	}
}

func TestTokenOfAUser(t *testing.T) {
	f := newFixture(t)
	owner := &model.User{Username: "device", Role: model.RoleUser, PasswordHash: "!", Enabled: true}
	value := model.Secret(TokenPrefix + randomHex(tokenSize))
	put := func(f func(tx *store.Tx) error) func(*fixture) {
		return func(x *fixture) {
			t.Helper()
			if err := x.db.Update(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			x.Forget()
		}
	}
	put(func(tx *store.Tx) error {
		if err := store.Users.Insert(tx, owner); err != nil {
			return err
		}
		return store.Tokens.Insert(tx, &model.Token{
			Name: "t", Hash: hashHex(value), User: owner.ID, Scopes: []model.Scope{model.ScopePeers, model.ScopeClient, model.ScopeFull},
		})
	})(f)
	c, err := f.AuthenticateToken(value)
	if err != nil || !slices.Equal(c.Scopes, []model.Scope{model.ScopeClient}) {
		t.Errorf("role user: %+v, %v", c, err)
	}
	put(func(tx *store.Tx) error { owner.Role = model.RoleAdmin; return store.Users.Put(tx, owner) })(f)
	if c, err := f.AuthenticateToken(value); err != nil || len(c.Scopes) != 3 {
		t.Errorf("role admin: %+v, %v", c, err)
	}
	put(func(tx *store.Tx) error { owner.Enabled = false; return store.Users.Put(tx, owner) })(f)
	_, err = f.AuthenticateToken(value)
	wantKind(t, err, model.KindForbidden)
	put(func(tx *store.Tx) error { _, err := store.Users.Delete(tx, owner.ID); return err })(f)
	_, err = f.AuthenticateToken(value)
	wantKind(t, err, model.KindUnauthenticated)
}

func TestNoSecretReachesStoreOrLog(t *testing.T) {
	f := newFixture(t)
	f.admin(t)
	in := f.login(t, Attempt{Username: "admin", Password: adminPassword})
	value, _, err := f.CreateToken(t.Context(), TokenInput{Name: "t", Scopes: []string{"peers"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Login(from(t, "192.0.2.1"), Attempt{Username: "marked-as-a-name", Password: "marked-as-a-password"})
	wantKind(t, err, model.KindUnauthenticated)
	if err := f.FlushFailures(t.Context()); err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	if _, err := f.db.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{adminPassword, in.Cookie.Reveal(), in.Device.Reveal(), value.Reveal(), value.Reveal()[3:], "marked-as"} {
		if strings.Contains(file.String(), secret) || strings.Contains(f.log.String(), secret) {
			t.Errorf("%.12s… is in the store or the log", secret)
		}
	}
}

func BenchmarkAuthenticateToken(b *testing.B) {
	f := newFixture(b)
	value, _, err := f.CreateToken(b.Context(), TokenInput{Name: "t", Scopes: []string{"peers"}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.AuthenticateToken(value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthenticateSession(b *testing.B) {
	f := newFixture(b)
	f.admin(b)
	in := f.login(b, Attempt{Username: "admin", Password: adminPassword})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.AuthenticateSession(in.Cookie); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	h := newHasher()
	for b.Loop() {
		if ok, err := h.check(b.Context(), "x", nobody); ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
