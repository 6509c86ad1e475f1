package peers

import (
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestSetHostname(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct {
		name     string
		hostname model.Field[string]
		assigned string
		changed  bool
		kind     model.Kind // an error, if not KindInternal
	}{
		{"plain", model.Value("desk"), "desk", true, 0},
		{"upper case and spaces", model.Value("  DESK "), "desk", true, 0},
		{"the same", model.Value("old"), "old", false, 0},
		{"taken by a peer", model.Value("nas"), "nas-2", true, 0},
		{"taken twice", model.Value("tv"), "tv-3", true, 0},
		{"taken, of full length", model.Value(long), long[:61] + "-2", true, 0},
		{"taken by a route", model.Value("wiki"), "wiki-2", true, 0},
		{"taken by the administration", model.Value("gate"), "gate-2", true, 0},
		{"empty takes it away", model.Value(""), "", true, 0},
		{"null takes it away", model.Field[string]{Set: true, Null: true}, "", true, 0},
		{"absent", model.Field[string]{}, "", false, model.KindInvalid},
		{"dots", model.Value("a.b"), "", false, model.KindInvalid},
		{"too long", model.Value(long + "a"), "", false, model.KindInvalid},
		{"hyphen at the end", model.Value("a-"), "", false, model.KindInvalid},
		{"reserved", model.Value("Gateway"), "", false, model.KindInvalid},
		{"line break", model.Value("a\nb"), "", false, model.KindInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24", func(o *Options) { o.Tunnel.BaseURL = "https://gate.gc.internal" })
			host := func(h string) func(*Input) { return func(in *Input) { in.Hostname = model.Value(h) } }
			b.create(t, "nas", host("nas"))
			b.create(t, "tv", host("tv"))
			b.create(t, "tv too", host("tv-2"))
			b.create(t, "long", host(long))
			b.write(t, func(tx *store.Tx) error {
				return store.Routes.Insert(tx, &model.Route{Type: model.RouteHTTP, Domain: "wiki.gc.internal"})
			})
			p := b.create(t, "p", host("old"))
			before := len(b.events(t))
			b.now = noon.Add(time.Hour)

			v, assigned, changed, err := b.SetHostname(t.Context(), p.ID, c.hostname)
			if c.kind != model.KindInternal {
				wantError(t, err, c.kind, "hostname")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if assigned != c.assigned || changed != c.changed || v.Hostname != c.assigned || b.get(t, p.ID).Hostname != c.assigned {
				t.Errorf("%q, changed %t; stored %q", assigned, changed, b.get(t, p.ID).Hostname)
			}
			wantSource := model.HostnameAdmin
			if c.assigned == "" {
				wantSource = model.HostnameNone
			}
			if v.HostnameSource != wantSource || (v.HostnameReportedAt == nil) != (c.assigned == "") {
				t.Errorf("source %q at %v", v.HostnameSource, v.HostnameReportedAt)
			}
			if n := len(b.events(t)) - before; n != map[bool]int{true: 1, false: 0}[c.changed] {
				t.Errorf("%d events", n)
			}
		})
	}
}

func TestHostnameEvent(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "p")
	if _, _, _, err := b.SetHostname(t.Context(), p.ID, model.Value("nas")); err != nil {
		t.Fatal(err)
	}
	e := b.lastEvent(t)
	if want := `{"assigned":"nas","peerId":1,"previous":null,"source":"admin"}`; e.Type != "peer_hostname_changed" || string(e.Details) != want {
		t.Errorf("%s %s", e.Type, e.Details)
	}
}

func TestHostnameOfAgentBecomesAdmins(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.known(t, func(p *model.Peer) { p.Hostname, p.HostnameSource = "nas", model.HostnameAgent })
	v, _, changed, err := b.SetHostname(t.Context(), p.ID, model.Value("nas"))
	if err != nil || changed || v.HostnameSource != model.HostnameAdmin {
		t.Errorf("changed %t, source %q: %v", changed, v.HostnameSource, err)
	}
}

func TestHostnameVariantsRunOut(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.fill(t, maxHostnameVariant+1)
	b.write(t, func(tx *store.Tx) error {
		for id := model.PeerID(1); id <= maxHostnameVariant; id++ {
			p, err := load(tx, id)
			if err != nil {
				return err
			}
			p.Hostname = "nas"
			if id > 1 {
				p.Hostname = model.HostnameVariant("nas", int(id))
			}
			if err := store.Peers.Put(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
	_, _, _, err := b.SetHostname(t.Context(), maxHostnameVariant+1, model.Value("nas"))
	wantError(t, err, model.KindConflict, "hostname")
	if _, assigned, _, err := b.SetHostname(t.Context(), maxHostnameVariant, model.Value("nas")); err != nil || assigned != "nas-99" {
		t.Errorf("the last variant: %q, %v", assigned, err)
	}
}

// A port route with a domain in the zone is resolved there, too.
func TestHostnameOfAPortRoute(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	b.write(t, func(tx *store.Tx) error {
		return store.Routes.Insert(tx, &model.Route{Type: model.RouteL4, Domain: "git.gc.internal", L4: &model.L4{Network: "tcp"}})
	})
	p := b.create(t, "p", func(in *Input) { in.Hostname = model.Value("git") })
	if p.Hostname != "git-2" {
		t.Errorf("the peer is called %q", p.Hostname)
	}
}
