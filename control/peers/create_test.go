package peers

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestCreateDefaults(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	c := b.create(t, "  Laptop ")
	if c.Name != "Laptop" || c.Type != model.PeerRegular || !c.Enabled || c.Keepalive != 25 || c.Description != nil || c.Tags != "" {
		t.Errorf("created %+v", c.Peer)
	}
	if got := fmt.Sprint(c.AllowedIPs); got != "[10.8.0.2/32]" {
		t.Errorf("allowed IPs %s", got)
	}
	if c.DNS != nil {
		t.Errorf("DNS %v was stored, though none was given", c.DNS)
	}
	if c.PrivateKey.Public() != c.PublicKey || c.PresharedKey.IsZero() || c.View.PrivateKey == "" || c.View.PresharedKey == "" {
		t.Error("the keys do not belong together")
	}
	opened, err := b.db.Sealer().OpenKey(c.View.PrivateKey)
	if err != nil || opened != c.PrivateKey {
		t.Errorf("the stored private key is another one: %v", err)
	}
	e := b.lastEvent(t)
	want := fmt.Sprintf(`{"ip":"10.8.0.2","peerId":%d,"publicKey":%q}`, c.ID, c.PublicKey.String()[:8])
	if e.Type != "peer_created" || e.Severity != model.SeveritySuccess || string(e.Details) != want {
		t.Errorf("event %+v %s, want %s", e, e.Details, want)
	}
	if !c.CreatedAt.Equal(noon) || !c.UpdatedAt.Equal(noon) {
		t.Errorf("times %s, %s", c.CreatedAt, c.UpdatedAt)
	}
}

