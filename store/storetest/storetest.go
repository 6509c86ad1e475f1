// Package storetest opens stores for the tests of the packages above store. Of
// ours it imports model and store.
package storetest

import (
	"log/slog"
	"strings"
	"testing"

	"gatecontrol/model"
	"gatecontrol/store"
)

// Key seals the secrets of every store of Open, so that goldens can hold sealed
// texts.
var Key = model.Secret(strings.Repeat("5a", 32))

// Open returns a new, empty store in a directory of t. It is closed with t.
func Open(t testing.TB) *store.DB {
	t.Helper()
	sealer, err := store.NewSealer(Key)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(store.Options{Dir: t.TempDir(), Sealer: sealer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
