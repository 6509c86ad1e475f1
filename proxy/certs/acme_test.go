package certs

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/tls"

	protocol "github.com/mholt/acmez/v3/acme"

	"gatecontrol/lab/acme"
	"gatecontrol/model"
)

// only leaves one challenge.
func only(kind string) func(*Options, *times) {
	return func(_ *Options, tm *times) {
		for _, k := range []string{protocol.ChallengeTypeHTTP01, protocol.ChallengeTypeTLSALPN01} {
			if k != kind {
				tm.without = append(tm.without, k)
			}
		}
	}
}

func TestIssuance(t *testing.T) {
	for _, kind := range []string{protocol.ChallengeTypeHTTP01, protocol.ChallengeTypeTLSALPN01} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, setup{tune: only(kind)})
			r.serve("app.example.com", "nas.lan")
			// The first handshake works, with what there is.
			if c := r.shown("app.example.com"); c.VerifyHostname("app.example.com") != nil {
				t.Error("the first handshake shows a certificate of another name")
			}
			r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
			st := r.status("app.example.com")
			if st.State != model.CertValid || st.LastError != "" || !strings.Contains(st.Issuer, "Pebble") || !st.NextRenewal.After(time.Now()) || !st.NextRenewal.Before(st.NotAfter) {
				t.Errorf("%+v", st)
			}
			if st := r.status("nas.lan"); st.State != model.CertInternal {
				t.Errorf("%+v", st)
			}
			if n := r.pebble.Orders.Load(); n != 1 {
				t.Errorf("%d orders", n)
			}
			if len(r.m.tokens.plain)+len(r.m.tokens.certs) != 0 {
				t.Error("answers to challenges are left")
			}
		})
	}
}

// TestWildcard: names of a zone share one certificate that is proven through the
// zone, and nobody reaches this server for it.
func TestWildcard(t *testing.T) {
	r := newRig(t, setup{tune: func(_ *Options, tm *times) {
		tm.without = []string{protocol.ChallengeTypeHTTP01, protocol.ChallengeTypeTLSALPN01}
	}})
	r.m.Set(nil, []Zone{{Zone: "example.com", Provider: r.provider(acme.Secret), Check: true, Wildcard: true}})
	hosts := []string{"a.example.com", "b.example.com", "example.com", "x.c.example.com"}
	r.serve(hosts...)
	for _, host := range hosts {
		r.waitFor("a certificate for "+host, func() bool { return r.isBy(host, r.pebble) })
	}
	if a, b := r.shown("a.example.com"), r.shown("b.example.com"); !a.Equal(b) || a.DNSNames[0] != "*.example.com" {
		t.Errorf("%q and %q", a.DNSNames, b.DNSNames)
	}
	if n := r.pebble.Orders.Load(); n != 3 { // the wildcard, the zone itself and the name that is too deep
		t.Errorf("%d orders", n)
	}
	if st := r.status("b.example.com"); st.Subject != "*.example.com" || st.State != model.CertValid {
		t.Errorf("%+v", st)
	}
	taken, refused, left := r.zone.Updates()
	if taken < 6 || refused != 0 || len(left) != 0 {
		t.Errorf("%d updates, %d refused, left are %q", taken, refused, left)
	}
}

// TestZoneRefuses: what the server of a zone says is told, with what to do.
func TestZoneRefuses(t *testing.T) {
	r := newRig(t, setup{tune: func(_ *Options, tm *times) { tm.first, tm.most = time.Hour, time.Hour }})
	bad := r.provider("d3Jvbmc=")
	r.m.Set(nil, []Zone{{Zone: "example.com", Provider: bad}})
	r.serve("a.example.com")
	r.waitFor("a failure", func() bool { return r.status("a.example.com").State == model.CertFailed })
	if st := r.status("a.example.com"); !strings.Contains(st.LastError, "example.com") || !strings.Contains(st.Advice, "credentials") {
		t.Errorf("%+v", st)
	}
	r.m.Set(nil, []Zone{{Zone: "example.com", Provider: r.provider(acme.Secret), Check: true}})
	r.waitFor("a certificate", func() bool { return r.isBy("a.example.com", r.pebble) })
}

// TestRenewal: short lives, so that the renewal is there before the end.
func TestRenewal(t *testing.T) {
	r := newRig(t, setup{life: 8 * time.Second})
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	first := r.shown("app.example.com")
	r.waitFor("the next one", func() bool { return !r.shown("app.example.com").Equal(first) })
	if now := time.Now(); !now.Before(first.NotAfter) {
		t.Errorf("renewed %v after the end", now.Sub(first.NotAfter))
	}
	if !r.isBy("app.example.com", r.pebble) {
		t.Error("the new one is no good")
	}
	// The second order says which certificate it replaces (RFC 9773, section 5).
	if !strings.Contains(payload(t, r.pebble.LastOrder()), `"replaces"`) {
		t.Error("the order does not say what it replaces")
	}
	if !r.pebble.Asked("/draft-ietf-acme-ari-03/renewalInfo") {
		t.Error("the authority was not asked when to renew")
	}
}