func TestCreateFields(t *testing.T) {
	own := fixedKey(7).Public().String()
	for _, c := range []struct {
		name, body, field string // field at fault; empty: accepted
		kind              model.Kind
	}{
		{"a name is enough", `{"name":"a"}`, "", 0},
		{"no name", `{}`, "name", model.KindInvalid},
		{"null name", `{"name":null}`, "name", model.KindInvalid},
		{"empty name", `{"name":"  "}`, "name", model.KindInvalid},
		{"name starts with a dot", `{"name":".a"}`, "name", model.KindInvalid},
		{"63 characters", `{"name":"` + strings.Repeat("a", 63) + `"}`, "", 0},
		{"64 characters", `{"name":"` + strings.Repeat("a", 64) + `"}`, "name", model.KindInvalid},
		{"name with a line break", `{"name":"a\nEndpoint = x"}`, "name", model.KindInvalid},
		{"name in use", `{"name":"taken"}`, "name", model.KindInvalid},
		{"name differs in case", `{"name":"Taken"}`, "", 0},
		{"numeric name", `{"name":42}`, "", 0},
		{"name is a list", `{"name":["a"]}`, "name", model.KindInvalid},
		{"description of 255", `{"name":"a","description":"` + strings.Repeat("ü", 255) + `"}`, "", 0},
		{"description of 256", `{"name":"a","description":"` + strings.Repeat("a", 256) + `"}`, "description", model.KindInvalid},
		{"tags", `{"name":"a","tags":"NAS, home"}`, "", 0},
		{"tags as a list", `{"name":"a","tags":["NAS","home"]}`, "", 0},
		{"tag with markup", `{"name":"a","tags":"<b>"}`, "tags", model.KindInvalid},
		{"no group", `{"name":"a","group_id":0}`, "", 0},
		{"empty group", `{"name":"a","group_id":""}`, "", 0},
		{"null group", `{"name":"a","group_id":null}`, "", 0},
		{"known group", `{"name":"a","group_id":"1"}`, "", 0},
		{"unknown group", `{"name":"a","group_id":3}`, "group_id", model.KindInvalid},
		{"known user", `{"name":"a","user_id":"1"}`, "", 0},
		{"unknown user", `{"name":"a","user_id":99}`, "user_id", model.KindInvalid},
		{"null user", `{"name":"a","user_id":null}`, "", 0},
		{"expiry in the past", `{"name":"a","expires_at":"2020-01-01"}`, "", 0},
		{"empty expiry", `{"name":"a","expires_at":""}`, "", 0},
		{"expiry is no date", `{"name":"a","expires_at":"soon"}`, "expires_at", model.KindInvalid},
		{"expiry after year 9999", `{"name":"a","expires_at":"9999-12-31T23:59:59-14:00"}`, "expires_at", model.KindInvalid},
		{"DNS", `{"name":"a","dns":"1.1.1.1, 8.8.8.8"}`, "", 0},
		{"DNS with a name", `{"name":"a","dns":"one.one"}`, "dns", model.KindInvalid},
		{"DNS with a line break", `{"name":"a","dns":"1.1.1.1\n8.8.8.8"}`, "dns", model.KindInvalid},
		{"IPv6 DNS", `{"name":"a","dns":"::1"}`, "dns", model.KindInvalid},
		{"keepalive 0", `{"name":"a","persistentKeepalive":0}`, "", 0},
		{"keepalive, other spelling", `{"name":"a","persistent_keepalive":"65535"}`, "", 0},
		{"keepalive too long", `{"name":"a","persistentKeepalive":65536}`, "persistentKeepalive", model.KindInvalid},
		{"keepalive negative", `{"name":"a","persistentKeepalive":-1}`, "persistentKeepalive", model.KindInvalid},
		{"keepalive no number", `{"name":"a","persistentKeepalive":"x"}`, "persistentKeepalive", model.KindInvalid},
		{"hostname", `{"name":"a","hostname":"NAS"}`, "", 0},
		{"reserved hostname", `{"name":"a","hostname":"admin"}`, "hostname", model.KindInvalid},
		{"own key", `{"name":"a","public_key":"` + own + `"}`, "", 0},
		{"bad key", `{"name":"a","public_key":"abc"}`, "public_key", model.KindInvalid},
		{"key with a line break", `{"name":"a","public_key":"` + own[:20] + `\n` + own[20:] + `"}`, "public_key", model.KindInvalid},
		{"zero key", `{"name":"a","public_key":"` + model.PublicKey{}.String() + `"}`, "public_key", model.KindInvalid},
		{"known key", `{"name":"a","public_key":"` + fixedKey(3).Public().String() + `"}`, "public_key", model.KindConflict},
		{"server's key", `{"name":"a","public_key":"` + fixedKey(9).Public().String() + `"}`, "public_key", model.KindConflict},
		{"bad preshared key", `{"name":"a","preshared_key":"abc"}`, "preshared_key", model.KindInvalid},
		{"gateway with its own key", `{"name":"a","is_gateway":true,"public_key":"` + own + `"}`, "public_key", model.KindInvalid},
		{"gateway port below 1024", `{"name":"a","is_gateway":true,"api_port":1023}`, "api_port", model.KindInvalid},
		{"gateway port above 65535", `{"name":"a","is_gateway":true,"proxy_port":65536}`, "proxy_port", model.KindInvalid},
		{"gateway ports alike", `{"name":"a","is_gateway":true,"api_port":8080}`, "proxy_port", model.KindInvalid},
		{"limits", `{"name":"a","rate_limit_up":64000,"rate_limit_down":"100000000000","quota_bytes":1e9,"quota_action":"notify","isolated":1,"no_exit":"true","trusted":true}`, "", 0},
		{"no limits", `{"name":"a","rate_limit_up":0,"rate_limit_down":null,"quota_bytes":"","quota_action":null,"isolated":null}`, "", 0},
		{"rate too low", `{"name":"a","rate_limit_up":63999}`, "rate_limit_up", model.KindInvalid},
		{"rate too high", `{"name":"a","rate_limit_down":100000000001}`, "rate_limit_down", model.KindInvalid},
		{"negative rate", `{"name":"a","rate_limit_down":-1}`, "rate_limit_down", model.KindInvalid},
		{"rate is no number", `{"name":"a","rate_limit_up":"1 Mbit"}`, "rate_limit_up", model.KindInvalid},
		{"the largest quota", `{"name":"a","quota_bytes":9007199254740991}`, "", 0},
		{"quota too large", `{"name":"a","quota_bytes":9007199254740992}`, "quota_bytes", model.KindInvalid},
		{"negative quota", `{"name":"a","quota_bytes":-1}`, "quota_bytes", model.KindInvalid},
		{"fraction of a byte", `{"name":"a","quota_bytes":0.5}`, "quota_bytes", model.KindInvalid},
		{"unknown action", `{"name":"a","quota_action":"slow"}`, "quota_action", model.KindInvalid},
		{"flag is no flag", `{"name":"a","isolated":2}`, "isolated", model.KindInvalid},
		{"unknown members", `{"name":"a","color":"red"}`, "", 0},
		{"disabled is not for create", `{"name":"a","enabled":false}`, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "10.8.0.0/24")
			b.write(t, func(tx *store.Tx) error { return store.Users.Insert(tx, &model.User{Username: "u"}) })
			b.group(t, `{"name":"g"}`)
			b.create(t, "taken", func(in *Input) { in.PublicKey = model.Value(fixedKey(3).Public().String()) })
			before := len(b.events(t))
			var in Input
			err := json.Unmarshal([]byte(c.body), &in)
			var got Created
			if err == nil {
				got, err = b.Create(t.Context(), in)
			}
			if c.field != "" {
				wantError(t, err, c.kind, c.field)
				if _, total, _ := b.List(t.Context(), 0, 0); total != 1 {
					t.Errorf("%d peers after a refusal", total)
				}
				if n := len(b.events(t)); n != before {
					t.Errorf("a refusal left %d events", n-before)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !got.Enabled {
				t.Error("created disabled")
			}
		})
	}
}

