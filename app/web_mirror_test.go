package app_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatecontrol/lab"
)

func mirror(t *testing.T, g *gallery, v visitor) {
	copies := g.exhibit(t, "mirror-"+strings.ToLower(v.version))
	id, domain := g.show(t, fields{"mirror_enabled": 1, "mirror_targets": []fields{{"peer_id": copies.id, "port": 8000}},
		"basic_auth_user": "anna", "basic_auth_password": "secret word"})
	out := v.outside(t)
	post := func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader("all of it")), 9
		r.SetBasicAuth("anna", "secret word")
		r.Header.Set("Cookie", "gc.route.sid=secret; theirs=1")
		r.Header.Set("X-Forwarded-For", "forged")
		r.Header.Set("X-Gateway-Target", "forged")
	}
	visit(t, out, domain, "/copied?x", post).wants(t, "mirrored", 200, "alpha:8000 POST /copied?x")
	copied := copies.wait(t, 1)
	body, err := io.ReadAll(copied.Body)
	if err != nil || string(body) != "all of it" || copied.Method != "POST" || copied.RequestURI != "/copied?x" || copied.Host != domain {
		t.Errorf("the copy is %s %s for %s, %q %v", copied.Method, copied.RequestURI, copied.Host, body, err)
	}
	for name, want := range map[string]string{"Authorization": "", "Cookie": "theirs=1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https",
		"X-Forwarded-Host": domain, "X-Real-Ip": "127.0.0.1", "X-Gateway-Target": ""} {
		if h := strings.Join(copied.Header.Values(name), "; "); h != want {
			t.Errorf("the copy has %s: %q, want %q", name, h, want)
		}
	}
	visit(t, out, domain, "/refused").wants(t, "refused", 401, "")
	g.change(t, id, fields{"mirror_enabled": 0})
	visit(t, out, domain, "/off", post).wants(t, "off", 200, "")
	g.change(t, id, fields{"mirror_enabled": 1, "basic_auth_enabled": 0})
	v.socket(t, out, domain, "/ws") // is not copied
	visit(t, out, domain, "/on", post).wants(t, "on again", 200, "")
	if got := copies.wait(t, 2); got.RequestURI != "/on" || copies.count() != 2 {
		t.Errorf("the next copy is %s, of %d", got.RequestURI, copies.count())
	}
	const tooLong = 10<<20 + 1
	visit(t, out, domain, "/long-body", post, func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(&counting{}, tooLong)), tooLong
	}).wants(t, "too long to be copied", 200, "alpha:8000 POST /long-body")
	whole, _ := io.Copy(io.Discard, g.alpha.last(t).Body)
	got := copies.wait(t, 3)
	if n, _ := io.Copy(io.Discard, got.Body); whole != tooLong || n != 0 || got.RequestURI != "/long-body" {
		t.Errorf("the backend has %d bytes, and the copy, %s, %d", whole, got.RequestURI, n)
	}
}

// hung opens ports of e that take requests and answer none of them before free is
// called. The channel tells of each that is taken, and again when it was read.
func (e exhibit) hung(t *testing.T, ports ...uint16) (told <-chan struct{}, free func()) {
	t.Helper()
	all, freed := make(chan struct{}, 1000), make(chan struct{})
	var conns sync.WaitGroup
	t.Cleanup(conns.Wait)
	for _, port := range ports {
		ln, err := e.peer.Listen(port)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			all <- struct{}{}
			<-freed
			_, _ = io.Copy(io.Discard, r.Body)
			all <- struct{}{}
		})}
		conns.Go(func() { _ = srv.Serve(ln) })
		t.Cleanup(func() { _ = srv.Close() })
	}
	free = sync.OnceFunc(func() { close(freed) })
	t.Cleanup(free)
	return all, free
}

