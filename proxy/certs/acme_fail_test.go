package certs

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/lab/acme"
	"gatecontrol/model"
)

// TestAuthorityFailsAndReturns: attempts go on with growing pauses, the internal
// certificate serves, and other names are not concerned.
func TestAuthorityFailsAndReturns(t *testing.T) {
	r := newRig(t, setup{})
	r.serve("good.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("good.example.com", r.pebble) })
	r.pebble.Interfere(acme.Down)
	r.serve("good.example.com", "app.example.com")
	r.waitFor("three failures", func() bool { return r.status("app.example.com").Failures >= 3 })
	st := r.status("app.example.com")
	if st.State != model.CertFailed || !strings.Contains(st.LastError, "under repair") || st.Advice == "" || st.NextRenewal.IsZero() {
		t.Errorf("%+v", st)
	}
	if r.shown("app.example.com").VerifyHostname("app.example.com") != nil || !r.isBy("good.example.com", r.pebble) {
		t.Error("handshakes suffer")
	}
	r.pebble.Interfere(nil)
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	if st := r.status("app.example.com"); st.State != model.CertValid || st.LastError != "" || st.Failures != 0 {
		t.Errorf("%+v", st)
	}
}

// TestSecondAuthority: where the first fails, the second is asked in the same
// attempt; the next renewal begins with the first again.
func TestSecondAuthority(t *testing.T) {
	r := newRig(t, setup{})
	second := acme.New(t, acme.Options{Name: "second", Resolver: r.zone.Addr})
	second.Check(port(r.plain), port(r.tls))
	both := setup{tune: func(o *Options, _ *times) {
		o.CAs = append(o.CAs, CA{Directory: second.Directory, Name: "second"})
		o.Roots.AddCert(second.Certificate())
	}}
	r.restart(both)
	r.pebble.Interfere(acme.Down)
	r.serve("app.example.com")
	r.waitFor("a certificate of the second", func() bool { return r.isBy("app.example.com", second) })
	if st := r.status("app.example.com"); st.State != model.CertValid {
		t.Errorf("%+v", st)
	}
	r.pebble.Interfere(nil)
	r.waitIdle("app.example.com")
	if err := r.m.Renew("app.example.com"); err != nil {
		t.Fatal(err)
	}
	r.waitFor("a certificate of the first", func() bool { return r.isBy("app.example.com", r.pebble) })
	// The newer one is what a restart finds.
	r.restart(both)
	r.serve("app.example.com")
	if !r.isBy("app.example.com", r.pebble) {
		t.Error("after a restart the older one is shown")
	}
}

// TestRateLimit: what an authority says of when to come again holds, also after a
// restart and for a person.
func TestRateLimit(t *testing.T) {
	r := newRig(t, setup{})
	var asked atomic.Int32
	r.pebble.Interfere(func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != acme.OrderPath {
			return false
		}
		asked.Add(1)
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates already issued","status":429}`)
		return true
	})
	r.serve("app.example.com")
	r.waitFor("a failure", func() bool { return r.status("app.example.com").State == model.CertFailed })
	st := r.status("app.example.com")
	if in := time.Until(st.NextRenewal); in < 59*time.Minute || in > time.Hour {
		t.Errorf("the next attempt is in %v", in)
	}
	if !strings.Contains(st.LastError, "too many certificates") || !strings.Contains(st.Advice, "wait") {
		t.Errorf("%+v", st)
	}
	err := r.m.Renew("app.example.com")
	if e, ok := err.(*model.Error); !ok || e.Kind != model.KindLimited {
		t.Errorf("a person may ask: %v", err)
	}
	if b := r.m.Budget("app.example.com"); time.Until(b.Wait) < 59*time.Minute {
		t.Errorf("%+v", b)
	}
	r.restart(setup{})
	r.serve("app.example.com")
	r.waitIdle("app.example.com")
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestStoreFails: a certificate that cannot be stored leaves the old one, whole.
func TestStoreFails(t *testing.T) {
	r := newRig(t, setup{})
	failing := &failingStorage{Storage: r.db.Blobs()}
	with := setup{tune: func(o *Options, _ *times) { o.Storage = failing }}
	r.restart(with)
	r.serve("app.example.com")
	r.waitFor("a certificate", func() bool { return r.isBy("app.example.com", r.pebble) })
	first := r.shown("app.example.com")
	failing.fails.Store(true)
	r.waitIdle("app.example.com")
	if err := r.m.Renew("app.example.com"); err != nil {
		t.Fatal(err)
	}
	r.waitFor("a failure", func() bool { return r.status("app.example.com").Failures > 0 })
	if st := r.status("app.example.com"); st.State != model.CertValid || !strings.Contains(st.LastError, "full") {
		t.Errorf("%+v", st)
	}
	r.restart(with)
	r.serve("app.example.com")
	if !r.shown("app.example.com").Equal(first) {
		t.Error("the old certificate is gone")
	}
}

// failingStorage is one whose disk is full for certificates.
type failingStorage struct {
	Storage
	fails atomic.Bool
}

func (f *failingStorage) Save(ctx context.Context, items map[string][]byte) error {
	for key := range items {
		if f.fails.Load() && strings.HasPrefix(key, certsPrefix) {
			return fmt.Errorf("the disk is full")
		}
	}
	return f.Storage.Save(ctx, items)
}
