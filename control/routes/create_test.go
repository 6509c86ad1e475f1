package routes

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestCreate(t *testing.T) {
	const direct = `http "a.example.com" on=true desc=- peer=0 127.0.0.1:8080 https=true backend=false -`
	for _, c := range []struct {
		name, body string
		want       string // the route, or
		field      string // the field at fault
	}{
		{name: "defaults", body: `{"domain":"a.example.com","target_port":8080}`, want: direct},
		{name: "numbers as texts", body: `{"domain":"a.example.com","target_port":"8080","peer_id":""}`, want: direct},
		{name: "domain is normalised", body: `{"domain":"  A.Example.COM ","target_port":8080}`, want: direct},
		{name: "enabled is not for create", body: `{"domain":"a.example.com","target_port":8080,"enabled":false}`, want: direct},
		{name: "a peer", body: `{"domain":"a.example.com","target_port":8080,"peer_id":1,"target_ip":"192.168.1.1"}`,
			want: `http "a.example.com" on=true desc=- peer=1 10.8.0.2:8080 https=true backend=false -`},
		{name: "a peer as text", body: `{"domain":"a.example.com","target_port":8080,"peer_id":"1"}`,
			want: `http "a.example.com" on=true desc=- peer=1 10.8.0.2:8080 https=true backend=false -`},
		{name: "a disabled peer", body: `{"domain":"a.example.com","target_port":8080,"peer_id":2}`,
			want: `http "a.example.com" on=true desc=- peer=2 10.8.0.3:8080 https=true backend=false -`},
		{name: "an address", body: `{"domain":"a.example.com","target_port":443,"target_ip":"198.51.100.7","https_enabled":0,"backend_https":"1","description":"x"}`,
			want: `http "a.example.com" on=true desc=x peer=0 198.51.100.7:443 https=false backend=true -`},
		{name: "a port", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389,"peer_id":1,"domain":""}`,
			want: `l4 "" on=true desc=- peer=1 10.8.0.2:3389 https=true backend=false tcp/3389/none`},
		{name: "ports, mode spelled out, a label", body: `{"route_type":"l4","l4_protocol":"udp","l4_listen_port":"5000-5099","l4_tls_mode":"none","target_port":1,"domain":"games.example.com"}`,
			want: `l4 "games.example.com" on=true desc=- peer=0 127.0.0.1:1 https=true backend=false udp/5000-5099/none`},
		{name: "a port as number", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":3389,"target_port":3390,"domain":null}`,
			want: `l4 "" on=true desc=- peer=0 127.0.0.1:3390 https=true backend=false tcp/3389/none`},
		{name: "port fields of a web route are dropped", body: `{"domain":"a.example.com","target_port":8080,"l4_protocol":"x","l4_listen_port":"y","l4_tls_mode":"terminate"}`, want: direct},

		{name: "no domain", body: `{"target_port":8080}`, field: "domain"},
		{name: "null domain", body: `{"domain":null,"target_port":8080}`, field: "domain"},
		{name: "one label", body: `{"domain":"invalid","target_port":8080}`, field: "domain"},
		{name: "wildcard", body: `{"domain":"*.example.com","target_port":8080}`, field: "domain"},
		{name: "underscore", body: `{"domain":"a_b.example.com","target_port":8080}`, field: "domain"},
		{name: "address as domain", body: `{"domain":"192.0.2.1","target_port":8080}`, field: "domain"},
		{name: "punycode at the top", body: `{"domain":"a.xn--p1ai","target_port":8080}`, field: "domain"},
		{name: "dot at the end", body: `{"domain":"a.example.com.","target_port":8080}`, field: "domain"},
		{name: "254 characters", body: `{"domain":"` + strings.Repeat("a.", 125) + `abcd","target_port":8080}`, field: "domain"},
		{name: "line break in domain", body: `{"domain":"a.example.com\nb.example.com","target_port":8080}`, field: "domain"},
		{name: "administration", body: `{"domain":"GATE.example.com","target_port":8080}`, field: "domain"},
		{name: "name of a peer", body: `{"domain":"nas.gc.internal","target_port":8080}`, field: "domain"},
		{name: "name of the server", body: `{"domain":"gateway.gc.internal","target_port":8080}`, field: "domain"},
		{name: "the zone", body: `{"domain":"gc.internal","target_port":8080}`, field: "domain"},
		{name: "port route with the name of a peer", body: `{"route_type":"l4","domain":"nas.gc.internal","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389}`, field: "domain"},
		{name: "port route with the name of the server", body: `{"route_type":"l4","domain":"gc-server.gc.internal","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389}`, field: "domain"},
		{name: "port route on the host of the administration", body: `{"route_type":"l4","domain":"gate.example.com","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3390}`,
			want: `l4 "gate.example.com" on=true desc=- peer=0 127.0.0.1:3390 https=true backend=false tcp/3389/none`},
		{name: "free name in the zone", body: `{"domain":"wiki.gc.internal","target_port":8080}`,
			want: `http "wiki.gc.internal" on=true desc=- peer=0 127.0.0.1:8080 https=true backend=false -`},
		{name: "port route to its own port", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389}`, field: "target_port"},
		{name: "no port", body: `{"domain":"a.example.com"}`, field: "target_port"},
		{name: "port 0", body: `{"domain":"a.example.com","target_port":0}`, field: "target_port"},
		{name: "port 65536", body: `{"domain":"a.example.com","target_port":65536}`, field: "target_port"},
		{name: "negative port", body: `{"domain":"a.example.com","target_port":-1}`, field: "target_port"},
		{name: "null port", body: `{"domain":"a.example.com","target_port":null}`, field: "target_port"},
		{name: "no such type", body: `{"domain":"a.example.com","target_port":8080,"route_type":"tcp"}`, field: "route_type"},
		{name: "long description", body: `{"domain":"a.example.com","target_port":8080,"description":"` + strings.Repeat("a", 256) + `"}`, field: "description"},
		{name: "no such peer", body: `{"domain":"a.example.com","target_port":8080,"peer_id":9}`, field: "peer_id"},
		{name: "host name as address", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"example.com"}`, field: "target_ip"},
		{name: "IPv6", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"2001:db8::1"}`, field: "target_ip"},
		{name: "IPv4 inside IPv6", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"::ffff:198.51.100.7"}`, field: "target_ip"},
		{name: "no address at all", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"invalid IP"}`, field: "target_ip"},
		{name: "short loopback", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"127.1"}`, field: "target_ip"},
		{name: "octal", body: `{"domain":"a.example.com","target_port":8080,"target_ip":"0177.0.0.1"}`, field: "target_ip"},
		{name: "loopback on a reserved port", body: `{"domain":"a.example.com","target_port":3000}`, field: "target_port"},
		{name: "this host on a reserved port", body: `{"domain":"a.example.com","target_port":443,"target_ip":"203.0.113.9"}`, field: "target_port"},
		{name: "this host on another port", body: `{"domain":"a.example.com","target_port":8443,"target_ip":"203.0.113.9"}`,
			want: `http "a.example.com" on=true desc=- peer=0 203.0.113.9:8443 https=true backend=false -`},
		{name: "no protocol", body: `{"route_type":"l4","l4_listen_port":"3389","target_port":3389}`, field: "l4_protocol"},
		{name: "another protocol", body: `{"route_type":"l4","l4_protocol":"sctp","l4_listen_port":"3389","target_port":3389}`, field: "l4_protocol"},
		{name: "no listen port", body: `{"route_type":"l4","l4_protocol":"tcp","target_port":3389}`, field: "l4_listen_port"},
		{name: "null listen port", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":null,"target_port":3389}`, field: "l4_listen_port"},
		{name: "listen port 0", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"0","target_port":3389}`, field: "l4_listen_port"},
		{name: "listen port 65536", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"65536","target_port":3389}`, field: "l4_listen_port"},
		{name: "backwards", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"5010-5000","target_port":3389}`, field: "l4_listen_port"},
		{name: "spaces in a range", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"5000 - 5010","target_port":3389}`, field: "l4_listen_port"},
		{name: "101 ports", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"5000-5100","target_port":3389}`, field: "l4_listen_port"},
		{name: "reserved listen port", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"443","target_port":3389}`, field: "l4_listen_port"},
		{name: "reserved port inside a range", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"2000-2050","target_port":3389}`, field: "l4_listen_port"},
		{name: "bad label of a port route", body: `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":3389,"domain":"my desk"}`, field: "domain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			v, err := b.Create(t.Context(), input(t, c.body))
			if c.field != "" {
				wantError(t, err, model.KindInvalid, c.field)
				if _, total, _ := b.List(t.Context(), "", 0, 0); total != 0 || len(b.events(t)) != 0 {
					t.Error("a refusal left something behind")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := show(b.get(t, v.ID)); got != c.want || show(v) != got {
				t.Errorf("stored\n%s, want\n%s", got, c.want)
			}
			if e := b.lastEvent(t); e.Type != "route_created" || e.Severity != model.SeveritySuccess {
				t.Errorf("event %s %s", e.Type, e.Severity)
			}
		})
	}
}

