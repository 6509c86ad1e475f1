package app_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"gatecontrol/app"
	"gatecontrol/lab"
)

// TestNoLoops publishes our own listeners, as the database of another version
// might: nothing may come round.
func TestNoLoops(t *testing.T) {
	s := lab.Start(t, func(o *app.Options) { o.L4BlockedPorts = []uint16{22} })
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeEcho(t, ln)
	echo := ln.Addr().(*net.TCPAddr).Port
	first, second := lab.FreePort(t), lab.FreePort(t)
	for _, r := range [][2]int{{second, first}, {first, echo}} { // in the other order it would be refused
		listen, target := r[0], r[1]
		s.API.Call(t, 201, "POST", "/api/v1/routes", map[string]any{
			"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": listen, "target_ip": "", "target_port": target}, nil)
	}
	direct, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", first))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	exchange(t, direct)

	round, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", second))
	if err != nil {
		t.Fatal(err)
	}
	defer round.Close()
	_ = round.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(round, "echo")
	if n, _ := round.Read(make([]byte, 4)); n > 0 {
		t.Error("a port route leads to another port route of this server")
	}
}
