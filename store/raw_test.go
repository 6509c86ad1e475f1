package store

import (
	"bytes"
	"context"
	"testing"
)

func TestRaw(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	large := make([]byte, 2<<20)
	for i := range large {
		large[i] = byte(i % 251) // so that every piece begins with another one
	}
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
	update(t, db, func(tx *Tx) error {
		put(tx, "bb", large[:pieceSize])
		put(tx, "bbb", nil)
		return Pictures.Delete(tx, "b")
	})
	if !bytes.Equal(contents(db, "bb"), large[:pieceSize]) || contents(db, "b") != nil {
		t.Error("a key is taken for one that it begins with")
	}
	read(t, db, func(tx *Tx) error {
		if n, size := Pictures.ReadAt(tx, "bbb", large[:1], 0); n != 0 || size != 0 {
			t.Errorf("of nothing: %d of %d", n, size)
		}
		if n, size := Pictures.ReadAt(tx, "bb", make([]byte, 9), pieceSize-4); n != 4 || size != pieceSize {
			t.Errorf("at the end: %d of %d", n, size)
		}
		return nil
	})
}

// TestRawNeighbours: what is large is not written again with what is beside it.
func TestRawNeighbours(t *testing.T) {
	db := open(t, t.TempDir())
	const size = 1 << 20
	write := func(f func(*Tx) error) int64 {
		t.Helper()
		before := db.intent.Stats()
		update(t, db, f)
		after := db.intent.Stats()
		return after.TxStats.GetPageAlloc() - before.TxStats.GetPageAlloc()
	}
	for _, key := range []string{"a", "c", "e", "g"} {
		update(t, db, func(tx *Tx) error { return Pictures.Put(tx, key, bytes.Repeat([]byte(key), size)) })
	}
	if n := write(func(tx *Tx) error { return Pictures.Put(tx, "d", bytes.Repeat([]byte("d"), size)) }); n > 2*size {
		t.Errorf("%d bytes are written for one of %d", n, size)
	}
	if n := write(func(tx *Tx) error { return Pictures.Delete(tx, "c") }); n > size {
		t.Errorf("%d bytes are written to delete one of %d", n, size)
	}
	read(t, db, func(tx *Tx) error {
		for _, key := range []string{"a", "d", "e", "g"} {
			b := make([]byte, size+1)
			if n, all := Pictures.ReadAt(tx, key, b, 0); n != size || all != size || !bytes.Equal(b[:n], bytes.Repeat([]byte(key), size)) {
				t.Errorf("%s has %d bytes of %d, or others", key, n, all)
			}
		}
		return nil
	})
}
