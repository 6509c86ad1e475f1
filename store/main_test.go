package store

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"gatecontrol/model"
)

var updateFixture = flag.Bool("update", false, "write the fixture of the newest schema anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errStop = errors.New("stop")

// testSealer seals with a key of one repeated byte.
func testSealer(t testing.TB, b string) *Sealer {
	t.Helper()
	s, err := NewSealer(model.Secret(strings.Repeat(b, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testOptions(t testing.TB, dir string) Options {
	return Options{Dir: dir, Sealer: testSealer(t, "5a"), Log: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(testOptions(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func update(t testing.TB, db *DB, f func(*Tx) error) {
	t.Helper()
	if err := db.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, db *DB, f func(*Tx) error) {
	t.Helper()
	if err := db.View(f); err != nil {
		t.Fatal(err)
	}
}

// addTable makes room for a table of a test.
func addTable(t testing.TB, db *DB, table bucketed) {
	t.Helper()
	if err := db.intent.Update(func(tx *bbolt.Tx) error { return create(tx, []bucketed{table}) }); err != nil {
		t.Fatal(err)
	}
}

// contents reads a file for comparing it later.
func contents(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantUnavailable checks that err is one that an operator can act on and names
// the file.
func wantUnavailable(t testing.TB, err error, file string) {
	t.Helper()
	e, ok := errors.AsType[*model.Error](err)
	if !ok || e.Kind != model.KindUnavailable || !strings.Contains(e.Message, filepath.Base(file)) {
		t.Fatalf("error %v, want one of kind %s that names %s", err, model.KindUnavailable, file)
	}
}