func TestCreateNamesEveryFieldAtFault(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	var in Input
	body := `{"name":"?","description":"` + strings.Repeat("a", 256) + `","tags":"<","group_id":1,"user_id":2,
		"expires_at":"x","dns":"x","persistentKeepalive":-1,"hostname":"admin","public_key":"x","preshared_key":"x","api_port":1}`
	if err := json.Unmarshal([]byte(body), &in); err != nil {
		t.Fatal(err)
	}
	_, err := b.Create(t.Context(), in)
	e := wantError(t, err, model.KindInvalid, "name")
	if len(e.Fields) != 12 {
		t.Errorf("%d fields: %v", len(e.Fields), e.Fields)
	}
}

func TestInputNamesEveryUnreadableMember(t *testing.T) {
	var in Input
	err := json.Unmarshal([]byte(`{"name":{},"enabled":"maybe","persistent_keepalive":"x","tags":[1]}`), &in)
	e := wantError(t, err, model.KindInvalid, "name")
	if len(e.Fields) != 4 {
		t.Errorf("%d fields: %v", len(e.Fields), e.Fields)
	}
}

func TestCreateValues(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	var in Input
	if err := json.Unmarshal([]byte(`{"name":"a","description":"d","tags":["x","y"],"expires_at":"2026-12-31","dns":"1.1.1.1,9.9.9.9","persistentKeepalive":"0","hostname":"NAS"}`), &in); err != nil {
		t.Fatal(err)
	}
	c, err := b.Create(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if *c.Description != "d" || c.Tags != "x, y" || len(c.DNS) != 2 || c.Keepalive != 0 {
		t.Errorf("%+v", c.Peer)
	}
	if want := time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC); !c.ExpiresAt.Equal(want) {
		t.Errorf("a bare date became %s, want the end of that day", c.ExpiresAt)
	}
	if c.Hostname != "nas" || c.HostnameSource != model.HostnameAdmin {
		t.Errorf("host name %q from %q", c.Hostname, c.HostnameSource)
	}
}

