package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"

	"gatecontrol/model"
)

const (
	maxCredentials = 1 << 10 // of an Authorization field; those of ours are far below
	// maxHashCost keeps one imported hash from occupying a core for seconds.
	maxHashCost = 14
	// hashQueue is how many requests wait for a core to verify a password.
	hashQueue = 32
	// Verified credentials are remembered for a short time, since verifying takes
	// longer than most requests.
	loginMemory    = 5 * time.Minute
	maxKnownLogins = 4096
	// Wrong passwords from one address for one route, until it has to wait.
	maxLoginFailures = 20
	loginFailureSpan = 5 * time.Minute
)

// basicAuth asks for one user and password (RFC 7617). The credentials belong to
// the proxy, so no backend gets them.
type basicAuth struct {
	logins  *logins
	clients model.Clients
	route   model.RouteID
	user    [sha256.Size]byte
	hash    []byte
}

func newBasicAuth(d *draft) (gate, error) {
	b := d.in.Options.BasicAuth
	if b == nil {
		return nil, nil
	}
	if b.User == "" {
		return nil, model.Invalid("basic_auth_user", "is missing")
	}
	if cost, err := bcrypt.Cost([]byte(b.Hash)); err != nil || cost > maxHashCost {
		return nil, model.Invalid("basic_auth_password", "must be a bcrypt hash of a cost of at most %d", maxHashCost)
	}
	return &basicAuth{logins: d.srv.logins, clients: d.srv.opts.Clients, route: d.in.ID, user: sha256.Sum256([]byte(b.User)), hash: []byte(b.Hash)}, nil
}

var (
	needsLogin = pageVerdict(fasthttp.StatusUnauthorized, "user and password are missing",
		"WWW-Authenticate: Basic realm=\"restricted\"\r\n")
	wrongLogin = pageVerdict(fasthttp.StatusUnauthorized, "user or password is wrong",
		"WWW-Authenticate: Basic realm=\"restricted\"\r\n")
	busyHashing = pageVerdict(fasthttp.StatusServiceUnavailable, "too many passwords wait to be verified", retryAfter(2*time.Second))
)

func (g *basicAuth) check(v *visit) *verdict {
	credentials, ok := basicCredentials(&v.ctx.Request.Header)
	if !ok {
		return needsLogin
	}
	memory := g.logins.key(g, credentials)
	if !g.logins.knows(memory, v.at) {
		if d := g.once(v, credentials, memory); d != nil {
			return d
		}
	}
	v.authorized = true
	v.note = "user and password are right"
	return nil
}

// explained is check for Explain. Whoever asks may try as many wrong passwords as one
// address, and waits for a core like everybody: to explain is no way to guess them.
func (g *basicAuth) explained(v *visit) (*verdict, error) {
	key := windowKey{route: g.route} // of no client
	if wait, ok := g.logins.failures.take(key, maxLoginFailures, loginFailureSpan, v.at); !ok {
		return nil, model.Failure(model.KindLimited, "too many wrong passwords were explained: again in %v", wait.Round(time.Second))
	}
	d := g.check(v)
	if d != wrongLogin {
		g.logins.failures.giveBack(key)
	}
	return d, nil
}

// once verifies credentials for all requests of one address that bring them at the
// same time: a page whose parts are loaded at once is one attempt.
func (g *basicAuth) once(v *visit, credentials []byte, memory [sha256.Size]byte) *verdict {
	if v.dry {
		return g.verify(v, credentials)
	}
	addr := v.addr.As16()
	d, _, _ := g.logins.flights.Do(string(memory[:])+string(addr[:]), func() (any, error) {
		d := g.verify(v, credentials)
		if d == nil {
			g.logins.remember(memory, v.at)
		}
		return d, nil
	})
	return d.(*verdict)
}

