package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Bounds of an item. A chain with its key is about 8 KiB.
const (
	maxBlobKey  = 1 << 10
	maxBlobSize = 1 << 20
)

// Blobs keeps the items of certificates by path, sealed, since most of them are or
// hold keys. Its methods may be called from any goroutine.
type Blobs struct {
	db  *DB
	now func() time.Time
}

// Blobs returns the items of certificates in this store.
func (db *DB) Blobs() *Blobs { return &Blobs{db: db, now: time.Now} }

// Load returns an item and when it was saved; fs.ErrNotExist if there is none.
func (b *Blobs) Load(_ context.Context, key string) (value []byte, modified time.Time, err error) {
	err = b.db.View(func(tx *Tx) error {
		item, err := CertItems.Get(tx, key)
		if err != nil {
			return err
		}
		if item == nil {
			return fs.ErrNotExist
		}
		modified = item.Modified
		value, err = b.db.sealer.Open(item.Value)
		return err
	})
	return value, modified, err
}

// Save puts items in the place of what was there, all of them or none.
func (b *Blobs) Save(ctx context.Context, items map[string][]byte) error {
	list := make([]CertItem, 0, len(items))
	now := b.now().UTC()
	for key, value := range items {
		if len(key) == 0 || len(key) > maxBlobKey || len(value) > maxBlobSize {
			return fmt.Errorf("an item of %d bytes under a key of %d is too large", len(value), len(key))
		}
		list = append(list, CertItem{Key: key, Value: b.db.sealer.Seal(value), Modified: now})
	}
	return b.db.Update(ctx, func(tx *Tx) error {
		for i := range list {
			if err := CertItems.Put(tx, &list[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete removes the item under key and all of those below it, whose keys go on
// with a slash. That there is none is no error.
func (b *Blobs) Delete(ctx context.Context, key string) error {
	return b.db.Update(ctx, func(tx *Tx) error {
		_, err := CertItems.Delete(tx, key)
		for _, below := range CertItems.below(tx, strings.TrimSuffix(key, "/")+"/") {
			_, failed := CertItems.Delete(tx, below)
			err = errors.Join(err, failed)
		}
		return err
	})
}

// List returns the keys that begin with prefix, in their order.
func (b *Blobs) List(_ context.Context, prefix string) (keys []string, err error) {
	err = b.db.View(func(tx *Tx) error {
		keys = CertItems.below(tx, prefix)
		return nil
	})
	return keys, err
}

// below returns the keys that begin with prefix, without reading the records.
func (t *Table[K, V]) below(tx *Tx, prefix string) (keys []K) {
	c := tx.b.Bucket([]byte(t.name)).Cursor()
	for k, _ := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
		keys = append(keys, decodeKey[K](k))
	}
	return keys
}
