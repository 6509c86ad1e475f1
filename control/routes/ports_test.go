package routes

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"gatecontrol/model"
	"gatecontrol/store"
)

func port(network, ports string) string {
	return fmt.Sprintf(`{"route_type":"l4","l4_protocol":%q,"l4_listen_port":%q,"target_port":1}`, network, ports)
}

func TestPortConflicts(t *testing.T) {
	for _, c := range []struct {
		name            string
		have            []string // network and ports of enabled routes 1, 2, ...
		network, ports  string
		port, suggested uint16 // 0: no conflict
		with            model.RouteID
	}{
		{"free", []string{"tcp 3389"}, "tcp", "3390", 0, 0, 0},
		{"the same", []string{"tcp 3389"}, "tcp", "3389", 3389, 3390, 1},
		{"the other network", []string{"tcp 3389"}, "udp", "3389", 0, 0, 0},
		{"inside a range", []string{"tcp 5000-5010"}, "tcp", "5005", 5005, 5011, 1},
		{"a range around", []string{"tcp 5005"}, "tcp", "5000-5010", 5005, 5006, 1},
		{"a range beside", []string{"tcp 5000-5010"}, "tcp", "5011-5020", 0, 0, 0},
		{"overlapping ranges", []string{"tcp 5000-5010"}, "tcp", "5010-5012", 5010, 5011, 1},
		{"the suggestion is taken, too", []string{"tcp 3389", "tcp 3390-3400", "tcp 3402"}, "tcp", "3389", 3389, 3401, 1},
		{"the suggestion holds the whole range", []string{"tcp 5000", "tcp 5003"}, "tcp", "5000-5001", 5000, 5001, 1},
		{"no gap that holds the range", []string{"tcp 5000", "tcp 5003", "tcp 5006"}, "tcp", "5000-5002", 5000, 5007, 1},
		{"the suggestion passes reserved ports", []string{"tcp 2018"}, "tcp", "2018", 2018, 2020, 1},
		{"at the end", []string{"tcp 65535"}, "tcp", "65535", 65535, 0, 1},
		{"second of two", []string{"udp 1000", "tcp 1000"}, "tcp", "1000", 1000, 1001, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			for _, h := range c.have {
				var network, ports string
				if _, err := fmt.Sscan(h, &network, &ports); err != nil {
					t.Fatal(err)
				}
				b.create(t, port(network, ports))
			}
			_, err := b.Create(t.Context(), input(t, port(c.network, c.ports)))
			if c.port == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e := wantError(t, err, model.KindConflict, "l4_listen_port")
			want := model.PortConflict{Port: c.port, ConflictRouteID: c.with, SuggestedPort: c.suggested}
			if e.Code != "PORT_CONFLICT" || e.Detail != want {
				t.Errorf("%s %+v, want %+v", e.Code, e.Detail, want)
			}
		})
	}
}

func TestPortConflictOnEnable(t *testing.T) {
	b := newBench(t)
	first := b.create(t, port("tcp", "3389"))
	if _, err := b.Toggle(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	second := b.create(t, port("tcp", "3389")) // a disabled route holds no port
	for name, enable := range map[string]func() error{
		"toggle": func() error { _, err := b.Toggle(t.Context(), first.ID); return err },
		"batch": func() error {
			_, err := b.Batch(t.Context(), "enable", []int64{int64(second.ID), int64(first.ID)})
			return err
		},
		"update": func() error {
			_, err := b.Update(t.Context(), first.ID, input(t, `{"enabled":true}`))
			return err
		},
	} {
		if e := wantError(t, enable(), model.KindConflict, "l4_listen_port"); e.Code != "PORT_CONFLICT" {
			t.Errorf("%s: code %s", name, e.Code)
		}
		if b.get(t, first.ID).Enabled || !b.get(t, second.ID).Enabled {
			t.Errorf("%s: something changed", name)
		}
	}
	// Two that are both disabled stand against each other.
	if _, err := b.Toggle(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	_, err := b.Batch(t.Context(), "enable", []int64{1, 2})
	wantError(t, err, model.KindConflict, "l4_listen_port")
	if b.get(t, first.ID).Enabled || b.get(t, second.ID).Enabled {
		t.Error("half of a batch was applied")
	}
	// A disabled one may move onto a taken port and clashes only when enabled.
	if _, err := b.Toggle(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(t.Context(), first.ID, input(t, `{"description":"x"}`)); err != nil {
		t.Error(err)
	}
}

// A port that was reserved after the route was stored cannot be enabled, but the
// route can be disabled.
func TestPortReservedLater(t *testing.T) {
	b := newBench(t)
	r := &model.Route{
		Type: model.RouteL4, Enabled: true, Target: model.Target{Addr: defaultTarget, Port: 1},
		L4: &model.L4{Network: "tcp", Ports: model.PortRange{First: 443, Last: 443}, TLS: model.TLSNone},
	}
	b.write(t, func(tx *store.Tx) error { return store.Routes.Insert(tx, r) })
	if _, err := b.Toggle(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	_, err := b.Toggle(t.Context(), r.ID)
	wantError(t, err, model.KindInvalid, "l4_listen_port")
}

// Random routes against a list that is searched from end to end.
func TestPortsAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := newBench(t)
	type row struct {
		network string
		ports   model.PortRange
	}
	have := map[model.RouteID]row{}
	for range 150 {
		if len(have) > 0 && rnd.IntN(4) == 0 {
			for id := range have {
				if err := b.Delete(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				delete(have, id)
				break
			}
			continue
		}
		first := uint16(60_000 + rnd.IntN(60))
		r := row{[]string{"tcp", "udp"}[rnd.IntN(2)], model.PortRange{First: first, Last: first + uint16(rnd.IntN(5))}}
		clash := false
		for _, h := range have {
			clash = clash || h.network == r.network && h.ports.Overlaps(r.ports)
		}
		v, err := b.Create(t.Context(), input(t, port(r.network, r.ports.String())))
		if (err != nil) != clash {
			t.Fatalf("%v against %v: %v", r, have, err)
		}
		if err == nil {
			have[v.ID] = r
		}
	}
}
