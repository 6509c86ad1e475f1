package peers

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/store/storetest"
)

var updateGolden = flag.Bool("update", false, "rewrite testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is the time in tests that do not care.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// bench is a service on a store of its own.
type bench struct {
	*Service
	db     *store.DB
	now    time.Time
	status map[model.PublicKey]model.PeerStatus
	meter  meter
}

// newBench serves the subnet; its gateway is the first address.
func newBench(t testing.TB, subnet string, change ...func(*Options)) *bench {
	t.Helper()
	b := &bench{db: storetest.Open(t), now: noon}
	prefix := netip.MustParsePrefix(subnet)
	o := Options{
		DB: b.db, Now: func() time.Time { return b.now }, Zone: "gc.internal",
		Status: func() map[model.PublicKey]model.PeerStatus { return b.status }, Meter: &b.meter,
		Tunnel: Tunnel{
			Subnet: prefix, Gateway: prefix.Addr().Next(), Endpoint: "vpn.example.com:51820",
			BaseURL: "https://gate.example.com/", ServerKey: fixedKey(9).Public(),
			AllowedIPs: "0.0.0.0/0", Keepalive: 25, MTU: 1420,
		},
	}
	for _, f := range change {
		f(&o)
	}
	b.Service = New(o)
	return b
}

// fixedKey is a private key of one repeated byte.
func fixedKey(n byte) (k model.PrivateKey) {
	for i := range k {
		k[i] = n
	}
	return k
}

func (b *bench) create(t testing.TB, name string, change ...func(*Input)) Created {
	t.Helper()
	in := Input{Name: model.Value(name)}
	for _, f := range change {
		f(&in)
	}
	c, err := b.Create(t.Context(), in)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return c
}

func (b *bench) get(t testing.TB, id model.PeerID) View {
	t.Helper()
	v, err := b.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// write runs f in a transaction of its own.
func (b *bench) write(t testing.TB, f func(*store.Tx) error) {
	t.Helper()
	if err := b.db.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// events returns what waits in the activity log, oldest first.
func (b *bench) events(t testing.TB) (list []*model.Event) {
	t.Helper()
	err := b.db.View(func(tx *store.Tx) error {
		for e, err := range store.Outbox.All(tx) {
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *bench) lastEvent(t testing.TB) *model.Event {
	t.Helper()
	list := b.events(t)
	if len(list) == 0 {
		t.Fatal("no event was written")
	}
	return list[len(list)-1]
}

// wantError checks the kind of err and, if field is not empty, that it is at
// fault.
func wantError(t testing.TB, err error, kind model.Kind, field string) *model.Error {
	t.Helper()
	e, ok := errors.AsType[*model.Error](err)
	if !ok || e.Kind != kind {
		t.Fatalf("error %v, want kind %s", err, kind)
	}
	if field == "" {
		return e
	}
	for _, f := range e.Fields {
		if f.Field == field {
			return e
		}
	}
	t.Fatalf("error %v names %v, want the field %s", err, e.Fields, field)
	return nil
}

// golden compares got with the file of that name, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
