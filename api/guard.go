package api

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"strings"

	"gatecontrol/model"
)

// client is where a request came from, decided once.
type client struct {
	addr   netip.Addr
	host   string // Host as the client sees it, with its port
	https  bool
	direct bool // on the admin port, with nothing that speaks of a proxy
}

// guard is what every request passes before anything looks at what it wants.
func (s *Server) guard(viaProxy bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		id := hex.EncodeToString(randomBytes(8))
		r := &request{
			Request: hr.WithContext(model.WithRequestID(hr.Context(), id)),
			peer:    clientOf(hr, viaProxy), header: w.Header(),
		}
		r.header.Set("X-Request-Id", id)
		s.securityHeaders(r)
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("a request panicked", "request", id, "operation", r.Pattern, "panic", p, "stack", string(debug.Stack()))
				s.send(w, r, jsonAnswer(http.StatusInternalServerError, failure{Error: "Internal server error"}))
			}
		}()
		if !s.servesHost(r.peer.host) && hr.URL.Path != "/health" {
			s.send(w, r, jsonAnswer(http.StatusMisdirectedRequest, failure{Error: "this server does not answer for that host name"}))
			return
		}
		s.route(w, r)
	})
}

// route finds the operation. The mux gets clean paths alone, so it never answers
// by itself; a slash that came encoded would be one in some spellings of a path
// and none in others.
func (s *Server) route(w http.ResponseWriter, r *request) {
	p := r.URL.Path
	if len(p) > 1 {
		p = strings.TrimSuffix(p, "/")
	}
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p || r.Method == http.MethodConnect ||
		strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") {
		s.answer(w, r, nil)
		return
	}
	if rest, ok := strings.CutPrefix(p, "/api/"); ok && rest != "v1" && !strings.HasPrefix(rest, "v1/") {
		p = "/api/v1/" + rest // the short spelling of the same operation
	}
	if p != r.URL.Path {
		u := *r.URL
		u.Path, u.RawPath = p, ""
		r.Request = r.WithContext(r.Context()) // a copy: the caller keeps its URL
		r.URL = &u
	}
	s.mux.ServeHTTP(w, r.carried())
}

// securityHeaders are on every answer. A page loosens what it needs itself.
// Strict-Transport-Security is for the proxy to add, which knows whether the
// certificate is one that browsers trust.
func (s *Server) securityHeaders(r *request) {
	h := r.header
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
}

// clientOf decides where r came from. Our proxy removes what the client sent
// under these names and appends the address it saw; so the last one counts.
func clientOf(r *http.Request, viaProxy bool) client {
	c := client{host: r.Host}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.addr = ap.Addr().Unmap()
	}
	if !viaProxy {
		c.direct = true
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"} {
			c.direct = c.direct && len(r.Header.Values(name)) == 0
		}
		return c
	}
	c.addr = netip.Addr{}
	if list := r.Header.Values("X-Forwarded-For"); len(list) > 0 {
		hops := strings.Split(list[len(list)-1], ",")
		if a, err := netip.ParseAddr(strings.TrimSpace(hops[len(hops)-1])); err == nil {
			c.addr = a.Unmap()
		}
	}
	if host := r.Header.Get("X-Forwarded-Host"); host != "" {
		c.host = host
	}
	c.https = r.Header.Get("X-Forwarded-Proto") == "https"
	return c
}

func allowedHosts(base *url.URL, more []string) map[string]bool {
	hosts := map[string]bool{"localhost": true}
	for _, h := range append([]string{base.Host}, more...) {
		if name, ok := model.NormalizeHost(h); ok {
			hosts[name] = true
		}
	}
	return hosts
}

// servesHost keeps other sites from reaching this server under their own name
// (DNS rebinding). An address cannot be rebound.
func (s *Server) servesHost(host string) bool {
	name, ok := model.NormalizeHost(host)
	return ok && (s.hosts[name] || net.ParseIP(name) != nil)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
