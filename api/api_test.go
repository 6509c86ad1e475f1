package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/argon2"

	"gatecontrol/control/accounts"
	"gatecontrol/control/backup"
	"gatecontrol/control/certs"
	"gatecontrol/control/events"
	"gatecontrol/control/peers"
	"gatecontrol/control/routes"
	"gatecontrol/control/settings"
	"gatecontrol/control/windows"
	"gatecontrol/model"
	"gatecontrol/store"
	"gatecontrol/telemetry"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

const adminPassword = "correct horse"

// start is what every clock of a test shows first.
var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// logBuffer takes what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// fixture is a Server on real services and a real store. What the planes say is
// up to the test.
type fixture struct {
	*Server
	clock  *clock
	log    *logBuffer
	db     *store.DB
	status map[model.PublicKey]model.PeerStatus
	health Health

	conditions []telemetry.Condition
	certs      []model.CertStatus
	access     *telemetry.AccessLog
	trace      []model.TraceEntry
	explain    func(model.ExplainRequest) (*model.Explanation, error)
	found      map[model.RouteID]model.ProbeResult // what checks of routes come to; one without has nothing to ask

	admins int
}

// newFixture makes one whose administrator is admin with adminPassword.
func newFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{clock: &clock{at: start}, log: new(logBuffer), status: map[model.PublicKey]model.PeerStatus{}, health: Health{true, true, true}}
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	sealer, err := store.NewSealer(model.Secret(strings.Repeat("ab", 32)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f.db, err = store.Open(store.Options{Dir: dir, Sealer: sealer, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.db.Close() })
	if f.access, err = telemetry.NewAccessLog(telemetry.AccessLogOptions{Path: filepath.Join(dir, "access.log"), Log: log}); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Log: log, BaseURL: &url.URL{Scheme: "http", Host: "gate.example.com"}, Version: "1.2.3", AdminUser: "admin",
		LoginLimit: 10, APILimit: 1000, Now: f.clock.now,
		DNS: DNS{Enabled: true, Domain: "gc.internal", Gateway: netip.MustParseAddr("10.8.0.1")},
		WG: func() WG {
			wg := WG{Running: true, PublicKey: serverKey.Public(), ListenPort: 51820}
			for _, st := range f.status {
				wg.Peers = append(wg.Peers, st)
			}
			slices.SortFunc(wg.Peers, func(a, b model.PeerStatus) int { return a.AllowedIPs[0].Addr().Compare(b.AllowedIPs[0].Addr()) })
			return wg
		},
		Proxy:  func() Proxy { return Proxy{Running: true, Started: start.Add(-time.Hour), HTTPRoutes: 2, L4Routes: 1} },
		Health: func() Health { return f.health },
		Traffic: func() Traffic {
			return Traffic{TodayUpload: 1200, TodayDownload: 2000, UploadRate: 41, DownloadRate: 128}
		},
		Reload:     func(context.Context) error { return nil },
		Conditions: func() []telemetry.Condition { return f.conditions },
		AccessLog:  f.access.List,
		Metrics: func() []telemetry.Metric {
			return []telemetry.Metric{telemetry.Counter("gatecontrol_test_total", "A test.", 1)}
		},
		Explain: func(q model.ExplainRequest) (*model.Explanation, error) { return f.explain(q) },
		Trace: func(id model.RouteID, limit int, since time.Time) *model.Trace {
			i := slices.IndexFunc(f.trace, func(e model.TraceEntry) bool { return !e.At.After(since) })
			if i < 0 {
				i = len(f.trace)
			}
			return &model.Trace{Entries: f.trace[:min(i, limit)], Kept: len(f.trace), Dropped: 7}
		},
		Events: events.NewLog(f.db, log),
		Backup: backup.New(backup.Options{DB: f.db, Now: f.clock.now}),
	}
	status := func() map[model.PublicKey]model.PeerStatus { return f.status }
	o.Accounts, err = accounts.New(accounts.Options{DB: f.db, Log: log, SessionMaxAge: 24 * time.Hour, Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	o.Peers = peers.New(peers.Options{
		DB: f.db, Now: f.clock.now, Status: status, Zone: "gc.internal",
		Tunnel: peers.Tunnel{
			Subnet: netip.MustParsePrefix("10.8.0.0/16"), Gateway: netip.MustParseAddr("10.8.0.1"),
			Endpoint: "gate.example.com:51820", BaseURL: "http://gate.example.com", ServerKey: serverKey.Public(),
			AllowedIPs: "0.0.0.0/0", Keepalive: 25, MTU: 1420,
		},
	})
	o.Settings = settings.New(settings.Options{
		DB: f.db, Now: f.clock.now, Exit: model.Exit{Enabled: true, PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}},
	})
	o.Certs = certs.New(certs.Options{
		DB: f.db, Log: log, Now: f.clock.now, AdminHosts: []string{"gate.example.com"}, Root: []byte("-----BEGIN CERTIFICATE-----\n"),
		Status: func() []model.CertStatus { return f.certs },
		Renew:  func(name string) error { return f.renew(name) },
		Look:   f.look(),
	})
	o.Windows = windows.New(windows.Options{DB: f.db, Now: f.clock.now})
	o.Routes = routes.New(routes.Options{
		DB: f.db, Now: f.clock.now, Status: status, Blocked: []uint16{22, 3000}, LookUp: f.look().Addrs, KnownAs: []string{"198.51.100.1"},
		Probe: f.probe, Check: f.check,
	})
	f.update(t, func(tx *store.Tx) error {
		return store.Users.Insert(tx, &model.User{
			Username: "admin", DisplayName: "Administrator", Role: model.RoleAdmin, Language: "en", Theme: "default",
			PasswordHash: cheapHash(), Enabled: true, CreatedAt: start, UpdatedAt: start,
		})
	})
	for _, c := range change {
		c(&o)
	}
	if f.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	return f
}

var serverKey = func() model.PrivateKey {
	k, err := model.ParsePrivateKey("ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7n8=")
	if err != nil {
		panic(err)
	}
	return k
}()

// caller sends requests as somebody.
type caller struct {
	f       *fixture
	handler http.Handler
	header  http.Header
	csrf    string
	remote  string
}

func (f *fixture) anonymous() *caller {
	return &caller{f: f, handler: f.Handler(), header: http.Header{}, remote: "192.0.2.1:4000"}
}

// cheapHash is of adminPassword: how much a hash costs is tested with accounts.
func cheapHash() string {
	salt := []byte("not so random")
	key := argon2.IDKey([]byte(adminPassword), salt, 1, 64, 1, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return "$argon2id$v=19$m=64,t=1,p=1$" + b64(salt) + "$" + b64(key)
}

func (f *fixture) update(t testing.TB, change func(*store.Tx) error) {
	t.Helper()
	if err := f.db.Update(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

// mustChange makes a new password due.
func (f *fixture) mustChange(t testing.TB) {
	t.Helper()
	f.update(t, func(tx *store.Tx) error {
		u, err := store.Users.Find(tx, "name", "admin")
		if err != nil {
			return err
		}
		u.MustChange = true
		return store.Users.Put(tx, u)
	})
	f.Accounts.Forget()
}

// admin is signed in, as a script that sends what it has to.
func (f *fixture) admin(t testing.TB) *caller {
	t.Helper()
	f.admins++
	cookie := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%032d", f.admins))
	hash := sha256.Sum256([]byte(cookie))
	session := &model.Session{
		ID: model.SessionID(hex.EncodeToString(hash[:])), User: 1, CSRFToken: strings.Repeat(fmt.Sprintf("%08x", f.admins), 16),
		CreatedAt: f.clock.now(), ExpiresAt: f.clock.now().Add(24 * time.Hour),
	}
	f.update(t, func(tx *store.Tx) error { return store.Sessions.Put(tx, session) })
	c := f.anonymous()
	c.csrf = session.CSRFToken
	c.header.Set("Cookie", "gc.sid="+cookie)
	c.header.Set("X-CSRF-Token", c.csrf)
	return c
}

// token is a program with these scopes.
func (f *fixture) token(t testing.TB, scopes ...string) *caller {
	t.Helper()
	value, _, err := f.Accounts.CreateToken(t.Context(), accounts.TokenInput{Name: "test", Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	c := f.anonymous()
	c.header.Set("Authorization", "Bearer "+value.Reveal())
	return c
}

// with returns a copy of c that sends another field too; "" removes it.
func (c *caller) with(name, value string) *caller {
	d := *c
	d.header = c.header.Clone()
	d.header.Del(name)
	if value != "" {
		d.header.Set(name, value)
	}
	return &d
}

func (c *caller) do(method, target, body string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	hr := httptest.NewRequest(method, target, r)
	hr.Host = "gate.example.com"
	if host := c.header.Get("Host"); host != "" {
		hr.Host = host
	}
	hr.RemoteAddr = c.remote
	for name, values := range c.header {
		hr.Header[name] = values
	}
	if body != "" && hr.Header.Get("Content-Type") == "" {
		hr.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, hr)
	return w
}

// call sends a request that must get this status, and decodes the answer.
func (c *caller) call(t testing.TB, status int, method, target, body string) map[string]any {
	t.Helper()
	w := c.do(method, target, body)
	if w.Code != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, target, w.Code, status, w.Body)
	}
	var m map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("%s %s: %v: %s", method, target, err, w.Body)
	}
	if m["ok"] != (status < 400) {
		t.Errorf("%s %s: ok is %v in %s", method, target, m["ok"], w.Body)
	}
	return m
}

// golden compares a JSON answer, indented, with a file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		t.Fatalf("%s is no JSON: %v: %s", name, err, text)
	}
	b.WriteByte('\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s has changed (-want +got):\n%s", name, diff)
	}
}
