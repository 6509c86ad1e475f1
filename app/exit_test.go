package app_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"gatecontrol/lab"
)

// TestExitSettings changes what peers reach while they are there: networks of
// the operator, the internet, other resolvers.
func TestExitSettings(t *testing.T) {
	lab.NeedRoot(t, "ip", "wg", "wg-quick")
	s := newScene(t, func(ns *lab.Namespace, bin string) *exec.Cmd { return ns.Cmd(bin, "serve") })
	lab.EchoTCP(t, s.world, world+":7000")
	set := func(t *testing.T, body map[string]any) {
		t.Helper()
		s.api.Call(t, 200, "PUT", "/api/v1/settings/exit", body, nil)
	}
	connect := func(t *testing.T) net.Conn {
		t.Helper()
		conn, err := dialTimeout(s.alpha.Namespace, "tcp", world+":7000")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		exchange(t, conn)
		return conn
	}
	cut := func(t *testing.T, conn net.Conn) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection is still open: %v", err)
		}
		if conn, err := dialTimeout(s.alpha.Namespace, "tcp", world+":7000"); err == nil {
			_ = conn.Close()
			t.Error("another one gets out")
		}
	}
	for name, closed := range map[string]map[string]any{
		"another network": {"private_networks": []string{"192.168.1.0/24"}},
		"no network":      {"private_networks": []string{}},
		"no exit":         {"enabled": false},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t)
			set(t, closed)
			cut(t, conn)
			set(t, map[string]any{"enabled": nil, "private_networks": nil})
			connect(t)
		})
	}
	t.Run("redirected DNS", func(t *testing.T) {
		ask := func() ([]string, error) { // somebody out there who is no resolver
			r := &net.Resolver{PreferGo: true, Dial: s.alpha.DialTo(world + ":53")}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			return r.LookupHost(ctx, "beta.gc.internal")
		}
		if got, err := ask(); err == nil {
			t.Fatalf("the world knows %v", got)
		}
		set(t, map[string]any{"redirect_dns": true})
		if got, err := ask(); err != nil || len(got) != 1 || got[0] != s.beta.Addr.String() {
			t.Errorf("%v, %v", got, err)
		}
		set(t, map[string]any{"redirect_dns": false})
		if got, err := ask(); err == nil {
			t.Errorf("the world knows %v again", got)
		}
	})
}
