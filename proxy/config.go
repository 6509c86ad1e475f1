package proxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"gatecontrol/model"
)

// Config is everything that the proxy is asked to serve. It is not changed after
// Prepare.
type Config struct {
	// AdminHosts are the names and IP literals under which the admin API is
	// reached, over TLS alone. The certificate of the first one is shown to a
	// client that sends no SNI.
	AdminHosts []string
	Routes     []Route
	// TrustedProxies are the networks whose X-Forwarded-* fields are believed.
	TrustedProxies []netip.Prefix
	Tunnel         []netip.Prefix // networks of the tunnel: clients from there are inside
}

// Route publishes one target under one host name.
type Route struct {
	ID         model.RouteID
	Host       string // a DNS name; compared as model.NormalizeHost says
	ForceHTTPS bool   // plain requests are redirected instead of served
	Target     Target
	Options    *RouteOptions // nil: none
}

// RouteOptions are what a route does besides forwarding. What is nil, false or
// empty is off. Peers are given by their addresses of today.
type RouteOptions struct {
	// Who is let in, in the order in which it is decided.
	Closed    *Closed           // nobody is, at the moment
	Internal  *model.BlockReply // from the tunnel alone; others get this, whose action is not inherit
	ACL       *ACL
	Breaker   *Breaker // open: everyone gets 503
	Bots      *model.BotBlocker
	Trace     bool
	IPFilter  *model.IPFilter
	BasicAuth *model.BasicAuth
	RateLimit *model.RateLimit
	ClientCA  string // PEM: TLS clients need a certificate from one of these

	// What becomes of a request, and of its answer.
	Paths    []Path
	Headers  *model.Headers
	Compress bool
	Backends []Backend // instead of Target, if there is any
	Sticky   *model.Sticky
	Retry    *model.Retry
	Mirrors  []Target
}

// Closed says when a route can be used that cannot be at the moment, as far as that
// follows from its access windows.
type Closed struct {
	Open model.Schedule // only at these times, if there are any
	Shut model.Schedule // and not at these
	Zone string         // of both, for people
}

// ACL are the addresses that a route lets in; none lets nobody in.
type ACL struct{ Addrs []netip.Addr }

// Breaker is an open circuit breaker.
type Breaker struct{ RetryAfter time.Duration }

// Backend is one of several targets of a route.
type Backend struct {
	Target
	Weight int // of its share among all; positive
}

// Path leads requests below a prefix of the raw path elsewhere: to Target, or to
// a redirect.
type Path struct {
	Prefix   string // "/" or segments, each after a "/"; whole segments match, the longest prefix first
	Strip    bool   // the prefix is taken off before forwarding
	Target   *Target
	Redirect string // absolute URL or path, instead of Target
	Status   int    // of the redirect
}

// Target is where the requests of a route go.
type Target struct {
	Addr netip.AddrPort
	// TLS speaks TLS to the backend. Its certificate is not verified: backends
	// in a home network have none that could be.
	TLS      bool
	PeerName string // the peer behind Addr, for the error page and the log; may be empty
	// Behind is the service to which the home gateway at Addr leads on, host:port in
	// the gateway's network: nothing here connects to it. Empty: Addr is the service.
	Behind string
}

// Equal reports whether c and d ask for the same, in the same order.
func (c Config) Equal(d Config) bool {
	return slices.Equal(c.AdminHosts, d.AdminHosts) && slices.EqualFunc(c.Routes, d.Routes, Route.equal) &&
		slices.Equal(c.TrustedProxies, d.TrustedProxies) && slices.Equal(c.Tunnel, d.Tunnel)
}

func (r Route) equal(o Route) bool {
	a, b := r.Options, o.Options
	r.Options, o.Options = nil, nil
	return r == o && (a == b || reflect.DeepEqual(a, b))
}

// snapshot is a Config as requests read it: immutable, looked up by host.
type snapshot struct {
	hosts     map[string]*route
	routes    map[model.RouteID]*route
	pools     map[poolKey]*pool
	adminHost string // the first one
	trusted   []netip.Prefix
	tunnel    []netip.Prefix
}