func TestCreateRefusesPrivateTargets(t *testing.T) {
	b := newBench(t)
	for _, ip := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.8.0.2", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254",
		"172.16.0.1", "172.31.255.255", "192.168.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
	} {
		in := input(t, fmt.Sprintf(`{"domain":"a.example.com","target_port":8080,"target_ip":%q}`, ip))
		_, err := b.Create(t.Context(), in)
		wantError(t, err, model.KindInvalid, "target_ip")
	}
}

func TestCreateNamesEveryFieldAtFault(t *testing.T) {
	b := newBench(t)
	_, err := b.Create(t.Context(), input(t, `{"domain":"x","target_port":99999,"target_ip":"x","description":"`+strings.Repeat("a", 256)+`","target_kind":"pool"}`))
	e := wantError(t, err, model.KindInvalid, "domain")
	if len(e.Fields) != 5 || e.Field != "domain" {
		t.Errorf("%v", e.Fields)
	}
	var in Input
	err = json.Unmarshal([]byte(`{"target_port":"x","peer_id":[],"https_enabled":{}}`), &in)
	if e := wantError(t, err, model.KindInvalid, "target_port"); len(e.Fields) != 3 {
		t.Errorf("%v", e.Fields)
	}
}

func TestDuplicateDomain(t *testing.T) {
	b := newBench(t)
	b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	_, err := b.Create(t.Context(), input(t, `{"domain":"A.example.com","target_port":8081}`))
	wantError(t, err, model.KindConflict, "domain")
	// A port route may carry the domain as a label.
	b.create(t, `{"domain":"a.example.com","route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3389","target_port":1}`)
	b.create(t, `{"domain":"a.example.com","route_type":"l4","l4_protocol":"tcp","l4_listen_port":"3390","target_port":1}`)
	other := b.create(t, `{"domain":"b.example.com","target_port":8080}`)
	_, err = b.Update(t.Context(), other.ID, input(t, `{"domain":"a.example.com"}`))
	wantError(t, err, model.KindConflict, "domain")
}