// mirrorsHang has mirrors that take copies and answer none (contract 6.11): nobody
// waits for them, and there are 100 copies at most, and no more memory for their bodies
// than one client may have. The others are dropped and counted.
func mirrorsHang(t *testing.T, g *gallery, v visitor) {
	const each = 5 // targets of a route at most
	const dropped = `gatecontrol_proxy_mirror_copies_total{result="dropped"}`
	guest := g.exhibit(t, "hung-"+strings.ToLower(v.version))
	told, free := guest.hung(t, 8101, 8102, 8103, 8104, 8105)
	defer free()
	targets := make([]fields, each)
	for i := range targets {
		targets[i] = fields{"peer_id": guest.id, "port": 8101 + i}
	}
	id, domain := g.show(t, fields{"mirror_enabled": true, "mirror_targets": targets})
	g.s.API.Call(t, 400, "PUT", fmt.Sprintf("/api/v1/routes/%d", id), fields{"mirror_targets": append(targets, fields{"peer_id": g.beta.id, "port": 8000})}, nil)
	out := v.outside(t)
	before, copies, came := g.metric(t, dropped), 0, 0
	for copies < 115 {
		visit(t, out, domain, "/").wants(t, "mirrored", 200, "alpha:8000 GET /")
		for copies += each; came < copies && copies < 100; came++ { // for the ports of the peer have short queues
			arrived(t, told, fmt.Sprintf("copy %d", came))
		}
	}
	n := int(g.metric(t, dropped) - before)
	for ; came < copies-n; came++ {
		arrived(t, told, fmt.Sprintf("copy %d", came))
	}
	if came > 100 || came < 95 { // some of another version may still have been open
		t.Errorf("of %d copies %d came at once, and %d were dropped", copies, came, n)
	}
	free()
	for range came {
		arrived(t, told, "the end of a copy")
	}
	mirrored(t, g, out, id, domain, guest)

	told, free = guest.hung(t, 8106)
	defer free()
	g.change(t, id, fields{"mirror_targets": []fields{{"peer_id": guest.id, "port": 8106}}})
	const long = 9 << 20
	post := func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(io.LimitReader(&counting{}, long)), long
	}
	before = g.metric(t, dropped)
	for range 2 {
		visit(t, out, domain, "/long", post).wants(t, "a long body", 200, "")
		if n, _ := io.Copy(io.Discard, g.alpha.last(t).Body); n != long {
			t.Errorf("the backend has %d bytes of %d", n, long)
		}
	}
	arrived(t, told, "the copy of a long body")
	if n := g.metric(t, dropped) - before; n != 1 {
		t.Errorf("%v copies of long bodies were dropped, want 1", n)
	}
	free()
	arrived(t, told, "the end of a long copy")
	mirrored(t, g, out, id, domain, guest)
}

// arrived waits for what comes through a channel.
func arrived(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come in 10 s", what)
	}
}

// mirrored has the copies of a route go to guest, and waits until there is room for one.
func mirrored(t *testing.T, g *gallery, out *http.Client, id int64, domain string, guest exhibit) {
	t.Helper()
	g.change(t, id, fields{"mirror_targets": []fields{{"peer_id": guest.id, "port": 8000}}})
	before := guest.count()
	lab.Eventually(t, 10*time.Second, "a copy", func() error {
		visit(t, out, domain, "/").wants(t, "mirrored again", 200, "alpha:8000 GET /")
		if guest.count() == before {
			return errors.New("there is no room")
		}
		return nil
	})
}

// mirrorsDisabled has one of two mirrors at a peer that is disabled (contract 6.11).
func mirrorsDisabled(t *testing.T, g *gallery, v visitor) {
	off, on := g.exhibit(t, "mirror-off-"+strings.ToLower(v.version)), g.exhibit(t, "mirror-on-"+strings.ToLower(v.version))
	_, domain := g.show(t, fields{"mirror_enabled": true, "mirror_targets": []fields{{"peer_id": off.id, "port": 8000}, {"peer_id": on.id, "port": 8000}}})
	out := v.outside(t)
	visit(t, out, domain, "/both").wants(t, "both enabled", 200, "")
	off.wait(t, 1)
	on.wait(t, 1)
	g.s.API.Call(t, 200, "PUT", fmt.Sprintf("/api/v1/peers/%d/toggle", off.id), nil, nil)
	const failed = `gatecontrol_proxy_mirror_copies_total{result="failed"}`
	before := g.metric(t, failed)
	for n := range 3 {
		visit(t, out, domain, "/one").wants(t, "one disabled", 200, "")
		on.wait(t, 2+n)
	}
	g.s.API.Call(t, 200, "DELETE", fmt.Sprintf("/api/v1/peers/%d", off.id), nil, nil)
	visit(t, out, domain, "/one").wants(t, "one deleted", 200, "")
	on.wait(t, 5)
	if n := g.metric(t, failed) - before; n != 0 || off.count() != 1 {
		t.Errorf("%v copies failed, and %d came to a peer that was disabled", n, off.count()-1)
	}
}

// metric reads one of the server's metrics, by its name and labels.
func (g *gallery) metric(t *testing.T, name string) float64 {
	t.Helper()
	var text string
	g.s.API.Call(t, 200, "GET", "/metrics", nil, &text)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
