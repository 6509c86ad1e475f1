package peers

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatecontrol/model"
	"gatecontrol/store"
)

// TestDeleteForgets deletes a peer that options of routes name. Nothing of them
// opens by that.
func TestDeleteForgets(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	gone, stays := b.create(t, "gone"), b.create(t, "stays")
	web := func(change func(*model.Web)) *model.Web {
		w := model.DefaultWeb()
		change(&w)
		return &w
	}
	for _, c := range []struct {
		name      string
		was, want func(*model.Web)
		disabled  bool
	}{
		{"ACL with another", func(w *model.Web) { w.ACL = model.ACL{Enabled: true, Peers: []model.PeerID{gone.ID, stays.ID}} },
			func(w *model.Web) { w.ACL = model.ACL{Enabled: true, Peers: []model.PeerID{stays.ID}} }, false},
		{"ACL with nobody else lets nobody in", func(w *model.Web) { w.ACL = model.ACL{Enabled: true, Peers: []model.PeerID{gone.ID}} },
			func(w *model.Web) { w.ACL.Enabled = true }, false},
		{"a backend", func(w *model.Web) {
			w.Backends = []model.Backend{{Peer: gone.ID, Port: 1, Weight: 1}, {Peer: stays.ID, Port: 1, Weight: 1}, {Peer: gone.ID, Port: 2, Weight: 1}}
		}, func(w *model.Web) { w.Backends = []model.Backend{{Peer: stays.ID, Port: 1, Weight: 1}} }, false},
		{"a mirror", func(w *model.Web) {
			w.Mirror = model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: gone.ID, Port: 1}, {Peer: stays.ID, Port: 1}}}
		}, func(w *model.Web) {
			w.Mirror = model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: stays.ID, Port: 1}}}
		}, false},
		{"the only mirror", func(w *model.Web) {
			w.Mirror = model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: gone.ID, Port: 1}}}
		}, func(*model.Web) {}, false},
		{"the target of a path", func(w *model.Web) {
			w.Paths = []model.Path{{Prefix: "/a", Peer: gone.ID, Port: 1}, {Prefix: "/b", Port: 2}}
		}, func(w *model.Web) { w.Paths = []model.Path{{Prefix: "/b", Port: 2}} }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &model.Route{Type: model.RouteHTTP, Enabled: true, Domain: "a.example.com", Target: model.Target{Peer: stays.ID, Port: 80}, Web: web(c.was)}
			b.write(t, func(tx *store.Tx) error {
				found, err := store.Routes.Find(tx, "domain", r.Domain)
				if err == nil && found != nil {
					_, err = store.Routes.Delete(tx, found.ID)
				}
				if err != nil {
					return err
				}
				if err := store.Routes.Insert(tx, r); err != nil {
					return err
				}
				p, err := load(tx, gone.ID)
				if err != nil {
					return err
				}
				if err := remove(t.Context(), tx, p, b.now); err != nil {
					return err
				}
				got, err := store.Routes.Get(tx, r.ID)
				if err != nil {
					return err
				}
				if diff := cmp.Diff(web(c.want), got.Web, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if got.Enabled == c.disabled || got.Target.Peer != stays.ID || got.Names(gone.ID) || slices.Contains(got.Peers(), gone.ID) {
					t.Errorf("%+v", got)
				}
				left, err := store.Routes.FindAll(tx, "peer", gone.ID.String())
				if err == nil && len(left) > 0 {
					t.Error("the index still has it")
				}
				if err == nil {
					err = store.Peers.Put(tx, p) // for the next case
				}
				return err
			})
			want := "route_updated"
			if c.disabled {
				want = "route_disabled"
			}
			if e := b.lastEvent(t); e.Type != want {
				t.Errorf("event %s, want %s", e.Type, want)
			}
		})
	}
}
