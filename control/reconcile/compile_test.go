package reconcile

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatecontrol/model"
	"gatecontrol/netstack"
	"gatecontrol/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testFacts = Facts{
	Gateway:        netip.MustParseAddr("10.8.0.1"),
	AdminHosts:     []string{"gate.example.com", "127.0.0.1", "localhost"},
	TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	Exit:           model.Exit{Enabled: true, PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}},
}

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testPeer(id model.PeerID, addr string, change ...func(*model.Peer)) *peer {
	p := &model.Peer{
		ID: id, Name: "peer " + id.String(), Enabled: true, PublicKey: model.PublicKey{byte(id), 1},
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addr), 32)}, Keepalive: 25,
	}
	for _, f := range change {
		f(p)
	}
	return &peer{p, model.PrivateKey{}}
}

func testState() *state {
	past := testNow.Add(-time.Hour)
	shut := func(modes ...string) model.Windows { // on a Sunday at noon, UTC
		ws := model.Windows{Last: 1}
		for _, mode := range modes {
			ws.List = append(ws.List, model.Window{Mode: mode, Schedule: map[string]string{model.WindowAllow: "Mon-Fri 09:00-17:00", model.WindowBlock: "So 12:00-13:00"}[mode]})
		}
		return ws
	}
	s := &state{revision: 7, peers: []*peer{
		testPeer(1, "10.8.0.2", func(p *model.Peer) { p.Enabled = false; p.Hostname = "off" }),
		testPeer(2, "10.8.0.3", func(p *model.Peer) { p.ExpiresAt = &past }),
		testPeer(3, "10.8.0.9", func(p *model.Peer) {
			p.Hostname = "nas"
			p.Keepalive = 0
			p.Gateway = &model.GatewayAccess{APIPort: 9876, ProxyPort: 8080}
		}),
		testPeer(4, "10.8.0.7", func(p *model.Peer) {
			p.Type, p.Gateway = model.PeerGateway, &model.GatewayAccess{APIPort: 9876, ProxyPort: 18080}
		}),
		testPeer(5, "10.8.0.8", func(p *model.Peer) { p.Hostname, p.Windows = "asleep", shut(model.WindowAllow) }),
	}}
	for _, r := range []model.Route{
		{ID: 1, Type: model.RouteHTTP, Enabled: true, Domain: "nas.example.com", ForceHTTPS: true,
			// The address is what the peer had when this was written.
			Target: model.Target{Peer: 3, Addr: netip.MustParseAddr("10.8.0.4"), Port: 5000}},
		{ID: 2, Type: model.RouteHTTP, Enabled: false, Domain: "off.example.com", Monitored: true, Target: model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: 80}},
		{ID: 3, Type: model.RouteHTTP, Enabled: true, Domain: "direct.example.com", BackendHTTPS: true, Monitored: true,
			Target: model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: 443}},
		{ID: 4, Type: model.RouteL4, Enabled: true, Domain: "a mere label", L4: &model.L4{Network: "udp", Ports: model.PortRange{First: 5000, Last: 5010}, TLS: model.TLSNone},
			Target: model.Target{Peer: 3, Port: 53}},
		{ID: 5, Type: model.RouteL4, Enabled: true, L4: &model.L4{Network: "tcp", Ports: model.PortRange{First: 6000, Last: 6000}, TLS: model.TLSNone},
			Target: model.Target{Peer: 1, Port: 22}},
		{ID: 7, Type: model.RouteHTTP, Enabled: true, Domain: "all.example.com", BackendHTTPS: true,
			Target: model.Target{Peer: 3, Addr: netip.MustParseAddr("10.8.0.9"), Port: 5000}, Web: &model.Web{
				Block:     model.BlockReply{Action: model.BlockInherit, Body: "kept"},
				ACL:       model.ACL{Enabled: true, Peers: []model.PeerID{1, 2, 3, 99}}, // 1 is disabled
				IPFilter:  model.IPFilter{Enabled: true, Mode: model.FilterBlacklist, Rules: []model.IPRule{{Type: "country", Value: "DE"}}},
				BasicAuth: model.BasicAuth{Enabled: true, User: "u", Hash: "$2a$10$x"},
				Bots:      model.BotBlocker{Enabled: true, Mode: model.BotCustom, Message: "go", Status: 410},
				RateLimit: model.RateLimit{Enabled: true, Requests: 7, Window: time.Hour},
				Breaker:   model.Breaker{Enabled: true, Timeout: time.Minute, Open: true},
				ClientTLS: model.ClientTLS{Enabled: true, CA: "PEM"}, Compress: true, Trace: true,
				Headers:  &model.Headers{Request: []model.HeaderField{{Name: "A", Value: "b"}}},
				Backends: []model.Backend{{Peer: 1, Port: 80, Weight: 2}, {Peer: 2, Port: 81, Weight: 3}, {Peer: 99, Port: 81, Weight: 3}},
				Sticky:   model.Sticky{Enabled: true, Cookie: "c", TTL: time.Minute},
				Retry:    model.Retry{Enabled: true, Count: 9, Statuses: []int{500}},
				Mirror:   model.Mirror{Enabled: true, Targets: []model.MirrorTarget{{Peer: 1, Port: 82}, {Peer: 2, Port: 83}, {Peer: 99, Port: 83}}},
				Paths: []model.Path{{Prefix: "/own", Port: 84}, {Prefix: "/other", Strip: true, Peer: 2, Port: 85},
					{Prefix: "/off", Peer: 1, Port: 86}, {Prefix: "/away", Redirect: "/x", Status: 302}},
			}},
		{ID: 8, Type: model.RouteHTTP, Enabled: true, Domain: "behind.example.com", BackendHTTPS: true, Monitored: true,
			Target: model.Target{Port: 80, Gateway: &model.GatewayTarget{Peer: 4, Host: "fd00::5", Port: 5001}}, Web: &model.Web{
				External: true, Backends: []model.Backend{{Peer: 2, Port: 81, Weight: 3}}, // come after it
				Paths: []model.Path{{Prefix: "/other", Peer: 2, Port: 85}},
			}},
		{ID: 9, Type: model.RouteHTTP, Enabled: true, Domain: "closed.example.com", Monitored: true,
			Target: model.Target{Peer: 3, Port: 80}, Windows: shut(model.WindowAllow, model.WindowBlock)},
		{ID: 10, Type: model.RouteHTTP, Enabled: true, Domain: "open.example.com", Target: model.Target{Peer: 3, Port: 80}, Windows: model.Windows{
			Last: 1, List: []model.Window{{Mode: model.WindowBlock, Schedule: "So 11:00-12:00"}}}},
		{ID: 11, Type: model.RouteHTTP, Enabled: true, Domain: "damaged.example.com", Target: model.Target{Peer: 3, Port: 80}, Windows: model.Windows{
			Last: 1, List: []model.Window{{Mode: model.WindowAllow, Schedule: "always"}}}, Web: &model.Web{External: true, Trace: true}},
		{ID: 12, Type: model.RouteL4, Enabled: true, L4: &model.L4{Network: "tcp", Ports: model.PortRange{First: 7000, Last: 7000}, TLS: model.TLSNone},
			Target: model.Target{Peer: 3, Port: 22}, Windows: shut(model.WindowBlock)},
		{ID: 6, Type: model.RouteHTTP, Enabled: true, Domain: "skipped.example.com", Monitored: true, Target: model.Target{Peer: 3, Port: 1}},
	} {
		s.routes = append(s.routes, &r)
	}
	slices.SortFunc(s.routes, func(a, b *model.Route) int { return int(a.ID - b.ID) })
	return s
}

