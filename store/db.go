// Package store keeps everything that must outlive the process: two bbolt files
// in the data directory, typed tables over them, and the key that seals secrets.
// It is the only importer of bbolt, and of ours it imports model alone.
//
// gatecontrol.db holds intent (what administrators asked for) and the small
// runtime records that belong to it; history.db holds the activity log and
// traffic series, so that a flood of history cannot delay a change.
//
// A transaction that returned nil is on disk: every commit is synced. There is
// one writer at a time; readers never wait. Nothing in an Update may wait for
// the network or hash a password.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// File names inside the data directory.
const (
	IntentFile  = "gatecontrol.db"
	HistoryFile = "history.db"
)

// lockTimeout is how long Open waits for another process to let go of the data
// directory: long enough for a restart that overlaps, short enough to be told.
const lockTimeout = time.Second

// Options say where the store lives and what seals its secrets.
type Options struct {
	Dir    string // created with mode 0700 if missing
	Sealer *Sealer
	Log    *slog.Logger
}

// DB is the open store. Its methods may be called from any goroutine.
type DB struct {
	dir     string
	log     *slog.Logger
	sealer  *Sealer
	intent  *bbolt.DB
	history *bbolt.DB

	// One Update at a time from its first read to the Commit of what it prepared:
	// bbolt's own lock ends with the commit, before the planes have swapped.
	writer    sync.Mutex
	prepare   PrepareFunc
	committed chan struct{}
	broken    atomic.Pointer[error] // a failed sync: what is on disk is unknown
}

// Pending is what was prepared for a transaction. Exactly one of the two is
// called: Commit after the transaction is on disk, Abort if it will not be.
type Pending interface {
	Commit()
	Abort()
}

// PrepareFunc is asked before each commit that changes intent. It sees the
// transaction as it would be committed; an error rolls it back.
type PrepareFunc func(ctx context.Context, tx *Tx) (Pending, error)

// Open opens both files, checks them, and brings them to the schema of this
// program. It refuses a directory that another process uses (KindConflict), a
// damaged file and a newer schema (KindUnavailable), and then changes nothing.
func Open(o Options) (*DB, error) {
	if err := makeDir(o.Dir, o.Log); err != nil {
		return nil, err
	}
	db := &DB{dir: o.Dir, log: o.Log, sealer: o.Sealer, committed: make(chan struct{}, 1)}
	var err error
	if db.intent, err = openFile(filepath.Join(o.Dir, IntentFile)); err != nil {
		return nil, err
	}
	if db.history, err = openFile(filepath.Join(o.Dir, HistoryFile)); err != nil {
		_ = db.intent.Close()
		return nil, err
	}
	for _, step := range []func() error{db.migrate, db.markSealer} {
		if err := step(); err != nil {
			_ = db.Close()
			return nil, err
		}
	}
	return db, nil
}

// Close ends both files. It waits for open transactions.
func (db *DB) Close() error { return errors.Join(db.intent.Close(), db.history.Close()) }

// Sealer returns what seals and opens the secrets of this store.
func (db *DB) Sealer() *Sealer { return db.sealer }

// SetPrepare sets what is asked before each commit that changes intent. It must
// be called before the first Update.
func (db *DB) SetPrepare(f PrepareFunc) { db.prepare = f }

// Committed yields a value after one or more commits of the intent file.
func (db *DB) Committed() <-chan struct{} { return db.committed }

// Healthy returns nil while writes can be acknowledged.
func (db *DB) Healthy() error {
	if p := db.broken.Load(); p != nil {
		return &model.Error{Kind: model.KindUnavailable, Message: "the store failed to sync; restart after checking the disk", Err: *p}
	}
	return nil
}

// View runs f on a snapshot of the intent file. f must be quick: while it runs,
// pages that writers free are kept.
func (db *DB) View(f func(*Tx) error) error { return view(db.intent, f) }

// ViewHistory runs f on a snapshot of the history file.
func (db *DB) ViewHistory(f func(*Tx) error) error { return view(db.history, f) }