func payload(t *testing.T, jws string) string {
	t.Helper()
	var body struct{ Payload string }
	if err := json.Unmarshal([]byte(jws), &body); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(body.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestRestart(t *testing.T) {
	r := newRig(t, setup{})
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	first := r.shown("app.example.com")
	r.restart(setup{})
	r.serve("app.example.com")
	if !r.shown("app.example.com").Equal(first) {
		t.Error("the first handshake after a restart shows another certificate")
	}
	r.waitIdle("app.example.com")
	if n := r.pebble.Orders.Load(); n != 1 {
		t.Errorf("%d orders", n)
	}
	if keys := r.items("accounts/"); len(keys) != 1 {
		t.Errorf("accounts: %q", keys)
	}
	// A name that goes and comes back has its certificate at once.
	r.serve()
	r.serve("app.example.com")
	if !r.shown("app.example.com").Equal(first) || r.pebble.Orders.Load() != 1 {
		t.Error("a name that came back has another certificate")
	}
}

// TestStrangers: names that are not served cause nothing.
func TestStrangers(t *testing.T) {
	r := newRig(t, setup{})
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	r.waitIdle("app.example.com")
	before := r.items("")
	const n = 10_000
	addr := r.tls.Addr().String()
	names := make(chan string)
	done := make(chan int)
	for range 8 {
		go func() {
			let := 0
			for name := range names {
				c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
				if err == nil {
					let++
					_ = c.Close()
				}
			}
			done <- let
		}()
	}
	for i := range n {
		name := fmt.Sprintf("%016x.example.com", rand.Uint64())
		switch i % 4 {
		case 0:
			name = fmt.Sprintf("%016x.org", rand.Uint64())
		case 1:
			name = fmt.Sprintf("x%d.app.example.com", i)
		}
		names <- name
	}
	close(names)
	for range 8 {
		if let := <-done; let > 0 {
			t.Errorf("%d handshakes succeeded", let)
		}
	}
	// Nor does an authority's question for one of them.
	for _, path := range []string{"x", strings.Repeat("y", 500), "../../certificates"} {
		req, _ := http.NewRequest("GET", "http://"+r.plain.Addr().String()+"/.well-known/acme-challenge/"+path, nil)
		req.Host = "stranger.example.com"
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if after := r.items(""); !slices.Equal(after, before) {
		t.Errorf("the store has %d items, had %d", len(after), len(before))
	}
	if r.pebble.Orders.Load() != 1 {
		t.Errorf("%d orders", r.pebble.Orders.Load())
	}
	r.m.store.mu.Lock()
	locks := len(r.m.store.locks)
	r.m.store.mu.Unlock()
	r.m.mu.Lock()
	subjects := slices.Collect(maps.Keys(r.m.subjects))
	r.m.mu.Unlock()
	if locks != 0 || !slices.Equal(subjects, []string{"app.example.com"}) || len(*r.m.table.Load()) != 1 {
		t.Errorf("%d locks, subjects %q", locks, subjects)
	}
}

// TestGoneWhileRunning: a name that is no longer served ends its order.
func TestGoneWhileRunning(t *testing.T) {
	r := newRig(t, setup{})
	reached := make(chan struct{}, 100)
	release := make(chan struct{})
	r.pebble.Interfere(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == acme.OrderPath {
			reached <- struct{}{}
			select {
			case <-release:
			case <-q.Context().Done():
			}
		}
		return false
	})
	defer close(release)
	r.serve("app.example.com")
	<-reached
	r.m.mu.Lock()
	s := r.m.subjects["app.example.com"]
	r.m.mu.Unlock()
	r.serve()
	r.waitFor("the end of the order", func() bool {
		r.m.mu.Lock()
		defer r.m.mu.Unlock()
		return !s.running
	})
	if keys := r.items("attempts/"); len(keys) != 0 {
		t.Errorf("what was given up counts as a failure: %q", keys)
	}
}

// TestExternalAccount: an authority that wants its own customers gets the
// credentials, and says so where there are none.
func TestExternalAccount(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	r := newRig(t, setup{eab: map[string]string{"kid-1": key}})
	r.serve("app.example.com")
	r.waitFor("a failure", func() bool { return r.status("app.example.com").State == model.CertFailed })
	if st := r.status("app.example.com"); !strings.Contains(st.Advice, "GC_ACME_EAB") {
		t.Errorf("%+v", st)
	}
	r.restart(setup{tune: func(o *Options, _ *times) { o.EABKeyID, o.EABKey = "kid-1", model.Secret(key) }})
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
}