func TestCompileGolden(t *testing.T) {
	plan := compile(testState(), &testFacts, map[model.RouteID]error{6: model.NotFound("port")}, testNow)
	got, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "plan.json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

func TestCompilePeers(t *testing.T) {
	full := model.Months{{Month: model.MonthOf(testNow), N: model.QuotaExceeded}}
	member := func(p *model.Peer) { p.Group = 5 }
	for _, c := range []struct {
		name   string
		change func(*model.Peer)
		want   *netstack.Peer // but for what all peers have; nil: not in the tunnel
		groups []*model.Group
	}{
		{name: "plain", change: func(*model.Peer) {}, want: &netstack.Peer{}},
		{name: "bits become bytes", change: func(p *model.Peer) { p.RateLimitUp, p.RateLimitDown = 64_000, 100_000_000_000 },
			want: &netstack.Peer{ReceiveLimit: 8000, SendLimit: 12_500_000_000}},
		{name: "isolated", change: func(p *model.Peer) { p.Isolated = true }, want: &netstack.Peer{Isolated: true}},
		{name: "no exit", change: func(p *model.Peer) { p.NoExit = true }, want: &netstack.Peer{NoExit: true}},
		{name: "trusted", change: func(p *model.Peer) { p.Trusted = true }, want: &netstack.Peer{Trusted: true}},
		{name: "quota used up", change: func(p *model.Peer) { p.QuotaBytes, p.QuotaMarks = 1, full }},
		{name: "quota used up, to be told", change: func(p *model.Peer) { p.QuotaBytes, p.QuotaMarks, p.QuotaAction = 1, full, model.QuotaNotify }, want: &netstack.Peer{}},
		{name: "quota used up in another month", change: func(p *model.Peer) {
			p.QuotaBytes, p.QuotaMarks = 1, model.Months{{Month: "2026-02", N: model.QuotaExceeded}}
		}, want: &netstack.Peer{}},
		{name: "in a group", change: member, want: &netstack.Peer{}, groups: []*model.Group{{ID: 4, Isolated: true, NoExit: true}, {ID: 5}}},
		{name: "in an isolated group", change: member, want: &netstack.Peer{Isolated: true}, groups: []*model.Group{{ID: 5, Isolated: true}}},
		{name: "in a group without exit", change: member, want: &netstack.Peer{NoExit: true}, groups: []*model.Group{{ID: 5, NoExit: true}}},
		{name: "a group takes nothing back", change: func(p *model.Peer) { p.Group, p.Isolated, p.NoExit = 5, true, true },
			want: &netstack.Peer{Isolated: true, NoExit: true}, groups: []*model.Group{{ID: 5}}},
		{name: "a peer and its group", change: func(p *model.Peer) { p.Group, p.Isolated, p.Trusted = 5, true, true },
			want: &netstack.Peer{Isolated: true, NoExit: true, Trusted: true}, groups: []*model.Group{{ID: 5, NoExit: true}}},
		{name: "in a group that cannot be read", change: member, want: &netstack.Peer{Isolated: true, NoExit: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPeer(4, "10.8.0.2", c.change)
			got := compile(&state{peers: []*peer{p}, groups: c.groups}, &testFacts, nil, testNow).Netstack.Peers
			var want []netstack.Peer
			if c.want != nil {
				c.want.Name, c.want.PublicKey, c.want.AllowedIPs, c.want.Keepalive = p.Name, p.PublicKey, p.AllowedIPs, p.Keepalive
				want = []netstack.Peer{*c.want}
			}
			if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got)); diff != "" {
				t.Errorf("peers (-want +got):\n%s", diff)
			}
			if c.want != nil {
				other := *c.want
				other.Isolated, other.NoExit, other.Trusted, other.ReceiveLimit, other.SendLimit = false, false, false, 0, 0
				plain := netstack.Config{Peers: []netstack.Peer{other}}
				if got := (netstack.Config{Peers: want}).Equal(plain); got != reflect.DeepEqual(*c.want, other) {
					t.Errorf("equal to a plain peer: %t", got)
				}
			}
		})
	}
}

