package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
)

// domain is a backend that logs connections in, with three legs as NTLM has them.
type domain struct {
	addr   netip.AddrPort
	server *httptest.Server

	mu   sync.Mutex
	open map[net.Conn]bool
	last atomic.Int64
}

type domainConn struct {
	net.Conn
	challenge, user string
}

type domainKey struct{}

func newDomain(t testing.TB) *domain {
	d := &domain{open: map[net.Conn]bool{}}
	d.server = httptest.NewUnstartedServer(http.HandlerFunc(d.serve))
	d.server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, domainKey{}, &domainConn{Conn: c})
	}
	d.server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		d.mu.Lock()
		defer d.mu.Unlock()
		switch s {
		case http.StateNew:
			d.open[c] = true
		case http.StateClosed, http.StateHijacked:
			delete(d.open, c)
		}
	}
	d.server.Start()
	t.Cleanup(d.server.Close)
	d.addr = netip.MustParseAddrPort(d.server.Listener.Addr().String())
	return d
}

func (d *domain) conns() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open)
}

func (d *domain) serve(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(domainKey{}).(*domainConn)
	body, _ := io.ReadAll(r.Body)
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch part := strings.Split(token, ":"); {
	case scheme == "NTLM" && part[0] == "negotiate":
		c.user, c.challenge = "", fmt.Sprint(d.last.Add(1))
		w.Header().Set("WWW-Authenticate", "NTLM "+c.challenge)
	case scheme == "NTLM" && part[0] == "authenticate" && c.challenge != "" && part[2] == c.challenge:
		c.user, c.challenge = part[1], ""
	case scheme != "":
		c.user, c.challenge = "", ""
	}
	if c.user == "" {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		w.Header().Add("WWW-Authenticate", "NTLM")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Header.Get("Upgrade") != "" {
		nc, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(nc, strings.ReplaceAll(switching, "X-Extra: yes", "X-User: "+c.user))
			_ = nc.Close()
		}
		return
	}
	w.Header().Set("X-Server", d.addr.String())
	fmt.Fprintf(w, "%s says %q", c.user, body)
}

// person is one client on one connection of HTTP/1.1.
type person struct {
	t    testing.TB
	name string
	c    net.Conn
	br   *bufio.Reader
}

func (r *rig) person(name string) *person {
	c := r.dial()
	return &person{r.t, name, c, bufio.NewReader(c)}
}

func (p *person) ask(authorization, body string) (*http.Response, string) {
	method := "GET"
	if body != "" {
		method = "POST"
	}
	req, _ := http.NewRequest(method, "http://app.test/", strings.NewReader(body))
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if err := req.Write(p.c); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
		return &http.Response{Header: http.Header{}}, ""
	}
	resp, err := http.ReadResponse(p.br, req)
	if err != nil {
		p.t.Errorf("%s: %v", p.name, err)
		return &http.Response{Header: http.Header{}}, ""
	}
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

// login goes through the legs, and reports the last status.
func (p *person) login() int {
	if resp, _ := p.ask("", ""); resp.StatusCode != 401 {
		p.t.Errorf("%s is logged in already: %d", p.name, resp.StatusCode)
	}
	resp, _ := p.ask("NTLM negotiate", "")
	challenge := strings.TrimPrefix(resp.Header.Get("WWW-Authenticate"), "NTLM ")
	if resp, _ = p.ask("NTLM authenticate:"+p.name+":"+challenge, ""); resp.StatusCode == 200 {
		return 200
	}
	return resp.StatusCode
}

// works asks for something in the name of who is logged in.
func (p *person) works() bool {
	resp, body := p.ask("", "hello")
	return resp.StatusCode == 200 && body == p.name+` says "hello"`
}

// TestConnectionLogin has people log in on their connections at the same time, while
// others ask without a login: nobody is ever taken for someone else.
func TestConnectionLogin(t *testing.T) {
	d := newDomain(t)
	r := newRig(t, site(d.addr))
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for range 2 {
		p := r.person("nobody")
		running.Go(func() {
			for ctx.Err() == nil {
				if resp, body := p.ask("", "hello"); resp.StatusCode != 401 {
					t.Errorf("nobody is taken for somebody: %d %q", resp.StatusCode, body)
					return
				}
			}
		})
	}
	var people sync.WaitGroup
	for i := range 4 {
		p := r.person(fmt.Sprint("user", i))
		people.Go(func() {
			for range 3 {
				if status := p.login(); status != 200 {
					t.Errorf("%s: login %d", p.name, status)
				}
				for range 20 {
					if !p.works() {
						t.Errorf("%s is not logged in, or as someone else", p.name)
						return
					}
				}
				if resp, _ := p.ask("NTLM logout", ""); resp.StatusCode != 401 {
					t.Errorf("%s: %d", p.name, resp.StatusCode)
				}
			}
		})
	}
	people.Wait()
	cancel()
	running.Wait()
}

