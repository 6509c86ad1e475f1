package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatecontrol/model"
)

func putSetting(key, value string) func(*Tx) error {
	return func(tx *Tx) error { return Settings.Put(tx, &Setting{key, value}) }
}

func setting(t testing.TB, db *DB, key string) (value string) {
	t.Helper()
	read(t, db, func(tx *Tx) error {
		s, err := Settings.Get(tx, key)
		if s != nil {
			value = s.Value
		}
		return err
	})
	return value
}

func revision(t testing.TB, db *DB) (r model.Revision) {
	t.Helper()
	read(t, db, func(tx *Tx) error { r = tx.Revision(); return nil })
	return r
}

func TestReopenKeeps(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	update(t, db, putSetting("a", "1"))
	if err := db.UpdateHistory(func(tx *Tx) error {
		return Activity.Put(tx, &model.Event{ID: 7, Type: "x", At: time.Unix(1, 0).UTC()})
	}); err != nil {
		t.Fatal(err)
	}
	rev := revision(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	if got := setting(t, db, "a"); got != "1" {
		t.Errorf("the setting is %q", got)
	}
	if got := revision(t, db); got != rev || rev == 0 {
		t.Errorf("revision %d after %d", got, rev)
	}
	if err := db.ViewHistory(func(tx *Tx) error {
		e, err := Activity.Get(tx, 7)
		if e == nil || e.Type != "x" {
			t.Errorf("the event is %+v", e)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateError(t *testing.T) {
	db := open(t, t.TempDir())
	before := revision(t, db)
	err := db.Update(t.Context(), func(tx *Tx) error {
		if err := Settings.Put(tx, &Setting{"a", "1"}); err != nil {
			return err
		}
		return errStop
	})
	if err != errStop || setting(t, db, "a") != "" || revision(t, db) != before {
		t.Errorf("%v; %q at revision %d", err, setting(t, db, "a"), revision(t, db))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Update(ctx, putSetting("a", "1")); err != context.Canceled {
		t.Errorf("with a context that ended: %v", err)
	}
}

// outcome counts what became of what was prepared.
type outcome struct{ prepared, committed, aborted int }

func (o *outcome) Commit() { o.committed++ }
func (o *outcome) Abort()  { o.aborted++ }

func TestPrepare(t *testing.T) {
	put := putSetting("a", "1")
	for _, c := range []struct {
		name string
		f    func(*Tx) error
		err  error // of prepare
		lost bool  // the commit fails
		want outcome
		rev  model.Revision // how far it moves
		ok   bool
	}{
		{name: "a change", f: put, want: outcome{1, 1, 0}, rev: 1, ok: true},
		{name: "two changes", f: func(tx *Tx) error { return Settings.Put(tx, &Setting{"b", ""}) }, want: outcome{1, 1, 0}, rev: 1, ok: true},
		{name: "no change", f: func(*Tx) error { return nil }, ok: true},
		{name: "a change of runtime alone", f: func(tx *Tx) error { return Counters.Put(tx, &model.PeerCounters{ID: 1}) }, ok: true},
		{name: "deleting what is not there", f: func(tx *Tx) error { _, err := Settings.Delete(tx, "x"); return err }, ok: true},
		{name: "a change that fails", f: func(tx *Tx) error { _ = put(tx); return errStop }},
		{name: "refused", f: put, err: errStop, want: outcome{1, 0, 0}},
		{name: "a commit that fails", f: put, lost: true, want: outcome{1, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := open(t, t.TempDir())
			before := revision(t, db)
			var got outcome
			db.SetPrepare(func(_ context.Context, tx *Tx) (Pending, error) {
				got.prepared++
				if tx.Revision() != before+1 {
					t.Errorf("prepare sees revision %d after %d", tx.Revision(), before)
				}
				if len(tx.Changes()) == 0 {
					t.Error("prepare sees no changes")
				}
				if c.lost {
					_ = tx.b.Rollback() // what is left to commit is gone
				}
				if c.err != nil {
					return nil, c.err
				}
				return &got, nil
			})
			err := db.Update(t.Context(), c.f)
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if r := revision(t, db); r != before+c.rev {
				t.Errorf("revision %d after %d", r, before)
			}
			if !c.ok && setting(t, db, "a") != "" {
				t.Error("something was stored")
			}
			if !c.lost {
				update(t, db, func(*Tx) error { return nil }) // the writer is free
				return
			}
			// Nobody knows what is on disk after a failed sync.
			for _, err := range []error{db.Healthy(), db.Update(t.Context(), put)} {
				if model.KindOf(err) != model.KindUnavailable {
					t.Errorf("after a failed commit: %v", err)
				}
			}
		})
	}
}

func TestApply(t *testing.T) {
	db := open(t, t.TempDir())
	before := revision(t, db)
	var got outcome
	fail := true
	db.SetPrepare(func(_ context.Context, tx *Tx) (Pending, error) {
		if len(tx.Changes()) != 0 || tx.Revision() != before {
			t.Errorf("%d changes at revision %d", len(tx.Changes()), tx.Revision())
		}
		if fail {
			return nil, errStop
		}
		return &got, nil
	})
	if err := db.Apply(t.Context()); err != errStop {
		t.Errorf("error %v", err)
	}
	fail = false
	if err := db.Apply(t.Context()); err != nil || got != (outcome{0, 1, 0}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPanicRollsBack(t *testing.T) {
	db := open(t, t.TempDir())
	try := func(f func(*Tx) error) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_ = db.Update(t.Context(), f)
	}
	try(func(tx *Tx) error {
		_ = Settings.Put(tx, &Setting{"a", "1"})
		panic("in the middle")
	})
	db.SetPrepare(func(context.Context, *Tx) (Pending, error) { panic("in prepare") })
	try(putSetting("a", "2"))
	db.SetPrepare(nil)
	if got := setting(t, db, "a"); got != "" {
		t.Errorf("%q is stored", got)
	}
	update(t, db, putSetting("a", "3")) // the writer is free
	if got := setting(t, db, "a"); got != "3" {
		t.Errorf("%q is stored", got)
	}
}

// One Update at a time, its Commit included: what was prepared for revision n is
// live before n+1 is prepared.
func TestUpdatesDoNotOverlap(t *testing.T) {
	db := open(t, t.TempDir())
	var inside atomic.Int32
	db.SetPrepare(func(context.Context, *Tx) (Pending, error) {
		if inside.Add(1) != 1 {
			t.Error("two updates at once")
		}
		return pendingFunc(func() { inside.Add(-1) }), nil
	})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 10 {
				if err := db.Update(t.Context(), putSetting(fmt.Sprint(i), fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if r := revision(t, db); r != 40 {
		t.Errorf("revision %d after 40 changes", r)
	}
}

type pendingFunc func()

func (f pendingFunc) Commit() { f() }
func (f pendingFunc) Abort()  { f() }

func TestCommittedSignal(t *testing.T) {
	db := open(t, t.TempDir())
	<-db.Committed() // from opening
	for range 3 {
		update(t, db, putSetting("a", "1"))
	}
	<-db.Committed()
	select {
	case <-db.Committed():
		t.Error("a second signal without a commit")
	default:
	}
}

func TestSecondOpen(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	start := time.Now()
	db, err := Open(testOptions(t, dir))
	if err == nil {
		_ = db.Close()
	}
	if model.KindOf(err) != model.KindConflict {
		t.Errorf("error %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("told after %s", d)
	}
}

// A close while another process holds nothing lets the next one in at once.
func TestOpenWaitsForClose(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	done := make(chan error, 1)
	go func() {
		next, err := Open(testOptions(t, dir))
		if err == nil {
			err = next.Close()
		}
		done <- err
	}()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	sealer, err := LoadSealer(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(Options{Dir: dir, Sealer: sealer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.CopyTo(filepath.Join(dir, "copy.db")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		"": 0o700, IntentFile: 0o600, HistoryFile: 0o600, KeyFile: 0o600, "copy.db": 0o600,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
}

func TestWideModeIsToldOf(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	db, err := Open(Options{Dir: dir, Sealer: testSealer(t, "5a"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !bytes.Contains(log.Bytes(), []byte("level=WARN")) || !bytes.Contains(log.Bytes(), []byte(dir)) {
		t.Errorf("log: %s", log.String())
	}
}

func TestDirThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(testOptions(t, filepath.Join(file, "data")))
	wantUnavailable(t, err, "data")
}

// seedPeers stores n peers, as large as real ones.
func seedPeers(t testing.TB, db *DB, n int) {
	t.Helper()
	sealer := db.Sealer()
	private, preshared := sealer.SealKey(model.NewPrivateKey()), sealer.SealKey(model.NewPresharedKey())
	update(t, db, func(tx *Tx) error {
		for i := range n {
			var p model.Peer
			if err := json.Unmarshal(fmt.Appendf(nil, `{"name":"peer %d","allowed_ips":["10.8.%d.%d/32"]}`, i, i>>8, i&255), &p); err != nil {
				return err
			}
			p.Enabled, p.PublicKey = true, model.PublicKey{byte(i), byte(i >> 8), 1}
			p.PrivateKey, p.PresharedKey, p.CreatedAt, p.UpdatedAt = private, preshared, time.Unix(1, 0), time.Unix(2, 0)
			if err := Peers.Insert(tx, &p); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkUpdateOneOf10000(b *testing.B) {
	db := open(b, b.TempDir())
	seedPeers(b, db, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := db.Update(b.Context(), func(tx *Tx) error {
			p, err := Peers.Get(tx, 5000)
			if err != nil {
				return err
			}
			p.Enabled = !p.Enabled
			return Peers.Put(tx, p)
		}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetOf10000(b *testing.B) {
	db := open(b, b.TempDir())
	seedPeers(b, db, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := db.View(func(tx *Tx) error { _, err := Peers.Get(tx, 5000); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAll10000(b *testing.B) {
	db := open(b, b.TempDir())
	seedPeers(b, db, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := db.View(func(tx *Tx) error {
			n := 0
			for _, err := range Peers.All(tx) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 10_000 {
				b.Fatal(n)
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLen10000(b *testing.B) {
	db := open(b, b.TempDir())
	seedPeers(b, db, 10_000)
	b.ReportAllocs()
	read(b, db, func(tx *Tx) error {
		for b.Loop() {
			if Peers.Len(tx) != 10_000 {
				b.Fatal()
			}
		}
		return nil
	})
}