// With an IPv6 network every peer has an address in it, which names lead to.
func TestCompileIPv6(t *testing.T) {
	facts := testFacts
	facts.Subnets = model.Subnets{V4: netip.MustParsePrefix("10.8.0.0/24"), V6: netip.MustParsePrefix("fd00:8::/64")}
	s := testState()
	s.peers = append(s.peers, testPeer(5, "10.8.0.10", func(p *model.Peer) {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix("192.168.5.0/24"))
	}), testPeer(6, "10.9.0.1")) // from another subnet, once
	plan := compile(s, &facts, nil, testNow)
	var got []string
	for _, p := range plan.Netstack.Peers {
		got = append(got, fmt.Sprint(p.Name, p.AllowedIPs))
	}
	if want := []string{
		"peer 3[10.8.0.9/32 fd00:8::9/128]", "peer 4[10.8.0.7/32 fd00:8::7/128]", "peer 5[10.8.0.10/32 192.168.5.0/24 fd00:8::a/128]", "peer 6[10.9.0.1/32]",
	}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if plan.DNS.Address6 != netip.MustParseAddr("fd00:8::1") {
		t.Errorf("this server is at %s", plan.DNS.Address6)
	}
	for _, r := range plan.DNS.Records {
		if r.Addr6 != facts.Subnets.Pair(r.Addr) {
			t.Errorf("%s is at %s and %s", r.Name, r.Addr, r.Addr6)
		}
	}
	if again := compile(testState(), &testFacts, nil, testNow); len(again.Netstack.Peers[0].AllowedIPs) != 1 {
		t.Error("the stored prefixes were written")
	}
}

