package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"gatecontrol/demo"
	"gatecontrol/lab"
)

// makeGroup creates a group of these peers and returns its path.
func makeGroup(t *testing.T, api *lab.Client, name string, members ...int64) (path string) {
	t.Helper()
	var made struct{ Group struct{ ID int64 } }
	api.Call(t, 201, "POST", "/api/v1/peer-groups", map[string]any{"name": name}, &made)
	for _, id := range members {
		api.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/peers/%d", id), map[string]any{"group_id": made.Group.ID}, nil)
	}
	return fmt.Sprintf("/api/v1/peer-groups/%d", made.Group.ID)
}

// TestGroupIsolated switches a group while its members are connected to each
// other and to somebody else. Who has nothing to do with it notices nothing.
func TestGroupIsolated(t *testing.T) {
	s := lab.Start(t)
	ids, peers := map[string]int64{}, map[string]*demo.Peer{}
	for _, name := range []string{"anna", "bert", "carl", "dora"} {
		ids[name], peers[name] = s.Peer(t, name)
		ln, err := peers[name].Listen(7000)
		if err != nil {
			t.Fatal(err)
		}
		lab.ServeEcho(t, ln)
	}
	dial := func(from, to string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return peers[from].DialContext(ctx, "tcp", net.JoinHostPort(peers[to].Addr.String(), "7000"))
	}
	connect := func(from, to string) net.Conn {
		t.Helper()
		conn, err := dial(from, to)
		if err != nil {
			t.Fatalf("%s to %s: %v", from, to, err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		exchange(t, conn)
		return conn
	}
	// Nothing that is sent on a connection of before comes back, nor is a new one
	// accepted.
	apart := func(open map[string]net.Conn) {
		t.Helper()
		for way, conn := range open {
			_, _ = io.WriteString(conn, "echo")
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := conn.Read(make([]byte, 4)); n > 0 {
				t.Errorf("%s: bytes still pass: %v", way, err)
			}
		}
		for _, way := range [][2]string{{"anna", "bert"}, {"bert", "anna"}, {"anna", "carl"}, {"carl", "bert"}} {
			if conn, err := dial(way[0], way[1]); err == nil {
				_ = conn.Close()
				t.Errorf("%s reaches %s", way[0], way[1])
			}
		}
	}
	together := func() map[string]net.Conn {
		t.Helper()
		return map[string]net.Conn{"inside": connect("anna", "bert"), "out": connect("bert", "carl"), "in": connect("carl", "anna")}
	}
	stranger := connect("carl", "dora")

	group := makeGroup(t, s.API, "Guests", ids["anna"], ids["bert"])
	makeGroup(t, s.API, "Family", ids["carl"], ids["dora"])
	open := together()
	s.API.Call(t, 200, "PUT", group, map[string]any{"isolated": true}, nil)
	apart(open)
	exchange(t, stranger)
	if !reaches(t.Context(), s, peers["anna"]) {
		t.Error("a member does not reach the server")
	}

	s.API.Call(t, 200, "PUT", group, map[string]any{"isolated": false}, nil)
	open = together()
	s.API.Call(t, 200, "PUT", group, map[string]any{"isolated": true}, nil)
	apart(open)
	s.API.Call(t, 200, "DELETE", group, nil, nil)
	together()
	exchange(t, stranger)
}

// TestGroupNoExit switches the exit off for a group, one of whose members has a
// connection through it. That of a peer in no group goes on.
func TestGroupNoExit(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick")
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd { return ns.Cmd(bin, "serve") })
	group := makeGroup(t, s.api, "Guests", s.alphaID)
	lab.EchoTCP(t, s.world, world+":7000")
	exits := func(p *lab.ForeignPeer) (net.Conn, error) { return dialTimeout(p.Namespace, "tcp", world+":7000") }
	connect := func(p *lab.ForeignPeer) net.Conn {
		t.Helper()
		conn, err := exits(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		exchange(t, conn)
		return conn
	}
	member, other := connect(s.alpha), connect(s.beta)

	s.api.Call(t, 200, "PUT", group, map[string]any{"no_exit": true}, nil)
	_ = member.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := member.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection of a member is still open: %v", err)
	}
	if conn, err := exits(s.alpha); err == nil {
		_ = conn.Close()
		t.Error("a member still gets out")
	}
	exchange(t, other)

	s.api.Call(t, 200, "PUT", group, map[string]any{"no_exit": false}, nil)
	connect(s.alpha)
	exchange(t, other)
}