// route is one entry of the host table.
type route struct {
	id         model.RouteID // 0 for the admin host
	host       string        // normalised
	admin      bool
	target     Target
	options    *RouteOptions  // never nil
	gates      []namedGate    // in the order of the pipeline
	trace      *traceRing     // nil: off
	blocked    *atomic.Uint64 // requests that its bot blocker refused; nil: off
	clientAuth *clientAuth    // nil: clients need no certificate
	upstream   upstream       // target, and how it is reached
	balance    *balance       // instead of upstream, if there are several
	sticky     string         // the cookie that names one of them; empty: none does
	paths      []pathRule
	mirrors    []upstream
	compress   bool
	toBackend  setFields // on requests
	toClient   setFields // on answers of the backend
}

var noOptions = new(RouteOptions)

// compile checks cfg and indexes it. Pools of targets that prev has, too, are
// taken over, so that a change elsewhere leaves their connections alone.
func (s *Server) compile(cfg Config, prev *snapshot) (*snapshot, error) {
	n := len(cfg.Routes) + len(cfg.AdminHosts)
	snap := &snapshot{
		hosts:   make(map[string]*route, n),
		routes:  make(map[model.RouteID]*route, len(cfg.Routes)),
		pools:   make(map[poolKey]*pool, len(cfg.Routes)+1),
		trusted: make([]netip.Prefix, 0, len(cfg.TrustedProxies)),
	}
	for i, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			return nil, model.Invalid(fmt.Sprintf("trusted_proxies[%d]", i), "not a network")
		}
		snap.trusted = append(snap.trusted, p.Masked())
	}
	for i, p := range cfg.Tunnel {
		if !p.IsValid() {
			return nil, model.Invalid(fmt.Sprintf("tunnel[%d]", i), "not a network")
		}
		snap.tunnel = append(snap.tunnel, p.Masked())
	}
	admin := &draft{srv: s, snap: snap, prev: prev, in: Route{ForceHTTPS: true, Options: noOptions}, route: new(route)}
	gates, err := admin.gates()
	if err != nil {
		return nil, err
	}
	for i, text := range cfg.AdminHosts {
		field := fmt.Sprintf("admin_hosts[%d]", i)
		host, ok := adminHost(text)
		if !ok {
			return nil, model.Invalid(field, "%q is not a host name", text)
		}
		if s.opts.DialAdmin == nil {
			return nil, model.Invalid(field, "there is no admin API behind it")
		}
		if snap.adminHost == "" {
			snap.adminHost = host
		}
		if snap.hosts[host] != nil {
			return nil, model.Conflict(field, "%q is there twice", host)
		}
		snap.hosts[host] = &route{host: host, admin: true, options: noOptions, gates: gates,
			upstream: upstream{pool: s.pool(snap, prev, poolKey{})}}
	}
	table := make([]route, len(cfg.Routes))
	for i := range cfg.Routes {
		if err := s.addRoute(snap, prev, &cfg.Routes[i], &table[i]); err != nil {
			return nil, err
		}
	}
	return snap, nil
}

func (s *Server) addRoute(snap, prev *snapshot, in *Route, r *route) error {
	host, ok := model.NormalizeHost(in.Host)
	switch {
	case !ok || model.HostPort([]byte(in.Host)) != 0:
		return model.Invalid("domain", "%q is not a host name", in.Host)
	case in.ID <= 0:
		return model.Invalid("id", "a route needs a positive id")
	}
	if err := checkGateway(host, in.Target); err != nil {
		return err
	}
	if other := snap.hosts[host]; other != nil {
		if other.admin {
			return model.Conflict("domain", "%q is the name of the management host", host)
		}
		return model.Conflict("domain", "%q belongs to another route", host)
	}
	if snap.routes[in.ID] != nil {
		return model.Conflict("id", "two routes have id %d", in.ID)
	}
	full := *in
	if full.Options == nil {
		full.Options = noOptions
	}
	auth, err := newClientAuth(host, full.Options.ClientCA, prev)
	if err != nil {
		return err
	}
	full.ForceHTTPS = in.ForceHTTPS || auth != nil // nobody has shown a certificate on the plain port
	*r = route{id: in.ID, host: host, target: in.Target, options: full.Options, clientAuth: auth}
	d := &draft{srv: s, snap: snap, prev: prev, in: full, route: r}
	if r.gates, err = d.gates(); err != nil {
		return err
	}
	if full.Options == noOptions {
		r.upstream = s.upstream(snap, prev, r, in.Target)
	} else if err := s.addOptions(snap, prev, r); err != nil {
		return err
	}
	snap.hosts[host], snap.routes[in.ID] = r, r
	return nil
}

