package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"gatecontrol/model"
	"gatecontrol/store/storetest"
)

func TestStorage(t *testing.T) {
	ctx := context.Background()
	i := newItems(storetest.Open(t).Blobs())
	// The parts of a certificate are seen together, once the last is there.
	const dir = "certificates/ca/a.test/a.test"
	for _, part := range []string{".key", ".crt"} {
		if err := i.Store(ctx, dir+part, []byte(part)); err != nil {
			t.Fatal(err)
		}
		if i.Exists(ctx, dir+part) {
			t.Errorf("%s is seen before the rest", part)
		}
	}
	if err := i.Store(ctx, dir+".json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{".key", ".crt", ".json"} {
		if !i.Exists(ctx, dir+part) {
			t.Errorf("%s is not there", part)
		}
	}
	if err := i.Store(ctx, "ocsp/x", []byte("staple")); err != nil {
		t.Fatal(err)
	}
	list := func(dir string, recursive bool) []string {
		l, err := i.List(ctx, dir, recursive)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		slices.Sort(l)
		return l
	}
	if got := list("certificates", false); !slices.Equal(got, []string{"certificates/ca"}) {
		t.Errorf("%q", got)
	}
	if got := list("", true); !slices.Contains(got, "ocsp/x") || !slices.Contains(got, dir+".key") || !slices.Contains(got, "certificates/ca/a.test") {
		t.Errorf("%q", got)
	}
	if got := list("certificates/ca/a.test", false); len(got) != 3 {
		t.Errorf("%q", got)
	}
	if _, err := i.List(ctx, "none", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if info, err := i.Stat(ctx, "ocsp/x"); err != nil || !info.IsTerminal || info.Size != 6 || info.Modified.IsZero() {
		t.Errorf("%+v %v", info, err)
	}
	if info, err := i.Stat(ctx, "certificates/ca"); err != nil || info.IsTerminal {
		t.Errorf("%+v %v", info, err)
	}
	if _, err := i.Stat(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := i.Load(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := i.Delete(ctx, "certificates/ca"); err != nil || i.Exists(ctx, dir+".crt") {
		t.Errorf("after deleting the directory: %v", err)
	}
}

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		i := newItems(nil)
		if err := i.Lock(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		if err := i.Lock(ctx, "b"); err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() { got <- i.Lock(ctx, "a") }()
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("two hold one lock")
		default:
		}
		if err := i.Unlock(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := i.Lock(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting has no end: %v", err)
		}
		if err := errors.Join(i.Unlock(ctx, "a"), i.Unlock(ctx, "b")); err != nil || len(i.locks) != 0 {
			t.Errorf("%v, %d locks are left", err, len(i.locks))
		}
		if i.Unlock(ctx, "a") == nil {
			t.Error("a lock that nobody holds is released")
		}
	})
}

// TestDelay: at least a minute, doubling, at most six hours.
func TestDelay(t *testing.T) {
	tm := defaultTimes()
	for n, want := range map[int]time.Duration{
		1: time.Minute, 2: 2 * time.Minute, 3: 4 * time.Minute, 8: 128 * time.Minute, 9: 256 * time.Minute, 10: 6 * time.Hour, 1000: 6 * time.Hour,
	} {
		if got := tm.delay(n); got < want || got > want+want/8 {
			t.Errorf("after %d failures: %v, want %v", n, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for field, want := range map[string]time.Duration{
		"60": time.Minute, "Sat, 28 Nov 2026 12:01:00 GMT": time.Minute, "99999999": maxRetryAfter,
	} {
		if got := retryAfter(field, now).Sub(now); got != want {
			t.Errorf("%q: %v", field, got)
		}
	}
	for _, field := range []string{"", "soon", "-1", "1.5", "99999999999999999999"} {
		if got := retryAfter(field, now); !got.IsZero() {
			t.Errorf("%q: %v", field, got)
		}
	}
}

// TestLimits: as long as one authority may be asked, nothing is waited for.
func TestLimits(t *testing.T) {
	now := time.Now()
	a, b := &authority{key: "a"}, &authority{key: "b"}
	both := []*authority{a, b}
	hour, two := now.Add(time.Hour), now.Add(2*time.Hour)
	for _, tt := range []struct {
		name   string
		before map[string]time.Time
		until  map[string]time.Time
		want   time.Time
	}{
		{"none", nil, nil, time.Time{}},
		{"one of two", nil, map[string]time.Time{"a": hour}, time.Time{}},
		{"both", map[string]time.Time{"a": hour}, map[string]time.Time{"b": two}, hour},
		{"one is over", map[string]time.Time{"a": now.Add(-time.Second)}, map[string]time.Time{"b": two}, time.Time{}},
		{"longer than before", map[string]time.Time{"a": hour, "b": two}, map[string]time.Time{"a": two}, two},
	} {
		if _, got := (&attempt{until: tt.until}).next(tt.before, both, now); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func manager(t *testing.T, o Options) *Manager {
	t.Helper()
	r := storetest.Open(t)
	o.Log, o.Storage = discard, r.Blobs()
	if o.Internal == nil {
		o.Internal = func(string) (*tls.Certificate, error) { return nil, errors.New("internal") }
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// TestPolicy: who certifies what.
func TestPolicy(t *testing.T) {
	ca := []CA{{Directory: "https://ca.test/directory"}}
	for _, tt := range []struct {
		name string
		o    Options
		host string
		want bool
	}{
		{"a public name", Options{CAs: ca}, "app.example.com", true},
		{"a name of a home", Options{CAs: ca}, "nas.lan", false},
		{"a name without dots", Options{CAs: ca}, "localhost", false},
		{"an address", Options{CAs: ca}, "192.0.2.1", false},
		{"an address of IPv6", Options{CAs: ca, AllNames: true}, "2001:db8::1", false},
		{"no authority", Options{}, "app.example.com", false},
		{"an authority of the house", Options{CAs: ca, AllNames: true}, "nas.lan", true},
		{"an authority of the house, no dots", Options{CAs: ca, AllNames: true}, "localhost", false},
	} {
		if got := manager(t, tt.o).certifies(tt.host); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	m := manager(t, Options{CAs: ca})
	m.Set(nil, []Zone{{Zone: "example.com", Wildcard: true}, {Zone: "sub.example.com"}})
	for host, want := range map[string]string{
		"a.example.com": "*.example.com", "example.com": "example.com", "a.b.example.com": "a.b.example.com",
		"a.sub.example.com": "a.sub.example.com", "sub.example.com": "sub.example.com", "other.org": "other.org", "xexample.com": "xexample.com",
	} {
		if got, z := m.subjectOf(host); got != want || (z != nil) != strings.HasSuffix("."+host, ".example.com") {
			t.Errorf("%s: %s, zone %v", host, got, z)
		}
	}
}

// TestDirectories: what is no address of an authority is refused by its setting.
func TestDirectories(t *testing.T) {
	for _, dir := range []string{"", "ca.test", "http://ca.test/dir", "https:///dir", "ftp://ca.test"} {
		_, err := New(Options{Log: discard, Storage: storetest.Open(t).Blobs(), Internal: func(string) (*tls.Certificate, error) { return nil, nil }, CAs: []CA{{Directory: dir}}})
		if e, ok := errors.AsType[*model.Error](err); !ok || e.Field != "GC_ACME_CA" {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

// TestExplain: what a person reads.
func TestExplain(t *testing.T) {
	problem := func(kind, detail string) error {
		return acme.Problem{Type: acme.ProblemTypeNamespace + kind, Detail: detail, Status: 403}
	}
	for _, tt := range []struct {
		name         string
		err          error
		says, advice string
	}{
		{"dns", problem("dns", "NXDOMAIN"), "NXDOMAIN", "A or AAAA"},
		{"connection", problem("connection", "timeout"), "timeout", "ports 80 and 443"},
		{"unauthorized", problem("unauthorized", "wrong answer"), "wrong answer", "Something else"},
		{"caa", problem("caa", "no"), "no", "CAA"},
		{"limit", problem("rateLimited", "too many"), "too many", "wait"},
		{"name", problem("rejectedIdentifier", "no such TLD"), "no such TLD", "another domain"},
		{"fault", acme.Problem{Status: 503, Detail: "busy"}, "busy", "by itself"},
		{"binding", errNoBinding, "bound", "GC_ACME_EAB"},
		{"not there", &net.OpError{Op: "dial", Err: errors.New("refused")}, "refused", "reaches the internet"},
		{"in the words of libraries", fmt.Errorf("provisioning client: %w", &url.Error{Op: "Get", URL: "https://ca.example/dir", Err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}}),
			"reached: dial tcp: refused", "reaches the internet"},
		{"a name that is not known", &url.Error{Op: "Get", URL: "https://ca.example/dir", Err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "ca.example"}}},
			"looked up: lookup ca.example: no such host", "resolver"},
		{"zone", &dnsError{"example.com", errors.New("403")}, "example.com", "credentials"},
		{"something else", errors.New("a\x00b\nc"), "a b c", "by itself"},
		{"the one to act on", &attemptError{[]caError{{"one", problem("rateLimited", "too many")}, {"two", problem("caa", "no")}}}, "two: no", "CAA"},
	} {
		if text, advice := explain(tt.err); !strings.Contains(text, tt.says) || !strings.Contains(advice, tt.advice) {
			t.Errorf("%s: %q, %q", tt.name, text, advice)
		}
	}
	if text, _ := explain(errors.New(strings.Repeat("x", 10_000))); len(text) > maxDetail+10 {
		t.Errorf("%d bytes", len(text))
	}
}

// TestReach: the same way as an authority's, without one.
func TestReach(t *testing.T) {
	r := newRig(t, setup{})
	ctx, local := context.Background(), netip.MustParseAddr("127.0.0.1")
	r.m.times.probeHTTP, r.m.times.probeTLS = uint16(port(r.plain)), uint16(port(r.tls))
	for _, secure := range []bool{false, true} {
		if err := r.m.Reach(ctx, "not-yet.example.com", local, secure); err != nil {
			t.Errorf("secure %v: %v", secure, err)
		}
	}
	if len(r.m.tokens.plain)+len(r.m.tokens.certs)+len(r.m.tokens.probes) != 0 {
		t.Error("proofs are left")
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	r.m.times.probeHTTP, r.m.times.probeTLS = netip.MustParseAddrPort(other.Listener.Addr().String()).Port(), netip.MustParseAddrPort(secure.Listener.Addr().String()).Port()
	for _, s := range []bool{false, true} {
		if err := r.m.Reach(ctx, "app.example.com", local, s); !errors.Is(err, ErrOther) {
			t.Errorf("another server, secure %v: %v", s, err)
		}
	}
	other.Close()
	secure.Close()
	for _, s := range []bool{false, true} {
		if err := r.m.Reach(ctx, "app.example.com", local, s); err == nil || errors.Is(err, ErrOther) {
			t.Errorf("nothing there, secure %v: %v", s, err)
		}
	}
}
