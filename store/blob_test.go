package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestBlobs(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	db := open(t, dir)
	b := db.Blobs()
	if _, _, err := b.Load(ctx, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	secret := []byte("-----BEGIN a very private key")
	if err := b.Save(ctx, map[string][]byte{"a/b/c": secret, "a/b/d": []byte("2"), "a/bb": nil, "b": []byte("4")}); err != nil {
		t.Fatal(err)
	}
	if v, at, err := b.Load(ctx, "a/b/c"); err != nil || !bytes.Equal(v, secret) || at.IsZero() {
		t.Errorf("%q %v %v", v, at, err)
	}
	if v, _, err := b.Load(ctx, "a/bb"); err != nil || len(v) != 0 {
		t.Errorf("an empty item: %q %v", v, err)
	}
	if keys, err := b.List(ctx, "a/b"); err != nil || !slices.Equal(keys, []string{"a/b/c", "a/b/d", "a/bb"}) {
		t.Errorf("%q %v", keys, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, IntentFile))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, secret[:20]) {
		t.Error("a key is in the file in the clear")
	}
	if err := b.Delete(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	if keys, err := b.List(ctx, ""); err != nil || !slices.Equal(keys, []string{"a/bb", "b"}) {
		t.Errorf("after deleting a/b: %q %v", keys, err)
	}
	if err := errors.Join(b.Delete(ctx, "none"), b.Delete(ctx, "a/bb")); err != nil {
		t.Error(err)
	}
}

// TestBlobsAreWhole: of items that are saved together, nothing is seen if one of
// them cannot be, and no revision is moved.
func TestBlobsAreWhole(t *testing.T) {
	ctx := context.Background()
	db := open(t, t.TempDir())
	b := db.Blobs()
	if err := b.Save(ctx, map[string][]byte{"cert": []byte("old"), "key": []byte("old")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Save(ctx, map[string][]byte{"cert": []byte("new"), "key": make([]byte, maxBlobSize+1)}); err == nil {
		t.Error("an item that is too large was saved")
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := b.Save(stopped, map[string][]byte{"cert": []byte("new"), "key": []byte("new")}); err == nil {
		t.Error("saved after the end")
	}
	// A crash in the middle of the transaction is a transaction that is not
	// committed: that of a panic is rolled back in the same way.
	func() {
		defer func() { _ = recover() }()
		_ = db.Update(ctx, func(tx *Tx) error {
			if err := CertItems.Put(tx, &CertItem{Key: "cert", Value: db.sealer.Seal([]byte("new"))}); err != nil {
				t.Error(err)
			}
			panic("killed between two items")
		})
	}()
	for _, key := range []string{"cert", "key"} {
		if v, _, err := b.Load(ctx, key); err != nil || string(v) != "old" {
			t.Errorf("%s is %q, %v", key, v, err)
		}
	}
	read(t, db, func(tx *Tx) error {
		if tx.Revision() != 0 {
			t.Errorf("the revision is %d", tx.Revision())
		}
		return nil
	})
}
