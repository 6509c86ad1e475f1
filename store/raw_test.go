package store

import (
	"bytes"
	"context"
	"testing"
)

func TestRaw(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	contents := func(db *DB, key string) (b []byte) {
		t.Helper()
		for {
			p := make([]byte, 100_000)
			var n int
			var size int64
			read(t, db, func(tx *Tx) error { n, size = Pictures.ReadAt(tx, key, p, int64(len(b))); return nil })
			if size < 0 {
				return nil
			}
			if b = append(b, p[:n]...); int64(len(b)) == size && n < len(p) {
				return b
			}
		}
	}
	size := func(tx *Tx, want int64) {
		t.Helper()
		if got := Pictures.Size(tx); got != want {
			t.Errorf("%d bytes, want %d", got, want)
		}
	}
	put := func(tx *Tx, key string, value []byte) {
		t.Helper()
		if err := Pictures.Put(tx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	update(t, db, func(tx *Tx) error {
		put(tx, "a", large)
		put(tx, "b", []byte("b"))
		size(tx, 2<<20+1)
		put(tx, "a", []byte("a"))
		size(tx, 2)
		put(tx, "a", large)
		return nil
	})
	// What is rolled back was never there.
	if err := db.Update(context.Background(), func(tx *Tx) error {
		put(tx, "c", large)
		if err := Pictures.Delete(tx, "b"); err != nil {
			t.Fatal(err)
		}
		size(tx, 4<<20)
		return errStop
	}); err == nil {
		t.Fatal("it was not rolled back")
	}
	check := func(db *DB) {
		t.Helper()
		if !bytes.Equal(contents(db, "a"), large) || string(contents(db, "b")) != "b" || contents(db, "c") != nil {
			t.Error("the bytes are others")
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	check(db)
	update(t, db, func(tx *Tx) error {
		for _, key := range []string{"a", "none"} {
			if err := Pictures.Delete(tx, key); err != nil {
				t.Fatal(err)
			}
		}
		size(tx, 1)
		return nil
	})
	if contents(db, "a") != nil {
		t.Error("what was deleted is there")
	}
}
