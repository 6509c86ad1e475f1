package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
)

// pieceSize is how bytes are cut. bbolt writes up to four neighbours in one go
// when one of them changes, and looks for that much room in one place.
const pieceSize = 64 << 10

// Raw is a bucket of bytes as they are, under the name by which a record of a
// table refers to them. They are written and deleted in the transaction of that
// record, so that neither is there without the other. A name has no zero byte.
//
// They are stored in pieces, whose keys are the name, a zero byte, and their number
// in four bytes, big-endian, so that they are in order.
type Raw struct{ name string }

// pieces yields the keys and values of the pieces of key in their order. The
// bucket must not be changed meanwhile.
func (r *Raw) pieces(tx *Tx, key string) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		prefix := append([]byte(key), 0)
		c := tx.b.Bucket([]byte(r.name)).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && yield(k, v); k, v = c.Next() {
		}
	}
}

// ReadAt copies what is at an offset of the bytes under key into p, and returns
// how much, and how many bytes there are in all: -1 if there is no such key.
func (r *Raw) ReadAt(tx *Tx, key string, p []byte, offset int64) (n int, size int64) {
	size = -1
	for _, v := range r.pieces(tx, key) {
		size = max(size, 0)
		if at := offset + int64(n) - size; n < len(p) && at < int64(len(v)) {
			n += copy(p[n:], v[at:])
		}
		size += int64(len(v))
	}
	return n, size
}

// Put stores value, which must not be changed before tx has ended, under key.
func (r *Raw) Put(tx *Tx, key string, value []byte) error {
	if err := r.Delete(tx, key); err != nil {
		return err
	}
	b := tx.b.Bucket([]byte(r.name))
	for i := uint32(0); i == 0 || len(value) > 0; i++ {
		n := min(len(value), pieceSize)
		if err := b.Put(binary.BigEndian.AppendUint32(append([]byte(key), 0), i), value[:n]); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		value = value[n:]
	}
	return nil
}

// Delete removes what is under key. That there is nothing is no error.
func (r *Raw) Delete(tx *Tx, key string) error {
	tx.wrote = true
	var keys [][]byte
	for k := range r.pieces(tx, key) {
		keys = append(keys, k)
	}
	for _, k := range keys {
		if err := tx.b.Bucket([]byte(r.name)).Delete(k); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
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