// addOptions compiles what becomes of the requests of r.
func (s *Server) addOptions(snap, prev *snapshot, r *route) (err error) {
	if err = checkSticky(r.options.Sticky); err != nil {
		return err
	}
	if st := r.options.Sticky; st != nil && len(r.options.Backends) > 0 {
		r.sticky = st.Cookie
	}
	if h := r.options.Headers; h != nil {
		if r.toBackend, err = newSetFields("custom_headers.request", h.Request, false, r.sticky); err != nil {
			return err
		}
		if r.toClient, err = newSetFields("custom_headers.response", h.Response, true, r.sticky); err != nil {
			return err
		}
	}
	r.compress = r.options.Compress && !r.toClient.has([]byte("content-encoding"))
	r.upstream = s.upstream(snap, prev, r, r.target)
	if r.balance, err = s.balance(snap, prev, r); err != nil {
		return err
	}
	if r.paths, err = s.paths(snap, prev, r); err != nil {
		return err
	}
	r.mirrors, err = s.mirrorsOf(snap, prev, r)
	return err
}

// checkGateway checks a target that may be a home gateway. The way to that is never
// TLS.
func checkGateway(host string, t Target) error {
	if t.Behind != "" && (t.TLS || !isVisible(t.Behind)) {
		return model.Invalid("target", "%s has no usable target behind its home gateway", host)
	}
	t.Behind = ""
	return checkTarget("target", host, t)
}

func checkTarget(field, host string, t Target) error {
	switch {
	case t.Behind != "":
		return model.Invalid(field, "%s leads through a home gateway with its own target alone", host)
	case !t.Addr.IsValid() || t.Addr.Port() == 0:
		return model.Invalid(field, "%s has no usable target address", host)
	case t.Addr.Addr().IsUnspecified() || t.Addr.Addr().IsMulticast():
		return model.Invalid(field, "%s has a target that is nobody's address", host)
	}
	return nil
}

// upstream is how requests of r reach t.
func (s *Server) upstream(snap, prev *snapshot, r *route, t Target) upstream {
	key := poolKey{addr: netip.AddrPortFrom(t.Addr.Addr().Unmap(), t.Addr.Port()), tls: t.TLS, behind: t.Behind}
	if key.tls {
		key.name = r.host // goes out as SNI, so the backend may bind the connection to it
		if host := r.toBackend.host(); host != "" {
			key.name, _ = model.NormalizeHost(host)
		}
	}
	up := upstream{target: t, pool: s.pool(snap, prev, key)}
	if t.Behind != "" {
		up.fields = "X-Gateway-Target-Domain: " + r.host + "\r\nX-Gateway-Target: " + t.Behind + "\r\n"
	}
	return up
}

// pool returns the pool of key in snap, taken over from prev or new.
func (s *Server) pool(snap, prev *snapshot, key poolKey) *pool {
	p := snap.pools[key]
	if p == nil && prev != nil {
		p = prev.pools[key]
	}
	if p == nil {
		p = &pool{srv: s, key: key}
	}
	snap.pools[key] = p
	return p
}

// adminHost also takes a bare IPv6 address, which has no port to be told from.
func adminHost(text string) (string, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return addr.Unmap().String(), true
	}
	host, ok := model.NormalizeHost(text)
	return host, ok && model.HostPort([]byte(text)) == 0
}
