package routes

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatecontrol/model"
	"gatecontrol/store"
)

// leads is where a route leads, on one line.
func leads(v View) string {
	g := v.Target.Gateway
	if g == nil {
		return fmt.Sprintf("peer=%d %s:%d", v.Target.Peer, v.Target.ShownAddr(), v.Target.Port)
	}
	return fmt.Sprintf("gateway=%d %s peer=%d %s:%d", g.Peer, g, v.Target.Peer, v.Target.ShownAddr(), v.Target.Port)
}

const throughHome = `"target_kind":"gateway","target_peer_id":3,"target_lan_host":"192.168.2.228","target_lan_port":5001`

// holiday adds a second home gateway, 4, which is disabled.
func (b *bench) holiday(t testing.TB) {
	t.Helper()
	b.write(t, func(tx *store.Tx) error {
		return store.Peers.Insert(tx, &model.Peer{Name: "holiday", Type: model.PeerGateway, PublicKey: model.PublicKey{4},
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.5/32")}})
	})
}

// TestGateway takes one route through all that its target can become.
func TestGateway(t *testing.T) {
	b := newBench(t)
	b.holiday(t)
	v := b.create(t, `{"domain":"a.example.com",`+throughHome+`}`)
	for _, c := range []struct{ change, want string }{
		{`{}`, "gateway=3 192.168.2.228:5001 peer=0 127.0.0.1:5001"},
		{`{"target_lan_port":"5002"}`, "gateway=3 192.168.2.228:5002 peer=0 127.0.0.1:5002"},
		{`{"target_lan_host":" NAS_1.lan "}`, "gateway=3 NAS_1.lan:5002 peer=0 127.0.0.1:5002"},
		{`{"target_port":80}`, "gateway=3 NAS_1.lan:5002 peer=0 127.0.0.1:80"},
		{`{"target_lan_port":5003,"target_lan_host":"fd00::2"}`, "gateway=3 [fd00::2]:5003 peer=0 127.0.0.1:80"},
		{`{"target_kind":null,"target_port":null,"description":"x"}`, "gateway=3 [fd00::2]:5003 peer=0 127.0.0.1:80"},
		{`{"target_peer_id":4,"peer_id":1,"target_ip":"10.0.0.9"}`, "gateway=4 [fd00::2]:5003 peer=0 127.0.0.1:80"}, // leftovers of another kind
		{`{"target_lan_host":"127.0.0.1","target_lan_port":3000,"target_port":3000}`, "gateway=4 127.0.0.1:3000 peer=0 127.0.0.1:3000"},
		{`{"target_kind":"peer","peer_id":1}`, "peer=1 10.8.0.2:3000"},
		{`{"target_kind":"peer","target_peer_id":3,"target_lan_host":"x","target_lan_port":1}`, "peer=1 10.8.0.2:3000"},
		{`{` + throughHome + `}`, "gateway=3 192.168.2.228:5001 peer=0 127.0.0.1:5001"},
		{`{"target_kind":"peer","peer_id":"1","target_port":"8080","target_peer_id":null,"target_lan_host":null,"target_lan_port":null}`, "peer=1 10.8.0.2:8080"},
		{`{` + throughHome + `,"target_port":81}`, "gateway=3 192.168.2.228:5001 peer=0 127.0.0.1:81"},
		{`{"target_kind":"peer","target_ip":"9.9.9.9"}`, "peer=0 9.9.9.9:81"},
	} {
		got, err := b.Update(t.Context(), v.ID, input(t, c.change))
		if err != nil {
			t.Fatalf("%s: %v", c.change, err)
		}
		if leads(got) != c.want || leads(b.get(t, v.ID)) != c.want {
			t.Errorf("%s: %s, stored %s, want %s", c.change, leads(got), leads(b.get(t, v.ID)), c.want)
		}
		if g := got.Target.Gateway; g == nil && got.Gateway != nil || g != nil && (got.Gateway == nil || got.Gateway.ID != g.Peer || got.Peer != nil) {
			t.Errorf("%s: the view has the gateway %v", c.change, got.Gateway)
		}
	}
}

// throughGatewayBut is a request for a target behind a home gateway with other
// members than usual.
func throughGatewayBut(t testing.TB, members map[string]any) string {
	t.Helper()
	body := map[string]any{"target_kind": "gateway", "target_peer_id": 3, "target_lan_host": "nas", "target_lan_port": 80, "target_port": 8081}
	maps.Copy(body, members)
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGatewayRefusals asks for what is refused, of a new route and of one that leads
// to a peer.
func TestGatewayRefusals(t *testing.T) {
	type but = map[string]any
	host := func(s string) but { return but{"target_lan_host": s} }
	const all = "target_lan_host target_lan_port target_peer_id"
	for _, c := range []struct {
		but
		fields string // at fault, in order
	}{
		{but{"target_peer_id": nil, "target_lan_host": nil, "target_lan_port": nil}, all},
		{but{"target_peer_id": "", "target_lan_host": "", "target_lan_port": ""}, all},
		{but{"target_kind": "gateways"}, "target_kind"},
		{but{"target_kind": "Gateway"}, "target_kind"},
		{but{"target_kind": 7}, "target_kind"},
		{but{"target_kind": but{}}, "target_kind"},
		{but{"target_kind": ""}, "target_peer_id"},
		{but{"target_kind": nil}, "target_peer_id"},
		{but{"target_peer_id": 1}, "target_peer_id"}, // a peer, but no gateway
		{but{"target_peer_id": 9}, "target_peer_id"},
		{but{"target_peer_id": -3}, "target_peer_id"},
		{but{"target_peer_id": 0}, "target_peer_id"},
		{but{"target_peer_id": "x"}, "target_peer_id"},
		{but{"target_lan_port": 0}, "target_lan_port"},
		{but{"target_lan_port": 65536}, "target_lan_port"},
		{but{"target_lan_port": 65536 + 80}, "target_lan_port"},
		{but{"target_lan_port": "http"}, "target_lan_port"},
		{but{"target_port": 65536}, "target_port"},
		{but{"target_port": 0}, "target_port"},
		{host("nas:5001"), "target_lan_host"},
		{host("[fd00::2]"), "target_lan_host"},
		{host("fe80::1%eth0"), "target_lan_host"},
		{host("a b"), "target_lan_host"},
		{host("nas\r\nX-A: b"), "target_lan_host"},
		{host("nas/x"), "target_lan_host"},
		{host("näs"), "target_lan_host"},
		{host("user@nas"), "target_lan_host"},
		{host(strings.Repeat("a", 254)), "target_lan_host"},
		{but{"target_lan_host": []int{}}, "target_lan_host"},
		{but{"paths": []but{{"prefix": "/a", "peer_id": 1, "port": 1}, {"prefix": "/b", "port": 81}, {"prefix": "/c", "redirect": "/d"}}}, "paths[1]"},
	} {
		body := throughGatewayBut(t, c.but)
		b := newBench(t)
		v := b.create(t, `{"domain":"b.example.com","peer_id":1,"target_port":8080}`)
		create := func(in Input) error {
			in.Domain = model.Value("a.example.com")
			_, err := b.Create(t.Context(), in)
			return err
		}
		update := func(in Input) error {
			_, err := b.Update(t.Context(), v.ID, in)
			return err
		}
		for name, do := range map[string]func(Input) error{"create": create, "update": update} {
			var in Input
			err := json.Unmarshal([]byte(body), &in)
			if err == nil {
				err = do(in)
			}
			var fields []string
			for _, f := range wantError(t, err, model.KindInvalid, "").Fields {
				fields = append(fields, f.Field)
			}
			slices.Sort(fields)
			if got := strings.Join(fields, " "); got != c.fields {
				t.Errorf("%s %s: %q at fault, want %q", name, body, got, c.fields)
			}
		}
		list, _, err := b.List(t.Context(), "", 0, 0)
		if err != nil || len(list) != 1 || leads(list[0]) != "peer=1 10.8.0.2:8080" {
			t.Errorf("%s: refused, and yet stored: %v, %v", body, list, err)
		}
	}
}

// TestGatewayLeft takes a route away from its gateway, and does not let it end at a
// port of this host for want of anything else.
func TestGatewayLeft(t *testing.T) {
	b := newBench(t)
	v := b.create(t, `{"domain":"a.example.com",`+throughHome+`}`)
	for body, field := range map[string]string{
		`{"target_kind":"peer"}`:                                        "peer_id",
		`{"target_kind":"peer","peer_id":null}`:                         "peer_id",
		`{"target_kind":"peer","peer_id":9}`:                            "peer_id",
		`{"target_kind":"peer","target_ip":"127.0.0.1"}`:                "target_ip",
		`{"target_kind":"peer","target_ip":"192.168.2.228"}`:            "target_ip", // where it was led to
		`{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":4000}`: "target_kind",
	} {
		_, err := b.Update(t.Context(), v.ID, input(t, body))
		wantError(t, err, model.KindInvalid, field)
		if got := leads(b.get(t, v.ID)); got != "gateway=3 192.168.2.228:5001 peer=0 127.0.0.1:5001" {
			t.Fatalf("%s: stored %s", body, got)
		}
	}
	v, err := b.Update(t.Context(), v.ID, input(t, `{"target_kind":"peer","peer_id":1,"route_type":"l4","l4_protocol":"tcp","l4_listen_port":4000}`))
	if err != nil || leads(v) != "peer=1 10.8.0.2:5001" || v.L4 == nil {
		t.Errorf("%s, %v", leads(v), err)
	}
}

// TestGatewayGone has a disabled route without its gateway, as the deletion of that
// leaves it: it can be changed, but not enabled.
func TestGatewayGone(t *testing.T) {
	b := newBench(t)
	b.holiday(t)
	v := b.create(t, `{"domain":"a.example.com",`+throughHome+`}`)
	b.write(t, func(tx *store.Tx) error {
		r, err := load(tx, v.ID)
		if err != nil {
			return err
		}
		r.Enabled, r.Target.Gateway.Peer = false, 0
		return store.Routes.Put(tx, r)
	})
	v, err := b.Update(t.Context(), v.ID, input(t, `{"description":"x","target_lan_port":5002}`))
	if err != nil || leads(v) != "gateway=0 192.168.2.228:5002 peer=0 127.0.0.1:5002" || v.Error != noGatewayText {
		t.Errorf("%s, %q, %v", leads(v), v.Error, err)
	}
	_, err = b.Toggle(t.Context(), v.ID)
	wantError(t, err, model.KindInvalid, "target_peer_id")
	_, err = b.Batch(t.Context(), "enable", []int64{int64(v.ID)})
	wantError(t, err, model.KindInvalid, "target_peer_id")
	_, err = b.Update(t.Context(), v.ID, input(t, `{"enabled":1}`))
	wantError(t, err, model.KindInvalid, "target_peer_id")
	_, err = b.Update(t.Context(), v.ID, input(t, `{"target_kind":"gateway"}`))
	wantError(t, err, model.KindInvalid, "target_peer_id")
	if v, err = b.Update(t.Context(), v.ID, input(t, `{"enabled":1,"target_peer_id":4}`)); err != nil || v.Error != "" || !v.Enabled || v.Gateway.ID != 4 {
		t.Errorf("with another one: %s, %q, %v", leads(v), v.Error, err)
	}
	// A peer that is no gateway, whoever made it so.
	b.write(t, func(tx *store.Tx) error {
		p, err := store.Peers.Get(tx, 4)
		if err != nil {
			return err
		}
		p.Type = model.PeerRegular
		return store.Peers.Put(tx, p)
	})
	_, err = b.Update(t.Context(), v.ID, input(t, `{"description":"y"}`))
	wantError(t, err, model.KindInvalid, "target_peer_id")
}

// TestGatewayEvent has events say where a route leads.
func TestGatewayEvent(t *testing.T) {
	b := newBench(t)
	b.create(t, `{"domain":"a.example.com",`+throughHome+`}`)
	const want = `"targetLanHost":"192.168.2.228","targetLanPort":5001,"targetPeerId":3`
	if got := string(b.lastEvent(t).Details); !strings.Contains(got, want) {
		t.Errorf("the details are %s", got)
	}
}
