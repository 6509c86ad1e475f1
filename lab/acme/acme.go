// Package acme is the counterparts of a server that gets certificates, for tests:
// pebble in the same process as the authority, and a DNS server whose zone it
// proves names by.
package acme

import (
	"bytes"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// VALoop is a goroutine of pebble that has no end, for those who count them.
const VALoop = "github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"

// Options are what an Authority is made of.
type Options struct {
	Name     string            // by which CAA records would mean it
	Resolver string            // host:port of the DNS server that it asks
	Life     time.Duration     // of its certificates; 0: 90 days
	EAB      map[string]string // keys of accounts by their ids; none: everybody may
	OCSP     bool              // its certificates name a responder
}

// Authority is pebble, behind a front that counts and interferes.
type Authority struct {
	*httptest.Server
	Directory string         // URL
	Roots     *x509.CertPool // of what it issues
	Orders    atomic.Int32

	paths   sync.Map // what was asked
	orders  sync.Map // bodies of orders, by number
	revoked sync.Map // serial numbers that the responder calls revoked
	before  atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	after   atomic.Pointer[func(*http.Request, int)]
	handler atomic.Pointer[http.Handler]
	o       Options
	issuer  *ca.CAImpl
	memory  *db.MemoryStore
	log     *log.Logger
}

// New starts one, which ends with t. It issues nothing until Check.
func New(t testing.TB, o Options) *Authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "15") // as real ones do now and then
	if o.Life == 0 {
		o.Life = 90 * 24 * time.Hour
	}
	a := &Authority{o: o, Roots: x509.NewCertPool(), memory: db.NewMemoryStore(), log: log.New(io.Discard, "", 0)}
	for id, key := range o.EAB {
		if err := a.memory.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	responder, kind := "", "ecdsa"
	if o.OCSP {
		kind = "rsa"                                           // whose keys pebble gives out
		srv := httptest.NewServer(http.HandlerFunc(a.respond)) // over plain HTTP, as they are
		t.Cleanup(srv.Close)
		responder = srv.URL
	}
	a.issuer = ca.New(a.log, a.memory, responder, kind, 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(o.Life / time.Second)}})
	a.Roots.AddCert(a.issuer.GetRootCert(0).Cert)
	a.Server = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	a.Server.Config.ErrorLog = a.log
	a.Directory = a.URL + wfe.DirectoryPath
	t.Cleanup(a.Close)
	return a
}

// Check has it look for answers to challenges at these ports.
func (a *Authority) Check(httpPort, tlsPort int) {
	checker := va.New(a.log, httpPort, tlsPort, false, a.o.Resolver, a.memory)
	front := wfe.New(a.log, a.memory, checker, a.issuer, []string{a.o.Name}, false, len(a.o.EAB) > 0, 0, 0)
	handler := front.Handler()
	a.handler.Store(&handler)
}

func (a *Authority) serve(w http.ResponseWriter, r *http.Request) {
	a.paths.Store(r.URL.Path, true)
	handler := a.handler.Load()
	if f := a.before.Load(); f != nil && (*f)(w, r) {
		return
	}
	if handler == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var raw []byte
	if r.URL.Path == OrderPath {
		raw, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(raw))
	}
	answer := httptest.NewRecorder()
	(*handler).ServeHTTP(answer, r)
	if r.URL.Path == OrderPath && answer.Code == http.StatusCreated { // and no rejected nonce
		a.orders.Store(a.Orders.Add(1), string(raw))
	}
	if f := a.after.Load(); f != nil {
		(*f)(r, answer.Code)
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// Where accounts and orders are made; the others go on with an id.
const (
	AccountPath   = "/sign-me-up"
	OrderPath     = "/order-plz"
	AuthzPath     = "/authZ/"
	ChallengePath = "/chalZ/"
	FinalizePath  = "/finalize-order/"
	CertPath      = "/certZ/"
)

// LastOrder is the body of the last order, as it was signed.
func (a *Authority) LastOrder() string {
	raw, _ := a.orders.Load(a.Orders.Load())
	text, _ := raw.(string)
	return text
}

// Asked reports whether a path that begins with prefix was asked for.
func (a *Authority) Asked(prefix string) (asked bool) {
	a.paths.Range(func(p, _ any) bool {
		asked = strings.HasPrefix(p.(string), prefix)
		return !asked
	})
	return asked
}

// Interfere has every request answered by f, if that returns true, until it is
// called with nil.
func (a *Authority) Interfere(f func(http.ResponseWriter, *http.Request) bool) {
	if f == nil {
		a.before.Store(nil)
		return
	}
	a.before.Store(&f)
}

// Watch has f told of every answer with its status when it is made and not sent.
func (a *Authority) Watch(f func(r *http.Request, status int)) { a.after.Store(&f) }

// Down answers every request with a fault of the server.
func Down(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodHead { // a nonce, with which nothing begins
		return false
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:serverInternal","detail":"under repair","status":500}`)
	return true
}
