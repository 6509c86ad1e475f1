package app_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/test/bufconn"

	"gatecontrol/demo"
	"gatecontrol/lab"
)

// companion stands for the program of a home gateway, which is not ours, by what is
// known of it (contract-clients 3.9): it serves plain HTTP on a port of the tunnel,
// finds where a domain leads by one field, exactly, and strips what was for itself.
type companion struct {
	exhibit // what arrives at the gateway

	env    string            // gateway.env
	lan    exhibit           // what arrives behind it, where nobody else comes
	routes map[string]string // targets by domain
	proxy  *httputil.ReverseProxy
}

// companion creates a home gateway, which then has to join.
func (g *gallery) companion(t *testing.T, name string) *companion {
	t.Helper()
	var made struct {
		Peer    struct{ ID int64 }
		Gateway struct{ EnvContent string }
	}
	g.s.API.Call(t, 201, "POST", "/api/v1/peers", fields{"name": name, "is_gateway": true}, &made)
	c := &companion{exhibit: newExhibit(made.Peer.ID), env: made.Gateway.EnvContent, lan: newExhibit(0), routes: make(map[string]string)}
	lan := bufconn.Listen(1 << 20)
	t.Cleanup(func() { _ = lan.Close() })
	service := &http.Server{Handler: c.lan.handler("lan", 5001)}
	go func() { _ = service.Serve(lan) }() // ends with Close
	t.Cleanup(func() { _ = service.Close() })
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		if addr != "192.168.2.228:5001" {
			return nil, errors.New("connection refused")
		}
		return lan.DialContext(ctx)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	c.proxy = &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: c.target(r.In)})
		r.Out.Host = r.In.Host
		for name := range r.Out.Header {
			if strings.HasPrefix(name, "X-Gateway-") {
				r.Out.Header.Del(name)
			}
		}
		r.Out.Header["X-Forwarded-For"] = append(r.In.Header["X-Forwarded-For"], "10.8.0.1")
	}}
	return c
}

// join joins with what gateway.env says of WireGuard.
func (c *companion) join(t *testing.T) {
	t.Helper()
	v := make(map[string]string)
	for line := range strings.SplitSeq(c.env, "\n") {
		key, value, _ := strings.Cut(line, "=")
		v[key] = value
	}
	p, err := demo.Join(t.Context(), fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nEndpoint = %s\nAllowedIPs = %s\nPersistentKeepalive = 25\n",
		v["WG_PRIVATE_KEY"], v["WG_ADDRESS"], v["WG_SERVER_PUBLIC_KEY"], v["WG_PRESHARED_KEY"], v["WG_ENDPOINT"], v["WG_ALLOWED_IPS"]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	c.peer = p
}

// target is where a request is to be led; without the field its Host decides, with
// the port.
func (c *companion) target(r *http.Request) string {
	domain := r.Header.Get("X-Gateway-Target-Domain")
	if domain == "" {
		domain = r.Host
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routes[domain]
}

func (c *companion) lead(domain, target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.routes[domain] = target
}

func (c *companion) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.note(r.Clone(context.Background()))
	if c.target(r) == "" {
		http.Error(w, "No route for domain "+r.Header.Get("X-Gateway-Target-Domain"), http.StatusBadGateway)
		return
	}
	c.proxy.ServeHTTP(w, r)
}

// start opens the port for requests.
func (c *companion) start(t *testing.T) {
	t.Helper()
	ln, err := c.peer.Listen(8080)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: c}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
}

// gatewayFields are those that are for home gateways alone.
func gatewayFields(r *http.Request) string {
	var list []string
	for _, name := range []string{"X-Gateway-Target-Domain", "X-Gateway-Target"} {
		list = append(list, strings.Join(r.Header.Values(name), ";"))
	}
	for name := range r.Header {
		if low := strings.ReplaceAll(strings.ToLower(name), "_", "-"); strings.HasPrefix(low, "x-gateway-") && !strings.HasPrefix(name, "X-Gateway-Target") {
			list = append(list, name)
		}
	}
	return strings.Trim(strings.Join(list, " "), " ")
}