func TestCreateWithKeyOfDevice(t *testing.T) {
	b := newBench(t, "10.8.0.0/24")
	key, psk := fixedKey(7), fixedKey(8)
	c := b.create(t, "a", func(in *Input) { in.PublicKey = model.Value(key.Public().String()) })
	if !c.PrivateKey.IsZero() || !c.PresharedKey.IsZero() || c.View.PrivateKey != "" || c.View.PresharedKey != "" {
		t.Error("something was generated for a device that keeps its key")
	}
	d := b.create(t, "b", func(in *Input) {
		in.PublicKey, in.PresharedKey = model.Value(fixedKey(6).Public().String()), model.Value(psk.Base64())
	})
	if got, err := b.db.Sealer().OpenKey(d.View.PresharedKey); err != nil || got != psk {
		t.Errorf("preshared key: %v", err)
	}
	if !d.PresharedKey.IsZero() {
		t.Error("the device's preshared key was sent back")
	}
}

func TestAddresses(t *testing.T) {
	at := func(s string) func(*Options) {
		return func(o *Options) { o.Tunnel.Gateway = netip.MustParseAddr(s) }
	}
	for _, c := range []struct {
		name, subnet string
		gateway      func(*Options)
		want         []string // then the subnet is full
	}{
		{"/29", "10.8.0.0/29", at("10.8.0.1"), []string{"10.8.0.2", "10.8.0.3", "10.8.0.4", "10.8.0.5", "10.8.0.6"}},
		{"gateway in the middle", "10.8.0.0/29", at("10.8.0.4"), []string{"10.8.0.2", "10.8.0.3", "10.8.0.5", "10.8.0.6"}},
		{"gateway at the end", "192.0.2.248/29", at("192.0.2.254"), []string{"192.0.2.250", "192.0.2.251", "192.0.2.252", "192.0.2.253"}},
		{"/30", "10.8.0.0/30", at("10.8.0.1"), []string{"10.8.0.2"}},
		{"/31", "10.8.0.0/31", at("10.8.0.1"), nil},
		{"/32", "10.8.0.1/32", at("10.8.0.1"), nil},
		{"end of the address space", "255.255.255.248/29", at("255.255.255.249"), []string{"255.255.255.250", "255.255.255.251", "255.255.255.252", "255.255.255.253", "255.255.255.254"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.subnet, c.gateway)
			for i, want := range c.want {
				if got := b.create(t, fmt.Sprintf("p%d", i)); got.Address().String() != want {
					t.Errorf("peer %d got %s, want %s", i, got.Address(), want)
				}
			}
			_, err := b.Create(t.Context(), Input{Name: model.Value("one too many")})
			wantError(t, err, model.KindConflict, "")
		})
	}
	t.Run("the lowest address that became free", func(t *testing.T) {
		b := newBench(t, "10.8.0.0/24")
		var ids []model.PeerID
		for i := range 5 {
			ids = append(ids, b.create(t, fmt.Sprintf("p%d", i)).ID)
		}
		for _, i := range []int{3, 1} {
			if err := b.Delete(t.Context(), ids[i]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Toggle(t.Context(), ids[0]); err != nil { // a disabled peer keeps its address
			t.Fatal(err)
		}
		for i, want := range []string{"10.8.0.3", "10.8.0.5", "10.8.0.7"} {
			if got := b.create(t, fmt.Sprintf("q%d", i)); got.Address().String() != want {
				t.Errorf("got %s, want %s", got.Address(), want)
			}
		}
	})
}

// fill inserts n peers at once, past the service.
func (b *bench) fill(t testing.TB, n int) {
	t.Helper()
	b.write(t, func(tx *store.Tx) error {
		for i := range n {
			a := address(number(b.o.Tunnel.Subnet.Addr()) + 2 + uint32(i))
			p := &model.Peer{
				Name: fmt.Sprintf("peer %d", i), Type: model.PeerRegular, Enabled: true, Keepalive: 25,
				PublicKey:  model.PublicKey{byte(i), byte(i >> 8), 1},
				PrivateKey: b.db.Sealer().SealKey(fixedKey(1)), PresharedKey: b.db.Sealer().SealKey(fixedKey(2)),
				AllowedIPs: []netip.Prefix{netip.PrefixFrom(a, 32)}, CreatedAt: noon, UpdatedAt: noon,
			}
			if err := store.Peers.Insert(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestLimit(t *testing.T) {
	b := newBench(t, "10.8.0.0/16")
	b.fill(t, MaxPeers-1)
	if got := b.create(t, "the last"); got.Address().String() != "10.8.39.17" {
		t.Errorf("address %s", got.Address())
	}
	_, err := b.Create(t.Context(), Input{Name: model.Value("one too many")})
	wantError(t, err, model.KindConflict, "")
}

func TestCreateRaces(t *testing.T) {
	race := func(t *testing.T, b *bench, n int, in func(i int) Input) (ok []Created, errs []error) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				c, err := b.Create(t.Context(), in(i))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
					return
				}
				ok = append(ok, c)
			})
		}
		wg.Wait()
		return ok, errs
	}
	t.Run("for the last address", func(t *testing.T) {
		b := newBench(t, "10.8.0.0/30")
		ok, errs := race(t, b, 8, func(i int) Input { return Input{Name: model.Value(fmt.Sprint("p", i))} })
		if len(ok) != 1 {
			t.Fatalf("%d won", len(ok))
		}
		for _, err := range errs {
			wantError(t, err, model.KindConflict, "")
		}
	})
	t.Run("for one name", func(t *testing.T) {
		b := newBench(t, "10.8.0.0/24")
		ok, errs := race(t, b, 8, func(int) Input { return Input{Name: model.Value("same")} })
		if len(ok) != 1 {
			t.Fatalf("%d won", len(ok))
		}
		for _, err := range errs {
			wantError(t, err, model.KindInvalid, "name")
		}
	})
	t.Run("for one host name", func(t *testing.T) {
		b := newBench(t, "10.8.0.0/24")
		ok, errs := race(t, b, 8, func(i int) Input {
			return Input{Name: model.Value(fmt.Sprint("p", i)), Hostname: model.Value("nas")}
		})
		names, addrs := map[string]bool{}, map[netip.Addr]bool{}
		for _, c := range ok {
			names[c.Hostname], addrs[c.Address()] = true, true
		}
		if len(errs) != 0 || len(names) != 8 || len(addrs) != 8 || !names["nas"] || !names["nas-8"] {
			t.Errorf("errors %v, names %v, addresses %v", errs, names, addrs)
		}
	})
}

func BenchmarkCreateAt10000(b *testing.B) {
	bb := newBench(b, "10.8.0.0/16")
	bb.fill(b, MaxPeers-1)
	b.ReportAllocs()
	for b.Loop() {
		c, err := bb.Create(b.Context(), Input{Name: model.Value("new")})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := bb.Delete(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkAllocateAt10000(b *testing.B) {
	bb := newBench(b, "10.8.0.0/16")
	bb.fill(b, MaxPeers-1)
	b.ReportAllocs()
	err := bb.db.View(func(tx *store.Tx) error {
		for b.Loop() {
			if _, err := bb.allocate(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkListAt10000(b *testing.B) {
	bb := newBench(b, "10.8.0.0/16")
	bb.fill(b, MaxPeers)
	b.ReportAllocs()
	for b.Loop() {
		if page, total, err := bb.List(b.Context(), 250, 5000); err != nil || len(page) != 250 || total != MaxPeers {
			b.Fatal(len(page), total, err)
		}
	}
}

func FuzzInput(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `[]`, `{"name":"a","tags":["x"],"group_id":"","enabled":"1"}`, `{"persistentKeepalive":1e400}`, `{"name":null,"":1}`} {
		f.Add([]byte(s))
	}
	b := newBench(f, "10.8.0.0/24")
	def := b.o.Tunnel
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in Input
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		var bad model.Invalids
		p := model.Peer{}
		if err := b.db.View(func(tx *store.Tx) error { return in.apply(tx, &p, &def, &bad) }); err != nil {
			t.Fatal(err)
		}
		if bad.Err() != nil {
			return
		}
		if _, err := json.Marshal(p); err != nil {
			t.Fatalf("accepted, but cannot be stored: %v", err)
		}
	})
}
