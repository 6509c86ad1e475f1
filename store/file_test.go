package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// usedDir is the directory of a closed store with something in both files.
func usedDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	db := open(t, dir)
	seedPeers(t, db, 200)
	if err := db.UpdateHistory(func(tx *Tx) error {
		for id := model.EventID(1); id <= 200; id++ {
			if err := Activity.Put(tx, &model.Event{ID: id, Type: "x", Message: strings.Repeat("m", 100)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDamagedFile(t *testing.T) {
	page := os.Getpagesize()
	for _, c := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"garbage", func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 4096) }},
		{"text", func([]byte) []byte { return []byte("this is no store") }},
		{"one byte", func(b []byte) []byte { return b[:1] }},
		{"cut inside the first header", func(b []byte) []byte { return b[:40] }},
		{"cut behind the first header", func(b []byte) []byte { return b[:page] }},
		{"cut behind both headers", func(b []byte) []byte { return b[:2*page] }},
		{"cut in half", func(b []byte) []byte { return b[:len(b)/2/page*page] }},
		{"last page missing", func(b []byte) []byte { return b[:len(b)-page] }},
		{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"both headers broken", func(b []byte) []byte { b[20], b[page+20] = ^b[20], ^b[page+20]; return b }},
		{"every page of records zeroed", func(b []byte) []byte { clear(b[2*page:]); return b }},
		{"every page of records random", func(b []byte) []byte {
			r := rand.New(rand.NewPCG(1, 2))
			for i := 2 * page; i < len(b); i++ {
				b[i] = byte(r.Uint32())
			}
			return b
		}},
	} {
		for _, file := range []string{IntentFile, HistoryFile} {
			t.Run(c.name+" "+file, func(t *testing.T) {
				dir := usedDir(t)
				path := filepath.Join(dir, file)
				// As long as its pages in use: bbolt grows files in steps.
				damaged := string(c.damage([]byte(contents(t, path))[:inUse(t, path)]))
				if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
					t.Fatal(err)
				}
				others := otherFiles(t, dir, path)
				_, err := Open(testOptions(t, dir))
				wantUnavailable(t, err, file)
				if contents(t, path) != damaged {
					t.Error("the damaged file was written to")
				}
				if otherFiles(t, dir, path) != others {
					t.Error("another file was written to")
				}
				// Nothing is locked: once a good file is back, it opens.
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				open(t, dir)
			})
		}
	}
}

// inUse is the size of the pages of a file that are in use.
func inUse(t testing.TB, path string) (n int64) {
	t.Helper()
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.View(func(tx *bbolt.Tx) error { n = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func otherFiles(t testing.TB, dir, path string) string {
	t.Helper()
	var all strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if p := filepath.Join(dir, e.Name()); p != path {
			fmt.Fprintf(&all, "%s:%s\n", e.Name(), contents(t, p))
		}
	}
	return all.String()
}

// A flipped bit is either told of, and then nothing is written, or it sits where
// it does no harm to the structure: then everything can still be asked for.
func TestFlippedBits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	dir := usedDir(t)
	path := filepath.Join(dir, IntentFile)
	good := []byte(contents(t, path))
	used, page := int(inUse(t, path)), os.Getpagesize()
	refused := 0
	for n := range 300 {
		at := r.IntN(used)
		if n%2 == 0 { // half of them into the heads of pages, where it hurts
			at = at/page*page + r.IntN(64)
		}
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(testOptions(t, dir))
		if err != nil {
			refused++
			if e, ok := errors.AsType[*model.Error](err); !ok || e.Kind != model.KindUnavailable {
				t.Fatalf("byte %d: error %v", at, err)
			}
			if !bytes.Equal([]byte(contents(t, path)), flipped) {
				t.Fatalf("byte %d: the damaged file was written to", at)
			}
			continue
		}
		read(t, db, func(tx *Tx) error {
			for p, err := range Peers.All(tx) {
				if err == nil {
					_, _ = Peers.Find(tx, "name", p.Name)
				}
			}
			return nil
		})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("no flipped bit was noticed")
	}
	t.Logf("%d of 300 refused", refused)
}

// A bit in a name can make a bucket another one.
func TestMissingBucket(t *testing.T) {
	for _, name := range []string{"peers", "peers.address", "traffic"} {
		t.Run(name, func(t *testing.T) {
			dir := usedDir(t)
			file := IntentFile
			if name == "traffic" {
				file = HistoryFile
			}
			b, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(name)) }); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			before := otherFiles(t, dir, "")
			_, err = Open(testOptions(t, dir))
			wantUnavailable(t, err, file)
			if otherFiles(t, dir, "") != before {
				t.Error("something was written")
			}
		})
	}
}

