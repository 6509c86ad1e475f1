package accounts

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

const adminPassword = "correct horse"

// fixture is a Service on a real store with a clock that the test moves.
type fixture struct {
	*Service
	dir    string
	sealer *store.Sealer
	db     *store.DB
	log    *bytes.Buffer
	logMu  sync.Mutex

	clock sync.Mutex
	at    time.Time
}

func (f *fixture) Write(p []byte) (int, error) {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	return f.log.Write(p)
}

func (f *fixture) Now() time.Time {
	f.clock.Lock()
	defer f.clock.Unlock()
	return f.at
}

func (f *fixture) advance(d time.Duration) {
	f.clock.Lock()
	defer f.clock.Unlock()
	f.at = f.at.Add(d)
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	sealer, err := store.NewSealer(model.Secret(strings.Repeat("ab", 32)))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{dir: t.TempDir(), sealer: sealer, log: new(bytes.Buffer), at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	f.open(t)
	t.Cleanup(func() { _ = f.db.Close() })
	return f
}

// open opens the store and a Service on it, as at a start.
func (f *fixture) open(t testing.TB) {
	t.Helper()
	if err := os.Chmod(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.db, err = store.Open(store.Options{Dir: f.dir, Sealer: f.sealer, Log: log}); err != nil {
		t.Fatal(err)
	}
	if f.Service, err = New(Options{DB: f.db, Log: log, SessionMaxAge: time.Hour, Now: f.Now}); err != nil {
		t.Fatal(err)
	}
	f.hasher.memory = 64 // KiB; what a hash costs is not tested here
}

// restart opens everything anew.
func (f *fixture) restart(t testing.TB) {
	t.Helper()
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	f.open(t)
}

func (f *fixture) admin(t testing.TB) {
	t.Helper()
	if _, err := f.EnsureAdmin(t.Context(), "admin", adminPassword); err != nil {
		t.Fatal(err)
	}
}

func from(t testing.TB, addr string) context.Context {
	t.Helper()
	return model.WithActor(t.Context(), model.Actor{Name: "anonymous", Addr: netip.MustParseAddr(addr)})
}

func (f *fixture) login(t testing.TB, a Attempt) *SignIn {
	t.Helper()
	in, err := f.Login(from(t, "192.0.2.1"), a)
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	return in
}

func wantKind(t testing.TB, err error, kind model.Kind) {
	t.Helper()
	if err == nil || model.KindOf(err) != kind {
		t.Fatalf("error is %v, want kind %v", err, kind)
	}
}

// events lists what is in the activity log as type, source and severity, oldest
// first.
func (f *fixture) events(t testing.TB) (list []string, messages []string) {
	t.Helper()
	page, _, err := events.NewLog(f.db, slog.New(slog.DiscardHandler)).List(events.Filter{}, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(page) - 1; i >= 0; i-- {
		list = append(list, fmt.Sprintf("%s %s %s", page[i].Type, page[i].Source, page[i].Severity))
		messages = append(messages, page[i].Message)
	}
	return list, messages
}

// startRun runs f until stop is called.
func startRun(t testing.TB, f *fixture, done chan<- error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- f.Run(ctx) }()
	return cancel
}
