package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatecontrol/lab"
)

// always is a schedule of every minute.
const always = "Mo-So 00:00-24:00"

// rule gives what is at path an access window and returns its path.
func (g *gallery) rule(t *testing.T, path string, window fields) string {
	t.Helper()
	var made struct{ ID int64 }
	g.s.API.Call(t, 201, "POST", path+"/access-rules", window, &made)
	return fmt.Sprintf("%s/access-rules/%d", path, made.ID)
}

// accessWindows closes a route to everybody, before all that could tell or ask
// anything else (contract 6.3, 11.2).
func accessWindows(t *testing.T, g *gallery, v visitor) {
	id, domain := g.show(t, fields{
		"acl_enabled": true, "acl_peers": []int64{g.beta.id}, "basic_auth_user": "anna", "basic_auth_password": "secret word", "https_enabled": true,
	})
	path := fmt.Sprintf("/api/v1/routes/%d", id)
	out, in := v.outside(t), v.inside(t, g.beta.peer)
	login := func(r *http.Request) { r.SetBasicAuth("anna", "secret word") }
	visit(t, out, domain, "/").wants(t, "without windows, outside", 403, "")
	visit(t, in, domain, "/").wants(t, "without windows, inside", 401, "")
	visit(t, in, domain, "/", login).wants(t, "without windows, signed in", 200, "alpha:8000 GET /")

	block := g.rule(t, path, fields{"mode": "block", "schedule": "Sa 00:00-24:00; " + always})
	german := func(r *http.Request) { r.Header.Set("Accept-Language", "de"); r.Header.Set("Accept", "text/html") }
	for what, c := range map[string]*http.Client{"outside": out, "inside": in} {
		got := visit(t, c, domain, "/", login, german)
		for _, part := range []string{domain + " ist geschlossen", "Er ist zu diesen Zeiten geschlossen: Sa 00:00–24:00, Mo–So 00:00–24:00 ("} {
			if got.status != 403 || !strings.Contains(got.body, part) || got.header.Get("Cache-Control") != "no-store" || got.header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s, closed: %d %v %s, want %s", what, got.status, got.header, got.body, part)
			}
		}
	}
	if got := visit(t, out, domain, "/", func(r *http.Request) { r.Header.Set("Accept", "application/json") }); got.status != 403 ||
		!strings.Contains(got.body, `"detail":"This service is not available at the moment. It is closed at these times: Sat 00:00–24:00, Mon–Sun 00:00–24:00 (`) {
		t.Errorf("closed, as JSON: %d %s", got.status, got.body)
	}
	g.plain(t, domain, "/").wants(t, "closed, on the plain port", 308, "")
	w := watched{gallery: g, id: id, domain: domain}
	if step := w.refusedBy(t); step != "access_window" {
		t.Errorf("closed: refused by %q", step)
	}

	// Of two that allow, one has to hold; what blocks goes first.
	g.s.API.Call(t, 200, "PUT", block, fields{"mode": "allow", "schedule": always, "valid_until": "2020-01-01"}, nil)
	visit(t, in, domain, "/", login).wants(t, "with a window that is over", 200, "")
	g.s.API.Call(t, 200, "PUT", block, fields{"mode": "allow", "schedule": always, "valid_from": "2020-01-01"}, nil)
	visit(t, in, domain, "/", login).wants(t, "open", 200, "")
	second := g.rule(t, path, fields{"mode": "block", "schedule": always})
	visit(t, in, domain, "/", login).wants(t, "closed again", 403, "")
	g.s.API.Call(t, 200, "DELETE", second, nil, nil)
	visit(t, in, domain, "/", login).wants(t, "open again", 200, "")
}

// TestAccessWindowsFollowTheClock has a web route, a port and a peer that open with
// the next minute: they do so by themselves, and it is told.
func TestAccessWindowsFollowTheClock(t *testing.T) {
	g := newGallery(t)
	v := g.visitors()[0]
	guest := g.exhibit(t, "guest")
	id, domain := g.show(t, nil)
	_, through := g.show(t, fields{"peer_id": guest.id})
	port := lab.FreePort(t)
	var made struct{ Route struct{ ID int64 } }
	g.s.API.Call(t, 201, "POST", "/api/v1/routes", fields{
		"route_type": "l4", "l4_protocol": "tcp", "l4_listen_port": port, "peer_id": g.alpha.id, "target_port": 8000,
	}, &made)
	dial := func() (net.Conn, error) { return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) }
	flow, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	ws := v.socket(t, v.outside(t), through, "/ws")
	visit(t, v.outside(t), domain, "/").wants(t, "before", 200, "")

	now := time.Now()
	if now.Second() > 30 { // what is seen closed has to be seen within this minute, on any machine
		time.Sleep(time.Until(now.Truncate(time.Minute).Add(time.Minute)))
		now = time.Now()
	}
	next := now.Add(time.Minute)
	allow := fields{"mode": "allow", "schedule": next.Format("Mon 15:04-") + next.Add(2*time.Hour).Format("15:04")}
	targets := map[string]string{
		fmt.Sprintf("/api/v1/routes/%d", id): "routeId", fmt.Sprintf("/api/v1/routes/%d", made.Route.ID): "routeId", fmt.Sprintf("/api/v1/peers/%d", guest.id): "peerId",
	}
	for path := range targets {
		g.rule(t, path, allow)
	}
	closed := func() error {
		if got := visit(t, v.outside(t), domain, "/"); got.status != 403 {
			return fmt.Errorf("the web route: %d", got.status)
		}
		if got := visit(t, v.outside(t), through, "/"); got.status != 502 {
			return fmt.Errorf("the route to the peer: %d", got.status)
		}
		if c, err := dial(); err == nil {
			_ = c.Close()
			return errors.New("the port listens")
		}
		return nil
	}
	if err := closed(); err != nil {
		t.Errorf("closed: %v", err)
	}
	_ = flow.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, flow); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("a flow of the port goes on: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, b, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a flow to the peer goes on with %q, %v", b, err)
	}

	lab.Eventually(t, 2*time.Minute, "everything is open", func() error {
		if got := visit(t, v.outside(t), domain, "/"); got.status != 200 {
			return fmt.Errorf("the web route: %d", got.status)
		}
		if got := visit(t, v.outside(t), through, "/"); got.status != 200 {
			return fmt.Errorf("the route to the peer: %d", got.status)
		}
		c, err := dial()
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	var log struct {
		Entries []struct {
			Type    string `json:"event_type"`
			Details map[string]int64
		}
	}
	for event, want := range map[string]int{"access_window_denied": 3, "access_window_allowed": 3} {
		lab.Eventually(t, 10*time.Second, event, func() error {
			g.s.API.Call(t, 200, "GET", "/api/v1/logs/activity?event_type="+event, nil, &log)
			if len(log.Entries) != want {
				return fmt.Errorf("%d events", len(log.Entries))
			}
			return nil
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
