package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newService(t testing.TB) (*Service, *store.DB) {
	t.Helper()
	db := storetest.Open(t)
	return New(Options{
		DB: db, Now: func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
		Exit: model.Exit{Enabled: true, PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}},
	}), db
}

// Each change builds on those before.
func TestExit(t *testing.T) {
	s, db := newService(t)
	for _, step := range []struct{ name, change, want string }{
		{"as the environment has it", `{}`, "{true [192.168.1.0/24] false}"},
		{"off", `{"enabled":0}`, "{false [192.168.1.0/24] false}"},
		{"a list", `{"private_networks":["fd12::/48","10.1.2.3/16"]}`, "{false [10.1.0.0/16 fd12::/48] false}"},
		{"a text", `{"private_networks":"10.1.0.0/16, 10.2.0.0/16","redirect_dns":"true"}`, "{false [10.1.0.0/16 10.2.0.0/16] true}"},
		{"none", `{"private_networks":[]}`, "{false [] true}"},
		{"back to the environment", `{"enabled":null,"private_networks":null,"redirect_dns":null}`, "{true [192.168.1.0/24] false}"},
	} {
		t.Run(step.name, func(t *testing.T) {
			if err := s.SetExit(t.Context(), input(t, step.change)); err != nil {
				t.Fatal(err)
			}
			got, err := s.Exit(t.Context())
			if err != nil || fmt.Sprint(got) != step.want {
				t.Errorf("%v, %v; want %s", got, err, step.want)
			}
		})
	}
	if err := db.View(func(tx *store.Tx) error {
		if n := store.Settings.Len(tx); n != 0 {
			t.Errorf("%d settings are stored after all went back", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func input(t testing.TB, text string) (in ExitInput) {
	t.Helper()
	if err := in.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestExitRefuses(t *testing.T) {
	s, _ := newService(t)
	err := s.SetExit(t.Context(), input(t, `{"enabled":false,"private_networks":["home"]}`))
	if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindInvalid || e.Field != "private_networks" {
		t.Errorf("%v", err)
	}
	if got, err := s.Exit(t.Context()); err != nil || !got.Enabled {
		t.Errorf("half of a refused change is there: %v, %v", got, err)
	}
	var in ExitInput
	if err := in.UnmarshalJSON([]byte(`{"enabled":"perhaps","private_networks":{}}`)); err == nil {
		t.Error("taken")
	}
}