// Update runs f in the one write transaction of the intent file. If f changed
// intent, the revision moves on, and what SetPrepare gave is asked before the
// commit and told of its outcome after it. When Update returns nil the change
// is on disk and live; when it returns an error nothing has changed.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	db.writer.Lock()
	defer db.writer.Unlock()
	if err := db.Healthy(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	btx, err := db.intent.Begin(true)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = btx.Rollback() }() // a no-op once committed; after a panic it undoes
	tx := &Tx{b: btx}
	if err := f(tx); err != nil || !tx.wrote {
		return err
	}
	var pending Pending
	defer func() { // on every path but the good one, a panic included
		if pending != nil {
			pending.Abort()
		}
	}()
	if len(tx.changes) > 0 {
		if err := tx.bumpRevision(); err != nil {
			return err
		}
		if db.prepare != nil {
			if pending, err = db.prepare(ctx, tx); err != nil {
				return err
			}
		}
	}
	if err := db.commit(btx); err != nil {
		return err
	}
	if pending != nil {
		pending.Commit()
		pending = nil
	}
	select {
	case db.committed <- struct{}{}:
	default:
	}
	return nil
}

// Apply asks what SetPrepare gave for the state as it is stored, as at start and
// after a plane lost something. Changes is empty then. No writer runs meanwhile.
func (db *DB) Apply(ctx context.Context) error {
	if db.prepare == nil {
		return nil
	}
	db.writer.Lock()
	defer db.writer.Unlock()
	return db.View(func(tx *Tx) error {
		pending, err := db.prepare(ctx, tx)
		if err == nil {
			pending.Commit()
		}
		return err
	})
}

// UpdateHistory runs f in the one write transaction of the history file.
func (db *DB) UpdateHistory(f func(*Tx) error) error {
	btx, err := db.history.Begin(true) // waits for the one before
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = btx.Rollback() }()
	if err := db.Healthy(); err != nil {
		return err
	}
	if err := f(&Tx{b: btx}); err != nil {
		return err
	}
	return db.commit(btx)
}

func (db *DB) commit(btx *bbolt.Tx) error {
	b, id := btx.DB(), btx.ID()
	return db.committing(b, id, btx.Commit())
}

// committing judges what the commit of transaction id of b came back with. After
// a disk that was full before the header of the file was written, all is as it
// was. After anything else what is on disk is unknown.
func (db *DB) committing(b *bbolt.DB, id int, failed error) error {
	err := writeError(failed)
	if err == nil || model.KindOf(err) == model.KindUnavailable && !reached(b, id) {
		return err
	}
	err = fmt.Errorf("commit: %w", failed)
	db.broken.CompareAndSwap(nil, &err)
	db.log.Error("the store failed to sync; no further writes are taken", "err", err)
	return err
}

// reached reports whether readers of b see transaction id.
func reached(b *bbolt.DB, id int) bool {
	seen := true
	_ = b.View(func(btx *bbolt.Tx) error { seen = btx.ID() >= id; return nil })
	return seen
}

// full are the errors of a disk without room, which heals by itself: the disk
// itself, or a quota.
var full = [...]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT}

// writeError tells a full disk from the rest. Where bbolt makes a file grow, it
// hands on nothing but the text of the error.
func writeError(err error) error {
	if err == nil {
		return nil
	}
	for _, e := range full {
		if errors.Is(err, e) || strings.HasSuffix(err.Error(), e.Error()) {
			return &model.Error{Kind: model.KindUnavailable, Message: "the disk is full; nothing was changed", Err: err}
		}
	}
	return fmt.Errorf("commit: %w", err)
}

func view(b *bbolt.DB, f func(*Tx) error) error {
	return b.View(func(btx *bbolt.Tx) error { return f(&Tx{b: btx}) })
}

func makeDir(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unavailable(err, "the data directory %s cannot be created; set GC_DATA_DIR to a writable place", dir)
	}
	warnIfOpen(dir, 0o700, log)
	return nil
}

// warnIfOpen logs a file that others than its owner can read.
func warnIfOpen(path string, want fs.FileMode, log *slog.Logger) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&^want != 0 {
		log.Warn("others can read what should be private", "path", path, "mode", fi.Mode().Perm(), "want", want)
	}
}

func unavailable(err error, format string, args ...any) error {
	e := model.Failure(model.KindUnavailable, format, args...)
	e.Err = err
	return e
}
