package routes

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestUpdate(t *testing.T) {
	const (
		http    = `{"domain":"a.example.com","target_port":8080,"description":"d","target_ip":"198.51.100.7"}`
		wasHTTP = `http "a.example.com" on=true desc=d peer=0 198.51.100.7:8080 https=true backend=false -`
		peer    = `{"domain":"a.example.com","target_port":8080,"peer_id":1}`
		wasPeer = `http "a.example.com" on=true desc=- peer=1 10.8.0.2:8080 https=true backend=false -`
		l4      = `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389,"peer_id":1,"domain":"x.example.com"}`
		wasL4   = `l4 "x.example.com" on=true desc=- peer=1 10.8.0.2:3389 https=true backend=false tcp/3389/none`
		deflt   = `{"domain":"a.example.com","target_port":8080}`
	)
	with := func(s string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(s) }
	for _, c := range []struct {
		name, from, body string
		want, field      string
	}{
		{name: "nothing", from: http, body: `{}`, want: wasHTTP},
		{name: "one field", from: http, body: `{"backend_https":true}`, want: with(wasHTTP, "backend=false", "backend=true")},
		{name: "null keeps what cannot be empty", from: http, body: `{"https_enabled":null,"backend_https":null,"enabled":null,"route_type":null}`, want: wasHTTP},
		{name: "null clears the description", from: http, body: `{"description":null}`, want: with(wasHTTP, "desc=d", "desc=-")},
		{name: "disable", from: http, body: `{"enabled":0}`, want: with(wasHTTP, "on=true", "on=false")},
		{name: "another address", from: http, body: `{"target_ip":"198.51.100.8"}`, want: with(wasHTTP, ".7:", ".8:")},
		{name: "the same address", from: http, body: `{"target_ip":"198.51.100.7"}`, want: wasHTTP},
		{name: "null address keeps it", from: http, body: `{"target_ip":null}`, want: wasHTTP},
		{name: "the default address sent back", from: deflt, body: `{"target_ip":"127.0.0.1"}`, want: `http "a.example.com" on=true desc=- peer=0 127.0.0.1:8080 https=true backend=false -`},
		{name: "to a peer", from: http, body: `{"peer_id":1}`, want: with(wasHTTP, "peer=0 198.51.100.7", "peer=1 10.8.0.2")},
		{name: "from a peer to an address", from: peer, body: `{"peer_id":null,"target_ip":"198.51.100.7"}`, want: with(wasHTTP, "desc=d", "desc=-")},
		{name: "address beside the peer it has", from: peer, body: `{"target_ip":"198.51.100.7"}`, want: wasPeer},
		{name: "the same peer", from: peer, body: `{"peer_id":"1"}`, want: wasPeer},
		{name: "web to port", from: peer, body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":3389,"domain":"x.example.com","target_port":3389}`, want: wasL4},
		{name: "port to web", from: l4, body: `{"route_type":"http","domain":"a.example.com","target_port":8080}`, want: wasPeer},
		{name: "another listen port", from: l4, body: `{"l4_listen_port":"3390-3391"}`, want: with(wasL4, "tcp/3389", "tcp/3390-3391")},
		{name: "to UDP", from: l4, body: `{"l4_protocol":"udp"}`, want: with(wasL4, "tcp/", "udp/")},
		{name: "no label", from: l4, body: `{"domain":""}`, want: with(wasL4, "x.example.com", "")},
		{name: "null label", from: l4, body: `{"domain":null}`, want: with(wasL4, "x.example.com", "")},

		{name: "null domain of a web route", from: http, body: `{"domain":null}`, field: "domain"},
		{name: "null target port", from: http, body: `{"target_port":null}`, field: "target_port"},
		{name: "web to port without one", from: http, body: `{"route_type":"l4"}`, field: "l4_protocol"},
		{name: "port to web without a domain", from: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3390}`, body: `{"route_type":"http"}`, field: "domain"},
		{name: "port to web on the administration's name", from: with(l4, "x.example.com", "gate.example.com"), body: `{"route_type":"http"}`, field: "domain"},
		{name: "null protocol", from: l4, body: `{"l4_protocol":null}`, field: "l4_protocol"},
		{name: "null listen port", from: l4, body: `{"l4_listen_port":null}`, field: "l4_listen_port"},
		{name: "to a disabled peer", from: http, body: `{"peer_id":2}`, field: "peer_id"},
		{name: "to no such peer", from: http, body: `{"peer_id":9}`, field: "peer_id"},
		{name: "loopback", from: http, body: `{"target_ip":"127.0.0.1"}`, field: "target_ip"},
		{name: "away from the peer without an address", from: peer, body: `{"peer_id":null}`, field: "target_ip"},
		{name: "away from the peer to its address", from: peer, body: `{"peer_id":null,"target_ip":"10.8.0.2"}`, field: "target_ip"},
		{name: "default target to a reserved port", from: deflt, body: `{"target_port":443}`, field: "target_port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			was := b.create(t, c.from)
			b.now = noon.Add(time.Hour)
			v, err := b.Update(t.Context(), was.ID, input(t, c.body))
			stored := b.get(t, was.ID)
			if c.field != "" {
				wantError(t, err, model.KindInvalid, c.field)
				if show(stored) != show(was) || b.lastEvent(t).Type != "route_created" {
					t.Errorf("a refusal left %s", show(stored))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := show(stored); got != c.want || show(v) != got {
				t.Errorf("stored\n%s, want\n%s", got, c.want)
			}
			if !stored.UpdatedAt.Equal(b.now) || !stored.CreatedAt.Equal(noon) || b.lastEvent(t).Type != "route_updated" {
				t.Errorf("%+v, event %s", stored.Route, b.lastEvent(t).Type)
			}
		})
	}
	b := newBench(t)
	_, err := b.Update(t.Context(), 9, Input{})
	wantError(t, err, model.KindNotFound, "")
}

func TestUpdateKeepsDisabledPeer(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"peer_id":2}`)
	if _, err := b.Update(t.Context(), v.ID, input(t, `{"peer_id":2,"description":"still off"}`)); err != nil {
		t.Error(err)
	}
}

func TestToggleAndDelete(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	for _, want := range []bool{false, true} {
		got, err := b.Toggle(t.Context(), v.ID)
		if err != nil || got.Enabled != want || b.get(t, v.ID).Enabled != want {
			t.Fatalf("enabled %t, want %t: %v", got.Enabled, want, err)
		}
		if e := b.lastEvent(t); e.Type != map[bool]string{true: "route_enabled", false: "route_disabled"}[want] {
			t.Errorf("event %s", e.Type)
		}
	}
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if e := b.lastEvent(t); e.Type != "route_deleted" || e.Severity != model.SeverityWarning || string(e.Details) != `{"domain":"a.example.com","routeId":1}` {
		t.Errorf("event %s %s %s", e.Type, e.Severity, e.Details)
	}
	b.create(t, `{"domain":"a.example.com","target_port":8080}`) // the domain is free again
	_, err := b.Toggle(t.Context(), v.ID)
	wantError(t, err, model.KindNotFound, "")
	wantError(t, b.Delete(t.Context(), v.ID), model.KindNotFound, "")
}

// A port may be listened on after a route was led there: that route can still be
// disabled and changed, and comes back once it leads elsewhere.
func TestPortTakenLater(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":3389}`)
	b.create(t, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3390}`)
	_, err := b.Update(t.Context(), v.ID, input(t, `{"description":"still there"}`))
	wantError(t, err, model.KindInvalid, "target_port")
	if _, err = b.Update(t.Context(), v.ID, input(t, `{"enabled":false}`)); err != nil {
		t.Errorf("disable: %v", err)
	}
	_, err = b.Update(t.Context(), v.ID, input(t, `{"enabled":true}`))
	wantError(t, err, model.KindInvalid, "target_port")
	_, err = b.Toggle(t.Context(), v.ID)
	wantError(t, err, model.KindInvalid, "target_port")
	if _, err = b.Update(t.Context(), v.ID, input(t, `{"enabled":true,"target_port":3390}`)); err != nil {
		t.Errorf("elsewhere: %v", err)
	}
}

// orphaned stores a route as the deletion of its peer leaves it.
func (b *bench) orphaned(t *testing.T) model.RouteID {
	r := &model.Route{Type: model.RouteHTTP, Domain: "o.example.com", Target: model.Target{Addr: b.o.Tunnel.Addr().Next().Next(), Port: 80}}
	b.write(t, func(tx *store.Tx) error { return store.Routes.Insert(tx, r) })
	return r.ID
}

// A route whose peer is gone must never lead to whoever has its address now.
func TestOrphanStaysDisabled(t *testing.T) {
	b := newBench(t)
	id := b.orphaned(t)
	if v := b.get(t, id); v.Error == "" {
		t.Error("nothing tells of it")
	}
	_, err := b.Toggle(t.Context(), id)
	wantError(t, err, model.KindInvalid, "target_ip")
	_, err = b.Batch(t.Context(), "enable", []int64{int64(id)})
	wantError(t, err, model.KindInvalid, "target_ip")
	_, err = b.Update(t.Context(), id, input(t, `{"enabled":true}`))
	wantError(t, err, model.KindInvalid, "target_ip")
	if _, err := b.Update(t.Context(), id, input(t, `{"description":"to do"}`)); err != nil {
		t.Errorf("its description cannot be changed: %v", err)
	}
	if b.get(t, id).Enabled {
		t.Error("enabled")
	}
	v, err := b.Update(t.Context(), id, input(t, `{"enabled":true,"peer_id":1}`))
	if err != nil || !v.Enabled || v.Error != "" || v.Peer == nil {
		t.Errorf("with another peer: %+v, %v", v, err)
	}
}

func TestBatch(t *testing.T) {
	for _, c := range []struct {
		name, action string
		ids          []int64
		kind         model.Kind
		field        string
		affected     int
		enabled      string // of routes 1 to 3 afterwards; - is gone
	}{
		{"disable", "disable", []int64{1, 2}, 0, "", 2, "000"},
		{"enable", "enable", []int64{3, 1}, 0, "", 2, "111"},
		{"delete", "delete", []int64{2}, 0, "", 1, "1-0"},
		{"the same twice", "disable", []int64{1, 1}, 0, "", 1, "010"},
		{"one unknown", "delete", []int64{1, 9}, model.KindNotFound, "", 0, "110"},
		{"none", "disable", nil, model.KindInvalid, "ids", 0, "110"},
		{"another action", "explode", []int64{1}, model.KindInvalid, "action", 0, "110"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			for _, d := range []string{"a", "b", "c"} {
				b.create(t, `{"domain":"`+d+`.example.com","target_port":8080}`)
			}
			if _, err := b.Toggle(t.Context(), 3); err != nil {
				t.Fatal(err)
			}
			n, err := b.Batch(t.Context(), c.action, c.ids)
			if c.kind != 0 {
				wantError(t, err, c.kind, c.field)
			} else if err != nil || n != c.affected {
				t.Errorf("affected %d, want %d: %v", n, c.affected, err)
			} else if e := b.lastEvent(t); e.Type != "batch_routes_"+c.action+"d" {
				t.Errorf("event %s", e.Type)
			}
			got := ""
			for id := model.RouteID(1); id <= 3; id++ {
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

func TestList(t *testing.T) {
	b := newBench(t)
	b.create(t, `{"domain":"b.example.com","target_port":8080,"peer_id":1}`)
	b.create(t, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":1,"domain":"a.example.com"}`)
	b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	b.create(t, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3390","target_port":1}`)
	b.create(t, `{"domain":"a.example.community","target_port":8080}`)
	for _, c := range []struct {
		typ           string
		limit, offset int
		want          string
		total         int
	}{
		{"", 0, 0, "http:a.example.com http:a.example.community http:b.example.com l4: l4:a.example.com", 5},
		{"", 2, 1, "http:a.example.community http:b.example.com", 5},
		{"", 2, 9, "", 5},
		{"http", 0, 0, "http:a.example.com http:a.example.community http:b.example.com", 3},
		{"l4", 250, 1, "l4:a.example.com", 2},
		{"htt", 0, 0, "", 0},
		{"ftp", 0, 0, "", 0},
		{"", -1, -1, "http:a.example.com http:a.example.community http:b.example.com l4: l4:a.example.com", 5},
	} {
		page, total, err := b.List(t.Context(), c.typ, c.limit, c.offset)
		var got []string
		for _, v := range page {
			got = append(got, string(v.Type)+":"+v.Domain)
		}
		if s := strings.Join(got, " "); s != c.want || total != c.total || err != nil {
			t.Errorf("List(%q, %d, %d) = %q of %d, %v; want %q of %d", c.typ, c.limit, c.offset, s, total, err, c.want, c.total)
		}
	}
}

func TestView(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com","target_port":8080,"peer_id":1}`)
	if v.Peer == nil || v.Peer.Name != "nas" || v.Status != nil || v.Online {
		t.Errorf("%+v", v)
	}
	key := model.PublicKey{1}
	b.status = map[model.PublicKey]model.PeerStatus{key: {PublicKey: key, LastHandshake: noon}}
	b.skipped = map[model.RouteID]error{v.ID: errors.New("the port is in use by another program")}
	if v := b.get(t, v.ID); !v.Online || v.Status == nil || v.Error == "" {
		t.Errorf("%+v", v)
	}
	if v, err := b.Toggle(t.Context(), v.ID); err != nil || v.Error != "" {
		t.Errorf("a disabled route has the error %q: %v", v.Error, err)
	}
	_, err := b.Get(t.Context(), 9)
	wantError(t, err, model.KindNotFound, "")
}

func TestPeers(t *testing.T) {
	b := newBench(t)
	key := model.PublicKey{1}
	b.status = map[model.PublicKey]model.PeerStatus{key: {PublicKey: key, LastHandshake: noon}}
	b.write(t, func(tx *store.Tx) error {
		g := &model.Group{Name: "away"}
		if err := store.Groups.Insert(tx, g); err != nil {
			return err
		}
		off, err := store.Peers.Get(tx, 2)
		if err != nil {
			return err
		}
		off.Group = g.ID
		return store.Peers.Put(tx, off)
	})
	for typ, want := range map[string]string{"": "nas off home", "regular": "nas off", "gateway": "home", "other": ""} {
		list, err := b.Peers(t.Context(), typ)
		var names []string
		for _, p := range list {
			names = append(names, p.Name)
			if p.Online != (p.Name == "nas") || p.Enabled != (p.Name != "off") || !p.Addr.IsValid() ||
				(p.Group == 1) != (p.Name == "off") || (p.GroupName == "away") != (p.Name == "off") {
				t.Errorf("%+v", p)
			}
		}
		if got := strings.Join(names, " "); got != want || err != nil || list == nil {
			t.Errorf("Peers(%q) = %q, %v", typ, got, err)
		}
	}
}
