package routes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
)

// asText spells a JSON value as the text of a column.
func asText(v string) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// authority is the certificate of one, as PEM, or that of a leaf.
func authority(t testing.TB, isCA bool) string { return authorityOf(t, isCA, nil) }

// authorityOf has the given public key, or one of its own if that is nil.
func authorityOf(t testing.TB, isCA bool, public any) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: noon.Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
	}
	if public == nil {
		public = key.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

type web = *model.Web

// step is a request and what the options of the route are after it, as a change
// of what they were before.
type step struct {
	body string
	want func(web)
}

// bad is a member that is refused, and the field that the refusal names.
type bad struct{ member, field string }

// optionRow is an option of contract-routes 2.2 to 2.5, 2.7, 2.8 and 11.1, or of
// ours. The first step creates a route, with all parameters.
type optionRow struct {
	name  string
	steps []step
	bad   []bad
}

// TestOptions takes each option through create, partial updates and clearing, as
// it is stored and as it is read, and has every bad value refused by its field.
func TestOptions(t *testing.T) {
	for _, row := range optionRows(t) {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t)
			const base = `{"domain":"a.example.com","target_port":8080,`
			want := model.DefaultWeb()
			var id model.RouteID
			for i, s := range row.steps {
				var v View
				var err error
				if i == 0 {
					v, err = b.Create(t.Context(), input(t, base+s.body+"}"))
					id = v.ID
				} else {
					v, err = b.Update(t.Context(), id, input(t, "{"+s.body+"}"))
				}
				if err != nil {
					t.Fatalf("%s: %v", s.body, err)
				}
				if s.want != nil {
					s.want(&want)
				}
				stored := b.get(t, id)
				for _, got := range []model.Web{v.Options(), stored.Options()} {
					if (got.BasicAuth.Hash != "") != got.BasicAuth.Enabled {
						t.Errorf("%s: a hash without a switch, or the reverse", s.body)
					}
					got.BasicAuth.Hash = ""
					if diff := cmp.Diff(want, got, cmpEmpty); diff != "" {
						t.Errorf("%s (-want +got):\n%s", s.body, diff)
					}
				}
			}
			if last := b.get(t, id); strings.Contains(row.name, "compress") && last.Web != nil {
				t.Error("the defaults are stored")
			}
			before := b.get(t, id)
			events := len(b.events(t))
			for _, c := range row.bad {
				refuse := func(err error) {
					t.Helper()
					wantError(t, err, model.KindInvalid, c.field)
				}
				var in Input
				if err := json.Unmarshal([]byte(base+c.member+"}"), &in); err != nil {
					refuse(err)
					continue
				}
				_, err := b.Update(t.Context(), id, in)
				refuse(err)
				in.Domain = model.Value("a.example.com")
				if err := b.Delete(t.Context(), id); err != nil { // the domain has to be free
					t.Fatal(err)
				}
				_, err = b.Create(t.Context(), in)
				refuse(err)
				b.write(t, func(tx *store.Tx) error { return store.Routes.Put(tx, &before.Route) })
				events++ // of the deletion
			}
			if diff := cmp.Diff(before.Route, b.get(t, id).Route, cmpAddr); diff != "" {
				t.Errorf("refusals left something behind:\n%s", diff)
			}
			if n := len(b.events(t)); n != events {
				t.Errorf("%d events, want %d", n, events)
			}
		})
	}
}

// TestPasswords looks at what is kept of one.
func TestPasswords(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("x", 100)
	v := b.create(t, `{"domain":"a.example.com","target_port":1,"basic_auth_user":"u","basic_auth_password":"`+long+`"}`)
	hash := v.Options().BasicAuth.Hash
	if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost != 10 {
		t.Errorf("cost %d, %v", cost, err)
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(long[:72])) != nil || bcrypt.CompareHashAndPassword([]byte(hash), []byte("x")) == nil {
		t.Error("the hash is not that of the password")
	}
	if raw, err := json.Marshal(b.events(t)); err != nil || strings.Contains(string(raw), long) || strings.Contains(string(raw), hash) {
		t.Error("an event holds the password")
	}
	for _, body := range []string{`{"basic_auth_user":"w"}`, `{"basic_auth_password":""}`, `{"basic_auth_enabled":true}`, `{"description":"x"}`} {
		v, err := b.Update(t.Context(), v.ID, input(t, body))
		if err != nil || v.Options().BasicAuth.Hash != hash {
			t.Errorf("%s: %v, %q", body, err, v.Options().BasicAuth.Hash)
		}
	}
	v, err := b.Update(t.Context(), v.ID, input(t, `{"basic_auth_password":"another one"}`))
	if err != nil || bcrypt.CompareHashAndPassword([]byte(v.Options().BasicAuth.Hash), []byte("another one")) != nil {
		t.Errorf("the new password does not fit: %v", err)
	}
}
