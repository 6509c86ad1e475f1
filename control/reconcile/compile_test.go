package reconcile

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatecontrol/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testFacts = Facts{
	Gateway:        netip.MustParseAddr("10.8.0.1"),
	AdminHosts:     []string{"gate.example.com", "127.0.0.1", "localhost"},
	TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	Exit:           true,
	ExitPrivate:    []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")},
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
	s := &state{revision: 7, peers: map[model.PeerID]*peer{
		3: testPeer(3, "10.8.0.9", func(p *model.Peer) { p.Hostname = "nas"; p.Keepalive = 0 }),
		1: testPeer(1, "10.8.0.2", func(p *model.Peer) { p.Enabled = false; p.Hostname = "off" }),
		2: testPeer(2, "10.8.0.3", func(p *model.Peer) { p.ExpiresAt = &past }),
	}, routes: make(map[model.RouteID]*model.Route)}
	for _, r := range []model.Route{
		{ID: 1, Type: model.RouteHTTP, Enabled: true, Domain: "nas.example.com", ForceHTTPS: true,
			// The address is what the peer had when this was written.
			Target: model.Target{Peer: 3, Addr: netip.MustParseAddr("10.8.0.4"), Port: 5000}},
		{ID: 2, Type: model.RouteHTTP, Enabled: false, Domain: "off.example.com", Target: model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: 80}},
		{ID: 3, Type: model.RouteHTTP, Enabled: true, Domain: "direct.example.com", BackendHTTPS: true,
			Target: model.Target{Addr: netip.MustParseAddr("9.9.9.9"), Port: 443}},
		{ID: 4, Type: model.RouteL4, Enabled: true, Domain: "a mere label", L4: &model.L4{Network: "udp", Ports: model.PortRange{First: 5000, Last: 5010}, TLS: model.TLSNone},
			Target: model.Target{Peer: 3, Port: 53}},
		{ID: 5, Type: model.RouteL4, Enabled: true, L4: &model.L4{Network: "tcp", Ports: model.PortRange{First: 6000, Last: 6000}, TLS: model.TLSNone},
			Target: model.Target{Peer: 1, Port: 22}},
		{ID: 6, Type: model.RouteHTTP, Enabled: true, Domain: "skipped.example.com", Target: model.Target{Peer: 3, Port: 1}},
	} {
		s.routes[r.ID] = &r
	}
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

// TestCompileIsPure compiles the same state again and again: maps come in any
// order, plans must not.
func TestCompileIsPure(t *testing.T) {
	s := testState()
	want, err := json.Marshal(compile(s, &testFacts, nil, testNow))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		got, err := json.Marshal(compile(s, &testFacts, nil, testNow))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("two plans of one state:\n%s\n%s", want, got)
		}
	}
}

func TestCheckRefusesDanglingReferences(t *testing.T) {
	s := testState()
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	delete(s.peers, 3)
	if err := s.check(); err == nil {
		t.Error("a route to a peer that does not exist passed")
	}
}