// homeGateway publishes a service of the network behind a home gateway (contract
// 2.1, 6.14, 15.3, 15.7).
func homeGateway(t *testing.T, g *gallery, v visitor) {
	name := "home-" + strings.ToLower(v.version)
	c := g.companion(t, name)
	c.join(t)
	c.start(t)
	through := fields{"peer_id": nil, "target_port": nil, "target_ip": "192.168.2.228",
		"target_kind": "gateway", "target_peer_id": c.id, "target_lan_host": "192.168.2.228", "target_lan_port": 5001}
	g.s.API.Call(t, 400, "POST", "/api/v1/routes", fields{"domain": "private.example.test", "target_port": 80, "target_ip": "192.168.2.228"}, nil)
	id, domain := g.show(t, through)
	out := v.outside(t)

	visit(t, out, domain, "/").wants(t, "before the gateway knows", 502, "No route for domain "+domain+"\n")
	c.lead(domain, "192.168.2.228:5001")
	led := domain + " 192.168.2.228:5001"
	for where, client := range map[string]*http.Client{"outside": out, "inside": v.inside(t, g.beta.peer)} {
		visit(t, client, domain, "/a?b=%2f").wants(t, where, 200, "lan:5001 GET /a?b=%2f")
	}
	forge := func(r *http.Request) {
		for _, name := range []string{"X-Gateway-Target", "X-Gateway-Target-Domain", "X_Gateway_Target", "X-Gateway-Token"} {
			r.Header.Set(name, "forged")
		}
		r.Header.Set("Connection-Test", "kept")
	}
	check := func(what string) {
		t.Helper()
		visit(t, out, domain, "/x", forge).wants(t, what, 200, "lan:5001 GET /x")
		at, behind := c.last(t), c.lan.last(t)
		if got := gatewayFields(at); got != led || at.Host != domain || at.TLS != nil || at.Proto != "HTTP/1.1" || at.Header.Get("Connection-Test") != "kept" {
			t.Errorf("%s: the gateway got %q for %s over %s, %v", what, got, at.Host, at.Proto, at.Header)
		}
		if got := gatewayFields(behind); got != "" || behind.Host != domain || strings.Join(behind.Header["X-Forwarded-For"], ", ") != "127.0.0.1, 10.8.0.1" {
			t.Errorf("%s: the service got %q for %s, %v", what, got, behind.Host, behind.Header)
		}
	}
	check("forged")
	g.change(t, id, fields{"backend_https": 1})
	check("backend_https")
	var refused struct{ Fields map[string]string }
	g.s.API.Call(t, 400, "PUT", fmt.Sprintf("/api/v1/routes/%d", id),
		fields{"custom_headers": fields{"request": []fields{{"name": "X-Gateway-Target", "value": "a:1"}}}}, &refused)
	if len(refused.Fields) != 1 || refused.Fields["custom_headers.request[0]"] == "" {
		t.Errorf("the refusal names %v", refused.Fields)
	}
	gatewayTraffic(t, v, out, domain)

	g.change(t, id, fields{"retry_enabled": true, "retry_count": 1, "retry_status_codes": "503",
		"mirror_enabled": true, "mirror_targets": []fields{{"peer_id": g.beta.id, "port": 8000}},
		"backends": []fields{{"peer_id": g.alpha.id, "port": 8001}}, // come after the gateway
		"paths":    []fields{{"prefix": "/other", "peer_id": g.alpha.id, "port": 8001}}})
	before, copies := c.count(), g.beta.count()
	visit(t, out, domain, "/fail/1/x", forge).wants(t, "at the second attempt", 200, "lan:5001 GET /fail/1/x")
	if c.count() != before+2 || gatewayFields(c.last(t)) != led {
		t.Errorf("%d attempts, the last one with %q", c.count()-before, gatewayFields(c.last(t)))
	}
	if got := gatewayFields(g.beta.wait(t, copies+1)); got != "" {
		t.Errorf("the copy has %q", got)
	}
	visit(t, out, domain, "/other/x", forge).wants(t, "a path that leads elsewhere", 200, "alpha:8001 GET /other/x")
	if got := gatewayFields(g.alpha.last(t)); got != "" {
		t.Errorf("a peer got %q", got)
	}
	g.beta.wait(t, copies+2)
	g.change(t, id, fields{"mirror_enabled": false, "retry_enabled": false, "paths": nil})

	var told struct {
		Head  string
		Steps []struct{ Name, Verdict, Reason string }
	}
	g.s.API.Call(t, 200, "POST", "/api/v1/routes/explain", fields{"url": "https://" + domain + "/", "address": "203.0.113.9"}, &told)
	last := told.Steps[len(told.Steps)-1]
	if last.Name != "gateway" || last.Verdict != "pass" || !strings.Contains(last.Reason, name+" leads on to 192.168.2.228:5001") ||
		!strings.Contains(told.Head, "\r\nX-Gateway-Target-Domain: "+domain+"\r\nX-Gateway-Target: 192.168.2.228:5001\r\n") {
		t.Errorf("explained as %+v", told)
	}

	before = c.count()
	g.change(t, id, fields{"target_kind": "peer", "peer_id": g.alpha.id, "target_port": 8000, "backend_https": 0, "backends": nil})
	visit(t, out, domain, "/x", forge).wants(t, "a peer again", 200, "alpha:8000 GET /x")
	if got := gatewayFields(g.alpha.last(t)); got != "" || c.count() != before {
		t.Errorf("the peer got %q, and the gateway %d requests", got, c.count()-before)
	}
	g.change(t, id, through)
	check("the gateway again")

	g.s.API.Call(t, 200, "DELETE", fmt.Sprintf("/api/v1/peers/%d", c.id), nil, nil)
	var left struct{ Route fields }
	g.s.API.Call(t, 200, "GET", fmt.Sprintf("/api/v1/routes/%d", id), nil, &left)
	if left.Route["enabled"] != 0.0 || left.Route["target_peer_id"] != nil || left.Route["target_lan_host"] != "192.168.2.228" {
		t.Errorf("the gateway is deleted: %v", left.Route)
	}
	if res, err := v.outside(t).Get("https://" + domain + "/"); err == nil {
		_ = res.Body.Close()
		t.Errorf("the gateway is deleted: %s", res.Status)
	}
}

