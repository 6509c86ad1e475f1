package model

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPeersOfARoute compares the ways to ask which peers a route names, and takes
// each out.
func TestPeersOfARoute(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	id := func() PeerID { return PeerID(rnd.IntN(6)) } // 0 is none
	for range 2000 {
		r := &Route{Target: Target{Peer: id()}}
		if rnd.IntN(5) > 0 {
			w := DefaultWeb()
			for range rnd.IntN(4) {
				w.ACL.Peers = append(w.ACL.Peers, 1+id())
				w.Backends = append(w.Backends, Backend{Peer: 1 + id(), Port: uint16(1 + rnd.IntN(9))})
				w.Mirror.Targets = append(w.Mirror.Targets, MirrorTarget{Peer: 1 + id()})
				w.Paths = append(w.Paths, Path{Prefix: "/", Peer: id()})
			}
			w.ACL.Enabled, w.Mirror.Enabled = rnd.IntN(2) == 0, len(w.Mirror.Targets) > 0
			r.Web = &w
		}
		peers := r.Peers()
		if !slices.IsSorted(peers) || len(slices.Compact(slices.Clone(peers))) != len(peers) || slices.Contains(peers, 0) {
			t.Fatalf("%v", peers)
		}
		for n := PeerID(1); n < 8; n++ {
			if r.Names(n) != slices.Contains(peers, n) {
				t.Fatalf("peer %d: named %t, listed %v", n, r.Names(n), peers)
			}
		}
		for _, n := range peers {
			was := *r
			onPath := r.Web != nil && slices.ContainsFunc(r.Web.Paths, func(p Path) bool { return p.Peer == n })
			if lost := r.Forget(n); lost != onPath {
				t.Fatalf("peer %d: a path lost its target: %t", n, lost)
			}
			if r.Names(n) != (r.Target.Peer == n) {
				t.Fatalf("peer %d is still named", n)
			}
			if r.Web == nil {
				continue
			}
			if was.Web.ACL.Enabled != r.Web.ACL.Enabled || r.Web.Mirror.Enabled && len(r.Web.Mirror.Targets) == 0 || r.Web == was.Web {
				t.Fatalf("was %+v, became %+v", was.Web, r.Web)
			}
		}
	}
}

func TestBlockReplyFor(t *testing.T) {
	notFound := BlockReply{Action: BlockNotFound}
	page := BlockReply{Action: BlockCustom, Body: "x"}
	away := BlockReply{Action: BlockRedirect, URL: "https://b.example.com/"}
	for _, c := range []struct {
		name            string
		own, def, wants BlockReply
	}{
		{"its own", page, away, page},
		{"without what it does not use", BlockReply{Action: BlockCustom, Body: "x", URL: "y"}, away, page},
		{"inherited", BlockReply{Action: BlockInherit, Body: "kept"}, away, away},
		{"inherited from nothing", BlockReply{Action: BlockInherit}, DefaultBlock(), notFound},
		{"nothing to inherit", BlockReply{Action: BlockInherit}, BlockReply{Action: BlockInherit}, notFound},
		{"empty", BlockReply{Action: BlockEmpty}, page, BlockReply{Action: BlockEmpty}},
		{"back to the route", BlockReply{Action: BlockRedirect, URL: "https://A.example.com/x"}, page, notFound},
		{"inherited back to the route", BlockReply{Action: BlockInherit}, BlockReply{Action: BlockRedirect, URL: "http://a.example.com.:81"}, notFound},
		{"no page", BlockReply{Action: BlockCustom}, page, notFound},
		{"no URL", BlockReply{Action: BlockRedirect}, page, notFound},
		{"another word", BlockReply{Action: "x"}, page, notFound},
	} {
		if got := c.own.For("a.example.com", c.def); got != c.wants {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.wants)
		}
	}
}

func TestLeadsTo(t *testing.T) {
	for text, want := range map[string]bool{
		"https://a.example.com": true, "http://A.EXAMPLE.com.:8443/x": true, "https://b.example.com": false, "https://a.example.com.evil.example": false,
		"https://b.example.com/?https://a.example.com": false, "https://b.example.com\\@a.example.com": true, "//a.example.com": true, "": true,
	} {
		if got := LeadsTo(text, "a.example.com"); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