// TestConnectionLoginEnds: a login ends with the connection on either side, with the
// route, and when a login at another backend takes its place.
func TestConnectionLoginEnds(t *testing.T) {
	t.Run("with the client", func(t *testing.T) {
		d := newDomain(t)
		r := newRig(t, site(d.addr))
		p := r.person("ann")
		if p.login() != 200 || !p.works() {
			t.Fatal("no login")
		}
		before := d.conns()
		p.c.Close()
		eventually(t, "the backend's connection is closed", func() bool { return d.conns() == before-1 })
		if resp, _ := r.person("bob").ask("", ""); resp.StatusCode != 401 {
			t.Errorf("the next one: %d", resp.StatusCode)
		}
	})
	t.Run("with the backend", func(t *testing.T) {
		d := newDomain(t)
		r := newRig(t, site(d.addr))
		p := r.person("ann")
		if p.login() != 200 {
			t.Fatal("no login")
		}
		d.server.CloseClientConnections()
		eventually(t, "the backend has closed", func() bool { return d.conns() == 0 })
		if p.login() != 200 || !p.works() { // which asks without one first
			t.Error("no second login")
		}
	})
	t.Run("with the route", func(t *testing.T) {
		d, other := newDomain(t), newDomain(t)
		r := newRig(t, site(d.addr))
		p := r.person("ann")
		if p.login() != 200 {
			t.Fatal("no login")
		}
		r.commit(site(other.addr))
		if p.login() != 200 || !p.works() {
			t.Error("no login at the new backend")
		}
		eventually(t, "the old backend is left", func() bool { return d.conns() == 0 })
	})
	t.Run("with another one", func(t *testing.T) {
		d, other := newDomain(t), newDomain(t)
		cfg := site(d.addr)
		cfg.Routes = append(cfg.Routes, Route{ID: 2, Host: "other.test", Target: Target{Addr: other.addr}})
		r := newRig(t, cfg)
		p := r.person("ann")
		if p.login() != 200 {
			t.Fatal("no login")
		}
		kept := d.conns()
		_, _ = io.WriteString(p.c, "GET / HTTP/1.1\r\nHost: other.test\r\nAuthorization: NTLM negotiate\r\n\r\n")
		resp, err := http.ReadResponse(p.br, nil)
		if err != nil || resp.StatusCode != 401 {
			t.Fatalf("%v, %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		eventually(t, "the first login is over", func() bool { return d.conns() == kept-1 })
	})
}

// TestConnectionLoginStays: with several backends, requests go where the client is
// logged in; an upgrade goes over the connection of the login; and for a client that
// may be many nothing is kept.
func TestConnectionLoginStays(t *testing.T) {
	t.Run("several backends", func(t *testing.T) {
		a, b, c := newDomain(t), newDomain(t), newDomain(t)
		for _, cfg := range []Config{several([]int{1, 1, 1}, a.addr, b.addr, c.addr), stickySite(a.addr, b.addr, c.addr)} {
			r := newRig(t, cfg)
			p := r.person("ann")
			if p.login() != 200 {
				t.Fatal("no login")
			}
			for range 6 {
				if !p.works() {
					t.Fatal("a request went to another backend")
				}
			}
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		r := newRig(t, site(newDomain(t).addr))
		p := r.person("ann")
		if p.login() != 200 {
			t.Fatal("no login")
		}
		_, _ = io.WriteString(p.c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: custom/2\r\n\r\n")
		resp, err := http.ReadResponse(p.br, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("X-User") != "ann" {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("trusted proxy", func(t *testing.T) {
		cfg := site(newDomain(t).addr)
		cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		r := newRig(t, cfg)
		if status := r.person("ann").login(); status != 401 {
			t.Errorf("a login through a proxy: %d", status)
		}
	})
}

// TestConnectionLoginStreams sends clients with streams back to HTTP/1.1 if a backend
// wants to log connections in, and only then.
func TestConnectionLoginStreams(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		back         bool
	}{
		{"NTLM", "HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 2\r\n\r\nno", true},
		{"Negotiate in a list, long", "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\", Negotiate\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000), true},
		{"a second line", "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nwww-authenticate: ntlm TlRM\r\nContent-Length: 0\r\n\r\n", true},
		{"Basic", "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"ntlm\"\r\nContent-Length: 0\r\n\r\n", false},
		{"not 401", "HTTP/1.1 403 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, site(answers(t, tt.answer)))
			c := r.h2()
			c.request(1, plainGET, true)
			if got := c.outcome(1); (got == "reset HTTP_1_1_REQUIRED") != tt.back {
				t.Errorf("HTTP/2: %s", got)
			}
			c.request(3, plainGET, true)
			if got := c.outcome(3); (got == "reset HTTP_1_1_REQUIRED") != tt.back {
				t.Errorf("HTTP/2, the next stream: %s", got)
			}
			qc := r.dialQUIC(t, "app.test")
			str, err := qc.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = str.Write(fieldSection(ask{method: "GET", target: "/", host: "app.test"}.head()))
			_ = str.Close()
			_, err = io.ReadAll(str)
			var reset *quic.StreamError
			if back := errors.As(err, &reset) && reset.ErrorCode == h3VersionFallback; back != tt.back {
				t.Errorf("HTTP/3: %v", err)
			}
			resp, _ := r.person("ann").ask("", "")
			if resp.StatusCode < 401 || resp.Header.Get("Www-Authenticate") == "" {
				t.Errorf("HTTP/1.1: %d %v", resp.StatusCode, resp.Header)
			}
		})
	}
}