// TestRecompileEqualsCompile makes random changes and compiles only what they
// concern: the plan must be the one that compiling everything gives.
func TestRecompileEqualsCompile(t *testing.T) {
	db := newGateway(t).db
	db.SetPrepare(nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(p *Plan) string {
		raw, err := json.MarshalIndent(p, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	current := new(state)
	plan := compile(current, &testFacts, nil, testNow)
	fails := errors.New("left out")
	named, behind, probed := 0, 0, 0 // peers by options, routes behind home gateways, probes, over time
	for range 800 {
		skip := make(map[model.RouteID]error)
		for _, r := range current.routes {
			if rnd.IntN(4) == 0 {
				skip[r.ID] = fails
			}
		}
		plan = compile(current, &testFacts, skip, testNow)
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			for range 1 + rnd.IntN(3) {
				if err := randomChange(tx, rnd, current); err != nil {
					return err
				}
			}
			next, d, err := current.after(tx, db.Sealer(), skip)
			if err != nil {
				return err
			}
			for _, id := range d.routes {
				delete(skip, id)
			}
			plan = recompile(plan, d.scope, next, &testFacts, skip, testNow)
			whole := load(tx, db.Sealer())
			if len(whole.unreadable) > 0 {
				t.Fatal(whole.unreadable)
			}
			if diff := cmp.Diff(text(compile(whole, &testFacts, skip, testNow)), text(plan)); diff != "" {
				t.Fatalf("%+v (-compiled +recompiled):\n%s", d, diff)
			}
			current = next
			named += len(current.named())
			for _, r := range plan.Proxy.Routes {
				if r.Target.Behind != "" {
					behind++
				}
			}
			probed += len(plan.Monitor.Probes)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(current.peers) == 0 || len(current.groups) == 0 || len(current.routes) == 0 || named < 1000 || behind < 100 || probed < 1000 {
		t.Errorf("the changes left nothing to compare, or too little (%d, %d, %d)", named, behind, probed)
	}
}

// randomChange adds, changes or deletes a peer, a group or a route.
func randomChange(tx *store.Tx, rnd *rand.Rand, s *state) error {
	switch rnd.IntN(10) {
	case 0, 1:
		return randomGroupChange(tx, rnd, s)
	case 2:
		if rnd.IntN(3) == 0 {
			return store.Settings.Put(tx, &store.Setting{Key: model.MonitorIntervalKey, Value: fmt.Sprint(rnd.IntN(100))})
		}
		key := model.BlockKeys()[rnd.IntN(3)]
		if rnd.IntN(3) == 0 {
			_, err := store.Settings.Delete(tx, key)
			return err
		}
		value := []string{model.BlockRedirect, model.BlockCustom, "https://example.org", "a page"}[rnd.IntN(4)]
		return store.Settings.Put(tx, &store.Setting{Key: key, Value: value})
	}
	addr := netip.AddrFrom4([4]byte{10, 8, byte(1 + rnd.IntN(250)), byte(rnd.IntN(250))}).String()
	switch n := rnd.IntN(6); {
	case n == 0 || len(s.peers) < 3:
		p := testPeer(0, addr).Peer
		p.Name, p.PublicKey, p.Hostname = "peer at "+addr, model.NewPrivateKey().Public(), strings.ReplaceAll(addr, ".", "-")
		if rnd.IntN(2) == 0 {
			p.Type, p.Gateway = model.PeerGateway, &model.GatewayAccess{APIPort: 9876, ProxyPort: 8080}
		}
		return ignoreDuplicate(store.Peers.Insert(tx, p))
	case n == 1:
		p, err := store.Peers.Get(tx, s.peers[rnd.IntN(len(s.peers))].ID)
		if err != nil || p == nil {
			return err
		}
		switch rnd.IntN(7) {
		case 6:
			if p.Gateway != nil {
				p.Gateway.ProxyPort++
			}
		case 0:
			p.Enabled = !p.Enabled
		case 1:
			p.Name = "renamed " + addr
		case 2:
			p.Hostname = "h" + strings.ReplaceAll(addr, ".", "-")
		case 3:
			p.AllowedIPs = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addr), 32)}
		case 4:
			p.Keepalive++
		case 5:
			p.Group = 0
			if len(s.groups) > 0 {
				p.Group = s.groups[rnd.IntN(len(s.groups))].ID
			}
			if g, err := store.Groups.Get(tx, p.Group); err != nil || g == nil {
				p.Group = 0
			}
		}
		return ignoreDuplicate(store.Peers.Put(tx, p))
	case n == 2:
		id := s.peers[rnd.IntN(len(s.peers))].ID
		routes, err := store.Routes.FindAll(tx, "peer", id.String())
		if err != nil {
			return err
		}
		for _, r := range routes {
			r.Forget(id)
			if r.Target.Peer == id {
				r.Target.Peer, r.Enabled = 0, false
			}
			if g := r.Target.Gateway; g != nil && g.Peer == id {
				g.Peer, r.Enabled = 0, false
			}
			if err := store.Routes.Put(tx, r); err != nil {
				return err
			}
		}
		_, err = store.Peers.Delete(tx, id)
		return err
	case n == 3 && len(s.routes) > 3:
		_, err := store.Routes.Delete(tx, s.routes[rnd.IntN(len(s.routes))].ID)
		return err
	}
	if len(s.routes) > 0 && rnd.IntN(3) == 0 { // written as it is
		r, err := store.Routes.Get(tx, s.routes[rnd.IntN(len(s.routes))].ID)
		if err != nil || r == nil {
			return err
		}
		return store.Routes.Put(tx, r)
	}
	r := &model.Route{Enabled: rnd.IntN(3) > 0, Type: model.RouteHTTP, Domain: "d" + strings.ReplaceAll(addr, ".", "-") + ".example.com"}
	if len(s.routes) > 0 && rnd.IntN(2) == 0 {
		r.ID = s.routes[rnd.IntN(len(s.routes))].ID
	}
	r.Monitored = rnd.IntN(3) > 0
	r.Target = model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: uint16(1 + rnd.IntN(9))}
	if p, err := store.Peers.Get(tx, s.peers[rnd.IntN(len(s.peers))].ID); err == nil && p != nil && rnd.IntN(3) > 0 {
		r.Target.Peer = p.ID
		if p.Gateway != nil && rnd.IntN(2) == 0 {
			r.Target = model.Target{Port: 80, Gateway: &model.GatewayTarget{Peer: p.ID, Host: "nas", Port: 80}}
		}
	}
	if rnd.IntN(2) == 0 {
		r.Web = randomOptions(tx, rnd, s)
	}
	if rnd.IntN(3) == 0 && r.Target.Gateway == nil {
		r.Web = nil
		r.Type, r.L4 = model.RouteL4, &model.L4{Network: "tcp", Ports: model.PortRange{First: 5000, Last: 5000}, TLS: model.TLSNone}
	}
	if r.ID != 0 {
		return ignoreDuplicate(store.Routes.Put(tx, r))
	}
	return ignoreDuplicate(store.Routes.Insert(tx, r))
}

