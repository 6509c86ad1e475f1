package store

import "fmt"

// Raw is a bucket of bytes as they are, under the name by which a record of a
// table refers to them. They are written and deleted in the transaction of that
// record, so that neither is there without the other.
type Raw struct{ name string }

// ReadAt copies what is at an offset of the bytes under key into p, and returns
// how much, and how many bytes there are in all: -1 if there is no such key.
func (r *Raw) ReadAt(tx *Tx, key string, p []byte, offset int64) (n int, size int64) {
	b := tx.b.Bucket([]byte(r.name)).Get([]byte(key))
	if b == nil {
		return 0, -1
	}
	if offset < int64(len(b)) {
		n = copy(p, b[offset:])
	}
	return n, int64(len(b))
}

// Put stores value, which must not be changed before tx has ended, under key.
func (r *Raw) Put(tx *Tx, key string, value []byte) error {
	tx.wrote = true
	if err := tx.b.Bucket([]byte(r.name)).Put([]byte(key), value); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// Delete removes what is under key. That there is nothing is no error.
func (r *Raw) Delete(tx *Tx, key string) error {
	tx.wrote = true
	if err := tx.b.Bucket([]byte(r.name)).Delete([]byte(key)); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// Size returns how many bytes there are under all keys, those that tx itself has
// written included.
func (r *Raw) Size(tx *Tx) (size int64) {
	c := tx.b.Bucket([]byte(r.name)).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		size += int64(len(v))
	}
	return size
}

func (r *Raw) buckets() [][]byte { return [][]byte{[]byte(r.name)} }