func TestDamagedHintNamesCopy(t *testing.T) {
	dir := usedDir(t)
	path := filepath.Join(dir, IntentFile)
	for _, p := range []string{path, path + preMigration} {
		if err := os.WriteFile(p, []byte("this is no store"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Open(testOptions(t, dir))
	wantUnavailable(t, err, IntentFile)
	if !strings.Contains(err.Error(), preMigration) {
		t.Errorf("%v does not name the copy beside it", err)
	}
}

func TestCopyUnderWrites(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	// Every write moves one unit from a setting to another; the sum stays.
	update(t, db, func(tx *Tx) error {
		for i := range 4 {
			if err := Settings.Put(tx, &Setting{fmt.Sprint(i), "25"}); err != nil {
				return err
			}
		}
		return nil
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 4))
			for {
				select {
				case <-stop:
					return
				default:
				}
				from, to := r.IntN(4), r.IntN(4)
				if err := db.Update(t.Context(), func(tx *Tx) error {
					if err := add(tx, from, -1); err != nil {
						return err
					}
					return add(tx, to, 1)
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 10 {
		into := t.TempDir()
		path := filepath.Join(into, IntentFile)
		if n%2 == 0 {
			if err := db.CopyTo(path); err != nil {
				t.Fatal(err)
			}
		} else {
			if err := WriteFile(path, func(w io.Writer) error { _, err := db.WriteTo(w); return err }); err != nil {
				t.Fatal(err)
			}
		}
		copied := open(t, into)
		read(t, copied, func(tx *Tx) error {
			sum := 0
			for s, err := range Settings.All(tx) {
				if err != nil {
					return err
				}
				var v int
				if _, err := fmt.Sscan(s.Value, &v); err != nil {
					return err
				}
				sum += v
			}
			if sum != 100 {
				t.Errorf("the copy holds half of a write: sum %d", sum)
			}
			return nil
		})
	}
	close(stop)
	wg.Wait()
}

func add(tx *Tx, key, n int) error {
	s, err := Settings.Get(tx, fmt.Sprint(key))
	if err != nil {
		return err
	}
	var v int
	if _, err := fmt.Sscan(s.Value, &v); err != nil {
		return err
	}
	s.Value = fmt.Sprint(v + n)
	return Settings.Put(tx, s)
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	if err := WriteFile(path, text("one")); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, func(w io.Writer) error {
		if err := text("half of tw")(w); err != nil {
			return err
		}
		return errStop
	}); err != errStop {
		t.Errorf("error %v", err)
	}
	if got := contents(t, path); got != "one" {
		t.Errorf("the file holds %q after a failed write", got)
	}
	if err := WriteFile(path, text("two")); err != nil || contents(t, path) != "two" {
		t.Errorf("%q, %v", contents(t, path), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
	if err := WriteFile(filepath.Join(dir, "missing", "f"), text("x")); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}

// FuzzCheckFile changes a file behind its headers, which have checksums. What the
// check lets through, bbolt must be able to read from end to end, and to write.
func FuzzCheckFile(f *testing.F) {
	dir := f.TempDir()
	db, err := Open(Options{Dir: dir, Sealer: testSealer(f, "5a"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	seedPeers(f, db, 12)
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, IntentFile)
	base := []byte(contents(f, path))[:inUse(f, path)]
	body := 2 * os.Getpagesize()
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(10), []byte{0xff, 0xff})
	f.Add(uint32(os.Getpagesize()), []byte{0xff})
	f.Add(uint32(len(base)-body-1), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		file := bytes.Clone(base)
		for i, c := range change {
			file[body+(int(at)+i)%(len(file)-body)] ^= c
		}
		path := filepath.Join(t.TempDir(), IntentFile)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if checkFile(path) != nil {
			return
		}
		b, err := openBolt(path, &bbolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
				return bucket.ForEach(func(k, v []byte) error { return nil })
			})
		}); err != nil {
			t.Error(err)
		}
		if err := b.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("more"))
			if err != nil {
				return err
			}
			return bucket.Put([]byte("k"), make([]byte, 10_000))
		}); err != nil {
			t.Error(err)
		}
	})
}
