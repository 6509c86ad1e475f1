package store

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// WriteTo writes a consistent copy of the intent file while the store serves.
// The copy is itself a store file.
func (db *DB) WriteTo(w io.Writer) (n int64, err error) {
	err = db.intent.View(func(tx *bbolt.Tx) error {
		n, err = tx.WriteTo(w)
		return err
	})
	return n, err
}

// CopyTo writes a consistent copy of the intent file to path. The copy appears
// whole or not at all.
func (db *DB) CopyTo(path string) error { return copyFile(db.intent, path) }

func copyFile(b *bbolt.DB, path string) error {
	err := WriteFile(path, func(w io.Writer) error {
		return b.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", b.Path(), err)
	}
	return nil
}

// WriteFile writes a file with mode 0600 that appears whole, synced and under
// its name, or not at all.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename inside dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
