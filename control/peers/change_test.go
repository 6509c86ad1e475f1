package peers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestUpdate(t *testing.T) {
	show := func(p *model.Peer) string {
		desc, exp := "nil", "nil"
		if p.Description != nil {
			desc = *p.Description
		}
		if p.ExpiresAt != nil {
			exp = p.ExpiresAt.Format(time.RFC3339)
		}
		return fmt.Sprintf("%s|%s|%s|%s|%v|%d|%t|%d", p.Name, desc, p.Tags, exp, p.DNS, p.Keepalive, p.Enabled, p.User)
	}
	const was = "old|d|t|2030-01-01T23:59:59Z|[1.1.1.1]|30|true|1"
	own := fixedKey(1).Public().String()
	for _, c := range []struct{ name, body, want, field string }{
		{name: "nothing", body: `{}`, want: was},
		{name: "one field", body: `{"name":"new"}`, want: strings.Replace(was, "old", "new", 1)},
		{name: "its own name", body: `{"name":"old"}`, want: was},
		{name: "null clears texts", body: `{"description":null,"tags":null}`, want: "old|||2030-01-01T23:59:59Z|[1.1.1.1]|30|true|1"},
		{name: "empty clears texts", body: `{"description":"","tags":""}`, want: "old|||2030-01-01T23:59:59Z|[1.1.1.1]|30|true|1"},
		{name: "null clears the rest", body: `{"expires_at":null,"dns":null,"user_id":null}`, want: "old|d|t|nil|[]|30|true|0"},
		{name: "empty clears the rest", body: `{"expires_at":"","dns":"","user_id":""}`, want: "old|d|t|nil|[]|30|true|0"},
		{name: "keepalive off", body: `{"persistentKeepalive":0}`, want: strings.Replace(was, "|30|", "|0|", 1)},
		{name: "keepalive null is the default", body: `{"persistentKeepalive":null}`, want: strings.Replace(was, "|30|", "|25|", 1)},
		{name: "enabled null is false", body: `{"enabled":null}`, want: strings.Replace(was, "true", "false", 1)},
		{name: "enabled 0", body: `{"enabled":0}`, want: strings.Replace(was, "true", "false", 1)},
		{name: "what was read, sent back", body: `{"name":"old","public_key":"` + own + `","hostname":"x","peer_type":"gateway","is_gateway":true,"api_port":1}`, want: was},
		{name: "null name", body: `{"name":null}`, field: "name"},
		{name: "name in use", body: `{"name":"other"}`, field: "name"},
		{name: "bad DNS", body: `{"dns":"x"}`, field: "dns"},
		{name: "unknown group", body: `{"group_id":1}`, field: "group_id"},
		{name: "unknown user", body: `{"user_id":9}`, field: "user_id"},
		{name: "another key", body: `{"public_key":"` + fixedKey(5).Public().String() + `"}`, field: "public_key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			b.write(t, func(tx *store.Tx) error { return store.Users.Insert(tx, &model.User{Username: "u"}) })
			b.create(t, "other")
			p := b.known(t)
			if _, err := b.Update(t.Context(), p.ID, input(t, `{"name":"old","description":"d","tags":"t","expires_at":"2030-01-01","dns":"1.1.1.1","persistentKeepalive":30,"user_id":1}`)); err != nil {
				t.Fatal(err)
			}
			b.now = noon.Add(time.Hour)
			v, err := b.Update(t.Context(), p.ID, input(t, c.body))
			stored := b.get(t, p.ID)
			if c.field != "" {
				wantError(t, err, model.KindInvalid, c.field)
				if got := show(&stored.Peer); got != was {
					t.Errorf("a refusal changed the peer to %s", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := show(&stored.Peer); got != c.want || show(&v.Peer) != got {
				t.Errorf("stored %s, want %s", got, c.want)
			}
			if !stored.UpdatedAt.Equal(b.now) || !stored.CreatedAt.Equal(noon) || stored.Hostname != "" || stored.Type != model.PeerRegular {
				t.Errorf("%+v", stored.Peer)
			}
			if e := b.lastEvent(t); e.Type != "peer_updated" || string(e.Details) != `{"peerId":2}` {
				t.Errorf("event %s %s", e.Type, e.Details)
			}
		})
	}
	b := newBench(t, "10.8.0.0/24")
	_, err := b.Update(t.Context(), 1, Input{})
	wantError(t, err, model.KindNotFound, "")
}

func TestToggle(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	p := b.create(t, "a")
	for _, want := range []bool{false, true} {
		v, err := b.Toggle(t.Context(), p.ID)
		if err != nil || v.Enabled != want || b.get(t, p.ID).Enabled != want {
			t.Fatalf("enabled %t, want %t: %v", v.Enabled, want, err)
		}
		if e := b.lastEvent(t); e.Type != map[bool]string{true: "peer_enabled", false: "peer_disabled"}[want] {
			t.Errorf("event %s", e.Type)
		}
	}
	_, err := b.Toggle(t.Context(), 99)
	wantError(t, err, model.KindNotFound, "")
}

// Both ways to delete a peer share what becomes of the rest.
func TestDeleteDetaches(t *testing.T) {
	for _, c := range []struct {
		name, event, details string
		del                  func(*bench, *testing.T, model.PeerID) error
	}{
		{"one", "peer_deleted", `{"ip":"10.8.0.2","peerId":1}`, func(b *bench, t *testing.T, id model.PeerID) error { return b.Delete(t.Context(), id) }},
		{"batch", "batch_peers_deleted", `{"action":"delete","peerIds":[1]}`, func(b *bench, t *testing.T, id model.PeerID) error {
			_, err := b.Batch(t.Context(), "delete", []int64{int64(id)})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			gone, stays := b.create(t, "gone"), b.create(t, "stays")
			target := func(p Created) model.Target { return model.Target{Peer: p.ID, Addr: p.Address(), Port: 80} }
			token := &model.Token{Name: "t", Hash: "h", Peer: gone.ID}
			b.write(t, func(tx *store.Tx) error {
				for i, r := range []*model.Route{
					{Domain: "a.example.com", Enabled: true, Target: target(gone)},
					{Domain: "b.example.com", Enabled: false, Target: target(gone)},
					{Domain: "c.example.com", Enabled: true, Target: target(stays)},
				} {
					if r.Type = model.RouteHTTP; i == 1 {
						r.Type = model.RouteL4
					}
					if err := store.Routes.Insert(tx, r); err != nil {
						return err
					}
				}
				if err := store.Tokens.Insert(tx, token); err != nil {
					return err
				}
				return store.Counters.Put(tx, &model.PeerCounters{ID: gone.ID, TotalRx: 1})
			})
			if err := c.del(b, t, gone.ID); err != nil {
				t.Fatal(err)
			}
			_, err := b.Get(t.Context(), gone.ID)
			wantError(t, err, model.KindNotFound, "")
			if e := b.lastEvent(t); e.Type != c.event || e.Severity != model.SeverityWarning || string(e.Details) != c.details {
				t.Errorf("event %s %s %s", e.Type, e.Severity, e.Details)
			}
			next := b.create(t, "next")
			if next.Address() != gone.Address() {
				t.Fatalf("the address %s was not used again", gone.Address())
			}
			if next.ID == gone.ID {
				t.Error("the number was used again")
			}
			err = b.db.View(func(tx *store.Tx) error {
				for id, want := range map[model.RouteID]bool{1: false, 2: false, 3: true} {
					r, err := store.Routes.Get(tx, id)
					if err != nil {
						return err
					}
					if r.Enabled != want || (r.Target.Peer != 0) != want {
						t.Errorf("route %d: enabled %t, peer %d", id, r.Enabled, r.Target.Peer)
					}
				}
				tok, err := store.Tokens.Get(tx, token.ID)
				if err != nil {
					return err
				}
				if tok.Peer != 0 {
					t.Error("the token is still bound")
				}
				cnt, err := store.Counters.Get(tx, gone.ID)
				if cnt != nil {
					t.Error("the counters are still there")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			disabled := 0
			for _, e := range b.events(t) {
				if e.Type == "route_disabled" {
					disabled++
				}
			}
			if disabled != 1 {
				t.Errorf("%d routes were told as disabled, one was enabled", disabled)
			}
		})
	}
}

func TestBatch(t *testing.T) {
	for _, c := range []struct {
		name, action string
		ids          []int64
		kind         model.Kind
		field        string
		affected     int
		enabled      string // of peers 1 to 3 afterwards; - is gone
	}{
		{"disable", "disable", []int64{1, 2}, 0, "", 2, "001"},
		{"enable", "enable", []int64{3, 1}, 0, "", 2, "111"},
		{"delete", "delete", []int64{2}, 0, "", 1, "1-1"},
		{"the same twice", "disable", []int64{1, 1}, 0, "", 1, "011"},
		{"one unknown", "disable", []int64{1, 9}, model.KindNotFound, "", 0, "111"},
		{"one unknown to delete", "delete", []int64{1, 9}, model.KindNotFound, "", 0, "111"},
		{"none", "disable", nil, model.KindInvalid, "ids", 0, "111"},
		{"another action", "explode", []int64{1}, model.KindInvalid, "action", 0, "111"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			for _, n := range []string{"a", "b", "c"} {
				b.create(t, n)
			}
			before := len(b.events(t))
			n, err := b.Batch(t.Context(), c.action, c.ids)
			if c.kind != 0 {
				wantError(t, err, c.kind, c.field)
				if len(b.events(t)) != before {
					t.Error("a refusal left an event")
				}
			} else if err != nil || n != c.affected {
				t.Errorf("affected %d, want %d: %v", n, c.affected, err)
			} else if e := b.lastEvent(t); e.Type != "batch_peers_"+c.action+"d" {
				t.Errorf("event %s", e.Type)
			}
			got := ""
			for id := model.PeerID(1); id <= 3; id++ {
				v, err := b.Get(t.Context(), id)
				switch {
				case err != nil:
					got += "-"
				case v.Enabled:
					got += "1"
				default:
					got += "0"
				}
			}
			if got != c.enabled {
				t.Errorf("enabled %s, want %s", got, c.enabled)
			}
		})
	}
}

func TestListAndGet(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	a := b.create(t, "z")
	b.create(t, "a")
	b.create(t, "m")
	b.write(t, func(tx *store.Tx) error {
		return store.Counters.Put(tx, &model.PeerCounters{ID: a.ID, TotalRx: 7, TotalTx: 8})
	})
	b.status = map[model.PublicKey]model.PeerStatus{a.PublicKey: {PublicKey: a.PublicKey, LastHandshake: noon.Add(-time.Minute), RxBytes: 5}}
	for _, c := range []struct {
		limit, offset int
		want          string
	}{
		{0, 0, "z a m"}, {250, 0, "z a m"}, {1000, 0, "z a m"}, {2, 0, "z a"}, {2, 1, "a m"}, {2, 3, ""}, {1, -5, "z"},
	} {
		page, total, err := b.List(t.Context(), c.limit, c.offset)
		var names []string
		for _, v := range page {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != c.want || total != 3 || err != nil {
			t.Errorf("List(%d, %d) = %q of %d, %v; want %q", c.limit, c.offset, got, total, err, c.want)
		}
	}
	v := b.get(t, a.ID)
	if !v.Online || v.Status == nil || v.Status.RxBytes != 5 || v.Counters.TotalRx != 7 {
		t.Errorf("%+v", v)
	}
	b.now = noon.Add(2 * time.Minute)
	if b.get(t, a.ID).Online {
		t.Error("online 180 s after the last handshake")
	}
	if v := b.get(t, 2); v.Online || v.Status != nil || v.Counters.ID != 2 {
		t.Errorf("%+v", v)
	}
	_, err := b.Get(t.Context(), 99)
	wantError(t, err, model.KindNotFound, "")
}
