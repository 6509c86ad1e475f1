package certs

import (
	"crypto/x509"
	"io"
	"log"
	"net"
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
	"github.com/miekg/dns"

	"gatecontrol/model"
	"gatecontrol/proxy/dns01"
)

// zoneServer is a DNS server that answers every name with 127.0.0.1 and takes
// updates that are signed with its key.
type zoneServer struct {
	addr string

	mu      sync.Mutex
	txt     map[string][]string // by name, lower case
	updates int
	refused int
}

const (
	tsigName   = "key.gate."
	tsigSecret = "c2VjcmV0IG9mIHRoZSB0ZXN0"
)

func newZoneServer(t testing.TB) *zoneServer {
	t.Helper()
	z := &zoneServer{txt: make(map[string][]string)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	z.addr = ln.Addr().String()
	for _, s := range []*dns.Server{
		{Listener: ln, Handler: z, TsigSecret: map[string]string{tsigName: tsigSecret}, MsgAcceptFunc: acceptUpdates},
		{PacketConn: pc, Handler: z},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return z
}

// acceptUpdates also takes what the default refuses: updates.
func acceptUpdates(h dns.Header) dns.MsgAcceptAction {
	if h.Bits>>11&0xf == dns.OpcodeUpdate {
		return dns.MsgAccept
	}
	return dns.DefaultMsgAcceptFunc(h)
}

func (z *zoneServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	z.mu.Lock()
	if q.Opcode == dns.OpcodeUpdate {
		z.update(w, q, a)
	} else {
		z.answer(q, a)
	}
	z.mu.Unlock()
	_ = w.WriteMsg(a)
}

func (z *zoneServer) update(w dns.ResponseWriter, q, a *dns.Msg) {
	if q.IsTsig() == nil || w.TsigStatus() != nil {
		z.refused++
		a.Rcode = dns.RcodeNotAuth
		return
	}
	z.updates++
	for _, rr := range q.Ns {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		name, value := strings.ToLower(txt.Hdr.Name), strings.Join(txt.Txt, "")
		var rest []string
		for _, v := range z.txt[name] {
			if v != value {
				rest = append(rest, v)
			}
		}
		if txt.Hdr.Class == dns.ClassINET {
			rest = append(rest, value)
		}
		z.txt[name] = rest
	}
	a.SetTsig(tsigName, dns.HmacSHA256, 300, time.Now().Unix())
}

func (z *zoneServer) answer(q, a *dns.Msg) {
	name := q.Question[0].Name
	hdr := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		a.Answer = append(a.Answer, &dns.A{Hdr: hdr, A: net.IPv4(127, 0, 0, 1)})
	case dns.TypeTXT:
		for _, v := range z.txt[strings.ToLower(name)] {
			a.Answer = append(a.Answer, &dns.TXT{Hdr: hdr, Txt: []string{v}})
		}
	}
}

// provider changes the zone; with another secret than the server's it is refused.
func (z *zoneServer) provider(t testing.TB, secret string) dns01.Provider {
	t.Helper()
	settings := map[string]string{"server": z.addr, "key_name": "key.gate", "key_secret": secret}
	if err := model.CheckDNSSettings(model.DNSRFC2136, settings); err != nil {
		t.Fatal(err)
	}
	p, err := dns01.New(model.DNSRFC2136, settings)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pebble is an authority in this process, with a front that counts and interferes.
type pebble struct {
	*httptest.Server
	ca     CA
	roots  *x509.CertPool // of what it issues
	orders atomic.Int32
	paths  sync.Map // what was asked, by path
	bodies sync.Map // of newOrder, by number
	// before answers instead of the authority if it returns true.
	before atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newPebble(t testing.TB, name string, httpPort, tlsPort int, resolver string, life time.Duration, eab map[string]string) *pebble {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	memory := db.NewMemoryStore()
	for id, key := range eab {
		if err := memory.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	issuer := ca.New(quiet, memory, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(life / time.Second)}})
	checker := va.New(quiet, httpPort, tlsPort, false, resolver, memory)
	front := wfe.New(quiet, memory, checker, issuer, []string{name}, false, len(eab) > 0, 0, 0)
	handler := front.Handler()
	p := &pebble{roots: x509.NewCertPool()}
	p.roots.AddCert(issuer.GetRootCert(0).Cert)
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.paths.Store(r.URL.Path, true)
		if f := p.before.Load(); f != nil && (*f)(w, r) {
			return
		}
		if r.URL.Path != "/order-plz" {
			handler.ServeHTTP(w, r)
			return
		}
		raw, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if answer.Code == http.StatusCreated { // and no rejected nonce
			p.bodies.Store(p.orders.Add(1), string(raw))
		}
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(p.Close)
	p.ca = CA{Directory: p.URL + wfe.DirectoryPath, Name: name, Identities: []string{name}}
	return p
}

// interfere answers every request by f until it is called with nil.
func (p *pebble) interfere(f func(http.ResponseWriter, *http.Request) bool) {
	if f == nil {
		p.before.Store(nil)
		return
	}
	p.before.Store(&f)
}

// down answers nothing but 500.
func down(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodHead { // a nonce, with which nothing begins
		return false
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:serverInternal","detail":"under repair","status":500}`)
	return true
}