// randomOptions names some of the peers that are there.
func randomOptions(tx *store.Tx, rnd *rand.Rand, s *state) *model.Web {
	w := model.DefaultWeb()
	w.External, w.ACL.Enabled, w.Mirror.Enabled = rnd.IntN(2) == 0, rnd.IntN(2) == 0, rnd.IntN(2) == 0
	w.RateLimit.Enabled, w.Sticky.Enabled, w.Compress = rnd.IntN(3) == 0, rnd.IntN(3) == 0, rnd.IntN(3) == 0
	if w.Breaker.Enabled = rnd.IntN(3) == 0; w.Breaker.Enabled && rnd.IntN(2) == 0 {
		w.Breaker.Open = true
	}
	for range rnd.IntN(5) {
		p, err := store.Peers.Get(tx, s.peers[rnd.IntN(len(s.peers))].ID)
		if err != nil || p == nil {
			continue
		}
		port := uint16(1 + rnd.IntN(9))
		switch rnd.IntN(4) {
		case 0:
			w.ACL.Peers = append(w.ACL.Peers, p.ID)
		case 1:
			w.Backends = append(w.Backends, model.Backend{Peer: p.ID, Port: port, Weight: 1})
		case 2:
			w.Mirror.Targets = append(w.Mirror.Targets, model.MirrorTarget{Peer: p.ID, Port: port})
		case 3:
			prefix := "/"
			if rnd.IntN(2) == 0 {
				prefix += fmt.Sprint(rnd.Int())
			}
			w.Paths = append(w.Paths, model.Path{Prefix: prefix, Peer: p.ID, Port: port})
		}
	}
	return &w
}

func randomGroupChange(tx *store.Tx, rnd *rand.Rand, s *state) error {
	if len(s.groups) < 3 {
		return ignoreDuplicate(store.Groups.Insert(tx, &model.Group{Name: fmt.Sprint(rnd.Int()), Isolated: rnd.IntN(2) == 0}))
	}
	g, err := store.Groups.Get(tx, s.groups[rnd.IntN(len(s.groups))].ID)
	if err != nil || g == nil {
		return err
	}
	switch rnd.IntN(4) {
	case 0:
		g.Isolated = !g.Isolated
	case 1:
		g.NoExit = !g.NoExit
	case 2:
		g.Color = "#abc"
	case 3:
		members, err := store.Peers.FindAll(tx, "group", g.ID.String())
		if err != nil {
			return err
		}
		for _, p := range members {
			p.Group = 0
			if err := store.Peers.Put(tx, p); err != nil {
				return err
			}
		}
		_, err = store.Groups.Delete(tx, g.ID)
		return err
	}
	return store.Groups.Put(tx, g)
}

// ignoreDuplicate takes a clash in a unique index for no change.
func ignoreDuplicate(err error) error {
	if _, ok := errors.AsType[*store.DuplicateError](err); ok {
		return nil
	}
	return err
}
