package routes

import (
	"context"
	"encoding/json"
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

// noon is the time in tests that do not care.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// bench is a service on a store of its own, with three peers: 1 is enabled, 2 is
// disabled, 3 is a home gateway.
type bench struct {
	*Service
	db      *store.DB
	now     time.Time
	status  map[model.PublicKey]model.PeerStatus
	skipped map[model.RouteID]error
	bots    map[model.RouteID]uint64
	check   func(model.Probe) (model.Checked, error) // what Check comes to
}

func newBench(t testing.TB) *bench {
	t.Helper()
	db := storetest.Open(t)
	b := &bench{db: db, now: noon}
	b.Service = New(Options{
		DB: db, Now: func() time.Time { return b.now },
		Status:    func() map[model.PublicKey]model.PeerStatus { return b.status },
		Skipped:   func() map[model.RouteID]error { return b.skipped },
		BotCounts: func() map[model.RouteID]uint64 { return b.bots },
		Probe:     b.probe,
		Check:     func(_ context.Context, p model.Probe) (model.Checked, error) { return b.check(p) },
		HostAddrs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("203.0.113.9")} },
		Blocked:   []uint16{22, 53, 80, 443, 2019, 3000, 51820}, MaxRange: 100,
		AdminHost: "gate.example.com", ZoneDomain: "gc.internal", Tunnel: netip.MustParsePrefix("10.8.0.0/24"),
	})
	b.write(t, func(tx *store.Tx) error {
		for i, p := range []*model.Peer{
			{Name: "nas", Hostname: "nas", Enabled: true, Type: model.PeerRegular},
			{Name: "off", Type: model.PeerRegular},
			{Name: "home", Enabled: true, Type: model.PeerGateway},
		} {
			p.PublicKey = model.PublicKey{byte(i + 1)}
			p.AllowedIPs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.8.0.%d/32", i+2))}
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
	return b
}

// probe is how a route would be checked: one that is there, at a place of no matter.
func (b *bench) probe(id model.RouteID) (p model.Probe, ok bool) {
	_ = b.db.View(func(tx *store.Tx) error {
		r, err := store.Routes.Get(tx, id)
		if ok = err == nil && r != nil; ok {
			p = model.Probe{Route: id, Version: r.UpdatedAt, Backends: []model.ProbeTarget{{Addr: netip.AddrPortFrom(r.Target.Addr, r.Target.Port)}}}
			if r.L4 != nil && r.L4.Network == "udp" {
				p.Backends, p.Reason = nil, "it is UDP"
			}
		}
		return err
	})
	return p, ok
}

func (b *bench) write(t testing.TB, f func(*store.Tx) error) {
	t.Helper()
	if err := b.db.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func input(t testing.TB, body string) (in Input) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &in); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return in
}

func (b *bench) create(t testing.TB, body string) View {
	t.Helper()
	v, err := b.Create(t.Context(), input(t, body))
	if err != nil {
		t.Fatalf("create %s: %v", body, err)
	}
	return v
}

func (b *bench) get(t testing.TB, id model.RouteID) View {
	t.Helper()
	v, err := b.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

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

// show is a route on one line.
func show(v View) string {
	r := &v.Route
	l4 := "-"
	if r.L4 != nil {
		l4 = r.L4.Network + "/" + r.L4.Ports.String() + "/" + r.L4.TLS
	}
	desc := "-"
	if r.Description != nil {
		desc = *r.Description
	}
	return fmt.Sprintf("%s %q on=%t desc=%s peer=%d %s:%d https=%t backend=%t %s",
		r.Type, r.Domain, r.Enabled, desc, r.Target.Peer, r.Target.Addr, r.Target.Port, r.ForceHTTPS, r.BackendHTTPS, l4)
}