// gatewayTraffic has what streams go through a home gateway.
func gatewayTraffic(t *testing.T, v visitor, out *http.Client, domain string) {
	t.Helper()
	ws := v.socket(t, out, domain, "/ws")
	text := strings.Repeat("long ", 10_000)
	sent := make(chan error, 1)
	go func() { sent <- ws.Write(t.Context(), websocket.MessageText, []byte(text)) }()
	if _, b, err := ws.Read(t.Context()); err != nil || string(b) != text {
		t.Errorf("WebSocket: %d bytes of %d, %v", len(b), len(text), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("the end of the WebSocket: %v", err)
	}

	sum := sha256.New()
	_, _ = io.Copy(sum, io.LimitReader(&counting{}, large))
	want := fmt.Sprintf("%d <nil> %x", large, sum.Sum(nil))
	visit(t, out, domain, "/sum", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(io.LimitReader(&counting{}, large)), -1
	}).wants(t, "up", 200, want)
	down := visit(t, out, domain, "/large")
	if got := fmt.Sprintf("%d <nil> %x", len(down.body), sha256.Sum256([]byte(down.body))); got != want {
		t.Errorf("down: %s, want %s", got, want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+domain+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := out.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	event := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(res.Body, event); err != nil || string(event) != "data: one\n\n" {
		t.Errorf("the event is %q, %v", event, err)
	}
}

// homeGatewayAway asks for a service behind a home gateway that is not there
// (contract 6.2), and for one on this host, which is behind the gateway as well.
func homeGatewayAway(t *testing.T, g *gallery, v visitor) {
	t.Parallel() // while it is away, one attempt in 5 s is made to reach it
	name := "away-" + strings.ToLower(v.version)
	c := g.companion(t, name)
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	_, domain := g.show(t, fields{"peer_id": nil, "target_port": nil, "target_kind": "gateway", "target_peer_id": c.id,
		"target_lan_host": "127.0.0.1", "target_lan_port": own.Addr().(*net.TCPAddr).Port, "basic_auth_user": "anna", "basic_auth_password": "secret word"})
	out := v.outside(t)
	login := func(r *http.Request) { r.SetBasicAuth("anna", "secret word") }
	page := func(accept, lang string) answer {
		t.Helper()
		return visit(t, out, domain, "/", login, func(r *http.Request) {
			r.Header.Set("Accept", accept)
			r.Header.Set("Accept-Language", lang)
		})
	}
	says := func(what, text string) {
		t.Helper()
		lab.Eventually(t, 30*time.Second, what, func() error {
			if got := page("text/plain", "en"); got.status != 502 || !strings.Contains(got.body, text) || got.header.Get("Retry-After") != "30" {
				return fmt.Errorf("%d %v %q", got.status, got.header, got.body)
			}
			return nil
		})
	}
	peer := fmt.Sprintf("/api/v1/peers/%d", c.id)

	says("never there", "has not been connected to this server yet")
	c.join(t)
	says("its program does not run", "behind the home gateway "+name+", which does not answer")
	c.start(t)
	c.lead(domain, "192.168.2.228:5001")
	works := func(what string) {
		t.Helper()
		lab.Eventually(t, 30*time.Second, what, func() error {
			if got := visit(t, out, domain, "/", login); got.status != 200 || got.body != "lan:5001 GET /" {
				return fmt.Errorf("%d %q", got.status, got.body)
			}
			return nil
		})
	}
	works("its program runs")

	g.s.API.Call(t, 200, "PUT", peer+"/toggle", nil, nil)
	says("disabled", "behind the home gateway "+name+", which was connected to this server last on ")
	for accept, kind := range map[string]string{"text/html": "text/html", "application/json": "application/json", "text/plain": "text/plain"} {
		got := page(accept, "de")
		if got.status != 502 || !strings.HasPrefix(got.header.Get("Content-Type"), kind) || got.header.Get("Cache-Control") != "no-store" ||
			got.header.Get("Retry-After") != "30" || got.header.Get("Content-Language") != "de" || !strings.Contains(got.body, name+" ist nicht verbunden") {
			t.Errorf("%s: %d %v %q", accept, got.status, got.header, got.body)
		}
		if strings.Contains(got.body, "127.0.0.1") {
			t.Errorf("%s tells what is behind it: %q", accept, got.body)
		}
	}
	if got := visit(t, out, domain, "/"); got.status != 401 || strings.Contains(got.body+fmt.Sprint(got.header), name) {
		t.Errorf("not signed in: %d %v %q", got.status, got.header, got.body)
	}
	g.s.API.Call(t, 200, "PUT", peer+"/toggle", nil, nil)
	c.peer.Close() // it would find by itself, in half a minute, that this server has forgotten it
	c.join(t)
	c.start(t)
	works("enabled again")
	g.s.API.Call(t, 200, "PUT", peer, fields{"expires_at": "2020-01-01"}, nil)
	says("expired", name+" is not connected")

	// Nothing of this host was asked, though the target is on a loopback address: the
	// first connection there is that of this test.
	first, err := net.Dial("tcp", own.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	conn, err := own.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != first.LocalAddr().String() {
		t.Error("this server connected to what is behind the gateway")
	}
}

// TestHomeGatewayAfterRestart asks a server that has started anew for a service
// behind a home gateway that has not come back: it knows when that was there.
func TestHomeGatewayAfterRestart(t *testing.T) {
	g := &gallery{s: lab.Start(t)}
	c := g.companion(t, "home")
	c.join(t)
	c.start(t)
	_, domain := g.show(t, fields{"peer_id": nil, "target_port": nil, "target_kind": "gateway", "target_peer_id": c.id,
		"target_lan_host": "192.168.2.228", "target_lan_port": 5001})
	c.lead(domain, "192.168.2.228:5001")
	visit(t, g.visitors()[0].outside(t), domain, "/").wants(t, "before", 200, "lan:5001 GET /")
	c.peer.Close()
	o := lab.Options(t)
	o.DataDir = g.s.Dir
	g.s.Stop(t)

	g.s = lab.Run(t, o)
	got := visit(t, g.visitors()[0].outside(t), domain, "/", func(r *http.Request) { r.Header.Set("Accept", "text/plain") })
	if got.status != 502 || !strings.Contains(got.body, "which was connected to this server last on ") {
		t.Errorf("%d %q", got.status, got.body)
	}
}
