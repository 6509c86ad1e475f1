package app_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"gatecontrol/app"
	"gatecontrol/lab"
	"gatecontrol/model"
	"gatecontrol/store"
)

// TestNoLoopsInAnySpelling has web routes lead to our own ports under every
// address that means this host, as the database of another version might. The
// same addresses serve at other ports.
func TestNoLoopsInAnySpelling(t *testing.T) {
	o := lab.Options(t)
	o.EncryptionKey = model.Secret(strings.Repeat("ab", 32))
	web, plain, admin := lab.FreePort(t), lab.FreePort(t), lab.FreePort(t)
	o.HTTPSListen, o.HTTPListen = fmt.Sprintf(":%d", web), fmt.Sprintf(":%d", plain)
	o.Host, o.Port = "0.0.0.0", uint16(admin)
	run := func(f func(*app.Options)) *lab.Server {
		f(&o)
		return lab.Run(t, o)
	}
	run(func(*app.Options) {}).Stop(t)

	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}
	go func() { _ = backend.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = backend.Close() })
	other := ln.Addr().(*net.TCPAddr).Port

	spellings := []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:7f09:909"}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			spellings = append(spellings, n.IP.String(), "::ffff:"+n.IP.String())
		}
	}
	sealer, err := store.NewSealer(o.EncryptionKey)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: o.DataDir, Sealer: sealer, Log: lab.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	err = db.Update(context.Background(), func(tx *store.Tx) error {
		for i, text := range spellings {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				continue // an IPv6 address with our prefix
			}
			for name, port := range map[string]int{"web": web, "plain": plain, "admin": admin, "other": other} {
				r := &model.Route{
					Domain: fmt.Sprintf("%s%d.example.test", name, i), Type: model.RouteHTTP, Enabled: true,
					Target: model.Target{Addr: addr, Port: uint16(port)},
				}
				if err := store.Routes.Insert(tx, r); err != nil {
					return err
				}
				want[r.Domain] = http.StatusBadGateway
				if name == "other" {
					want[r.Domain] = http.StatusTeapot
				}
			}
		}
		return nil
	})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}

	s := run(func(*app.Options) {})
	client := trustingAt(t, s.Dir, fmt.Sprintf("127.0.0.1:%d", web))
	for domain, status := range want {
		res, err := client.Get("https://" + domain + "/")
		if err != nil {
			t.Errorf("%s: %v", domain, err)
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s: %s, want %d", domain, res.Status, status)
		}
	}
	s.Admin.Login(t, lab.User, lab.Password)
	api := s.Admin.WithToken(s.Admin.MakeToken(t, "routes"))
	defer api.HTTP.CloseIdleConnections()
	for _, port := range []int{web, plain, admin} {
		var answer struct{ Fields map[string]string }
		api.Call(t, 400, "POST", "/api/v1/routes", map[string]any{"domain": "loop.example.test", "target_port": port}, &answer)
		if answer.Fields["target_port"] == "" {
			t.Errorf("%d: %v", port, answer.Fields)
		}
	}
}

// TestNoLoopsThroughALocalNetwork has a whole network mean this host, of which no
// interface has an address.
func TestNoLoopsThroughALocalNetwork(t *testing.T) {
	lab.NeedRoot(t, "ip")
	ns := lab.NewNamespace(t, "s")
	ns.Run(t, "ip", "route", "add", "local", "203.0.113.0/24", "dev", "lo")
	api, dir := startProcess(t, ns, "GC_WG_HOST=127.0.0.1")
	serveHTTP(t, ns, ":8001", "this host")
	tr := &http.Transport{TLSClientConfig: trustIn(t, dir), DialContext: ns.DialTo("127.0.0.1:8443")}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	for port, want := range map[int]int{8001: 200, 8080: 502, 8443: 502, 3000: 502} {
		domain := fmt.Sprintf("p%d.example.test", port)
		api.Call(t, 201, "POST", "/api/v1/routes", map[string]any{"domain": domain, "target_ip": "203.0.113.7", "target_port": port, "backend_https": port == 8443}, nil)
		res, err := client.Get("https://" + domain + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("port %d: %s, want %d", port, res.Status, want)
		}
	}
}