func TestDuplicateDomainRace(t *testing.T) {
	b := newBench(t)
	in := input(t, `{"domain":"a.example.com","target_port":8080}`)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = b.Create(t.Context(), in) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantError(t, err, model.KindConflict, "domain")
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
}

// fill inserts n port routes at once, past the service.
func (b *bench) fill(t testing.TB, n int) {
	t.Helper()
	b.write(t, func(tx *store.Tx) error {
		for i := range n {
			port := uint16(10_000 + i)
			r := &model.Route{
				Type: model.RouteL4, Enabled: true, Target: model.Target{Addr: defaultTarget, Port: 1},
				L4: &model.L4{Network: "tcp", Ports: model.PortRange{First: port, Last: port}, TLS: model.TLSNone},
			}
			if err := store.Routes.Insert(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestLimit(t *testing.T) {
	b := newBench(t)
	b.fill(t, MaxRoutes-1)
	b.create(t, `{"domain":"a.example.com","target_port":8080}`)
	_, err := b.Create(t.Context(), input(t, `{"domain":"b.example.com","target_port":8080}`))
	wantError(t, err, model.KindConflict, "")
}

func BenchmarkCreateAt10000(b *testing.B) {
	bb := newBench(b)
	bb.fill(b, MaxRoutes-1)
	in := input(b, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":"9999","target_port":3389}`)
	b.ReportAllocs()
	for b.Loop() {
		v, err := bb.Create(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := bb.Delete(b.Context(), v.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkListAt10000(b *testing.B) {
	bb := newBench(b)
	bb.fill(b, MaxRoutes)
	b.ReportAllocs()
	for b.Loop() {
		if page, total, err := bb.List(b.Context(), "", 250, 5000); err != nil || len(page) != 250 || total != MaxRoutes {
			b.Fatal(len(page), total, err)
		}
	}
}

// FuzzInput wants what is stored to be what may be stored: of peers that are there,
// within bounds, and good enough to be changed again.
func FuzzInput(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"domain":"a.example.com","target_port":"1","backends":"[{}]"}`, `{"route_type":"l4","l4_protocol":"tcp","l4_listen_port":1e3,"target_port":1}`,
		`{"custom_headers":{"request":[]},"":0,"target_kind":{}}`, `{"user_ids":"[[[["}`, documented,
		`{"domain":"a.example.com","target_port":1,"backends":"[{\"peer_id\":1,\"port\":80}]","ip_filter_rules":"[{\"type\":\"ip\",\"value\":\"::1\"}]"}`,
		`{"domain":"a.example.com","target_port":1,"custom_headers":"{\"request\":[{\"name\":\"A\",\"value\":\"b\"}]}","bot_blocker_mode":"custom","bot_blocker_config":"{}"}`,
		`{"domain":"a.example.com","target_port":1,"paths":"[{\"prefix\":\"/a\",\"redirect\":\"https://b.example.com\"}]","mirror_enabled":1,"mirror_targets":[{"peer_id":3,"port":1}]}`,
		`{"domain":"a.example.com","target_kind":"gateway","target_peer_id":"3","target_lan_host":"fd00::2","target_lan_port":"80"}`,
		`{"domain":"a.example.com","target_port":1,"external_enabled":0,"external_block_action":"redirect","external_block_redirect_url":"http://b/","acl_enabled":1,"acl_peers":"[1]"}`,
	} {
		f.Add([]byte(s))
	}
	b := newBench(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in Input
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		in.BasicAuthPassword = model.Field[string]{} // hashing is slow, and tested elsewhere
		v, err := b.Create(t.Context(), in)
		if err != nil {
			if model.KindOf(err) == model.KindInternal {
				t.Fatal(err)
			}
			return
		}
		for field, raw := range in.all {
			for _, a := range absent {
				if a.field == field && a.asks(raw) && a.unless == nil && a.only == nil {
					t.Errorf("%s: %s was let through", field, raw)
				}
			}
		}
		for _, id := range v.Peers() {
			if id < 1 || id > 3 {
				t.Errorf("peer %d is not there", id)
			}
		}
		if g := v.Target.Gateway; g != nil && (g.Peer != 3 || g.Port == 0 || g.Host == "" || strings.ContainsAny(g.String(), " /@\r\n\x00") || v.Target.Addr.IsValid()) {
			t.Errorf("a target behind a gateway: %q, %+v", g.String(), v.Target)
		}
		w := v.Options()
		if len(w.IPFilter.Rules) > model.MaxIPRules || len(w.Backends) > model.MaxBackends || len(w.Mirror.Targets) > model.MaxMirrors || len(w.Paths) > model.MaxPaths {
			t.Error("too much was let through")
		}
		if w.Headers != nil {
			for _, h := range append(w.Headers.Request, w.Headers.Response...) {
				if strings.ContainsAny(h.Name+h.Value, "\r\n\x00") {
					t.Errorf("a field %q", h)
				}
			}
		}
		if _, err := b.Update(t.Context(), v.ID, Input{}); err != nil {
			t.Errorf("a change of nothing: %v", err)
		}
		if err := b.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	})
}