// verify compares credentials that were not seen lately. Each attempt counts as a
// failure until it has succeeded, so that many at once are no way around the limit.
func (g *basicAuth) verify(v *visit, credentials []byte) *verdict {
	key := windowKey{g.route, g.clients.Key(v.addr)}
	count := g.logins.failures.take
	if v.dry {
		count = g.logins.failures.peek
	}
	if wait, ok := count(key, maxLoginFailures, loginFailureSpan, v.at); !ok {
		return pageVerdict(fasthttp.StatusTooManyRequests, "too many wrong passwords from this address", retryAfter(wait))
	}
	pair := make([]byte, base64.StdEncoding.DecodedLen(len(credentials)))
	n, err := base64.StdEncoding.Decode(pair, credentials)
	user, password, ok := bytes.Cut(pair[:n], []byte{':'})
	if err != nil || !ok {
		return wrongLogin
	}
	// Both are looked at in every case: a wrong user takes as long as a wrong
	// password.
	right, done := g.logins.compare(g.hash, password)
	given := sha256.Sum256(user)
	if subtle.ConstantTimeCompare(given[:], g.user[:]) != 1 {
		right = false
	}
	if !v.dry && (right || !done) {
		g.logins.failures.giveBack(key)
	}
	switch {
	case !done:
		v.srv.hits.at(limitPasswords)
		return busyHashing
	case !right:
		return wrongLogin
	}
	return nil
}

// basicCredentials returns what stands behind "Basic" in the Authorization field.
// If there are several such fields, none counts.
func basicCredentials(h *fasthttp.RequestHeader) (credentials []byte, ok bool) {
	seen := 0
	for name, value := range h.AllInOrder() {
		if !equalFold(name, "authorization") {
			continue
		}
		seen++
		scheme, rest, _ := bytes.Cut(value, space)
		rest = trimSpace(rest)
		ok = equalFold(scheme, "basic") && len(rest) > 0 && len(rest) <= maxCredentials
		credentials = rest
	}
	return credentials, ok && seen == 1
}

// logins is what basic auth keeps between requests, of all routes.
type logins struct {
	failures *windows
	cores    chan struct{}
	waiting  atomic.Int32
	flights  singleflight.Group

	secret [32]byte // what is remembered cannot be matched against a list of passwords
	mu     sync.Mutex
	known  map[[sha256.Size]byte]time.Time // until when
}

func newLogins() *logins {
	l := &logins{failures: newWindows(), cores: make(chan struct{}, runtime.GOMAXPROCS(0)), known: make(map[[sha256.Size]byte]time.Time)}
	_, _ = rand.Read(l.secret[:]) // never fails
	return l
}

// begin waits for a core to hash on; false says that too many wait already.
func (l *logins) begin() bool {
	select {
	case l.cores <- struct{}{}:
		return true
	default:
	}
	if l.waiting.Add(1) > hashQueue {
		l.waiting.Add(-1)
		return false
	}
	l.cores <- struct{}{} // whoever has one returns it within the time of a hash
	l.waiting.Add(-1)
	return true
}

// compare verifies a password; done is false if there was no core to do it on.
func (l *logins) compare(hash, password []byte) (right, done bool) {
	if !l.begin() {
		return false, false
	}
	defer func() { <-l.cores }()
	return bcrypt.CompareHashAndPassword(hash, password) == nil, true
}

// key is under which credentials for g are remembered. Another user, password or
// hash has another key.
func (l *logins) key(g *basicAuth, credentials []byte) [sha256.Size]byte {
	var buf [512]byte
	b := append(append(buf[:0], l.secret[:]...), g.user[:]...)
	b = append(append(append(b, g.hash...), 0), credentials...)
	return sha256.Sum256(b)
}

func (l *logins) knows(key [sha256.Size]byte, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, ok := l.known[key]
	if ok && !now.Before(until) {
		delete(l.known, key)
		ok = false
	}
	return ok
}

func (l *logins) remember(key [sha256.Size]byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := 0
	for old, until := range l.known { // a few at a time, and one in any case if it is full
		if !now.Before(until) || len(l.known) >= maxKnownLogins {
			delete(l.known, old)
		}
		if seen++; seen == 4 {
			break
		}
	}
	l.known[key] = now.Add(loginMemory)
}
