package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
)

// Key is what records are found by: a number that the store assigns, or a text
// that the caller chooses.
type Key interface{ ~int64 | ~string }

// Class says what a change of a table means.
type Class uint8

// The classes of tables.
const (
	Intent  Class = iota // moves the revision and is applied to the planes
	Runtime              // lives beside intent, moves nothing
	History              // lives in the history file
)

// Table is a bucket of records of one type, stored as JSON under their key, with
// its indexes. It holds no state: all of it is in the transaction.
type Table[K Key, V any] struct {
	name    string
	class   Class
	key     func(*V) *K
	indexes []Index[V]
}

// Index finds records by something else than their key. Keys returns the index
// keys of a record: none, one or several. In a unique index no two records
// share a key. An index key must not hold a zero byte.
type Index[V any] struct {
	Name   string
	Unique bool
	Keys   func(*V) []string
}

// DuplicateError reports that a record would share the key of a unique index
// with another one.
type DuplicateError struct{ Table, Index, Key string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%s: another record has the %s %q", e.Table, e.Index, e.Key)
}

// Name returns the name of the table, as Change spells it.
func (t *Table[K, V]) Name() string { return t.name }

// Key decodes the key of a Change of this table.
func (t *Table[K, V]) Key(raw []byte) K { return decodeKey[K](raw) }

// Get returns the record under key, nil if there is none. The record is the
// caller's own.
func (t *Table[K, V]) Get(tx *Tx, key K) (*V, error) {
	raw := tx.b.Bucket([]byte(t.name)).Get(encodeKey(key))
	if raw == nil {
		return nil, nil
	}
	return t.decode(raw)
}

// Insert gives v the next free number, which is never used twice, and stores it.
func (t *Table[K, V]) Insert(tx *Tx, v *V) error {
	n, err := tx.b.Bucket([]byte(t.name)).NextSequence()
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	tx.wrote = true
	*t.key(v) = decodeKey[K](binary.BigEndian.AppendUint64(nil, n))
	return t.Put(tx, v)
}

// Put stores v under its key, in place of what was there. A clash in a unique
// index is a *DuplicateError, and then nothing was stored.
func (t *Table[K, V]) Put(tx *Tx, v *V) error {
	key := encodeKey(*t.key(v))
	records := tx.b.Bucket([]byte(t.name))
	var old *V
	if raw := records.Get(key); raw != nil {
		var err error
		if old, err = t.decode(raw); err != nil {
			return err
		}
	}
	for i := range t.indexes {
		if err := t.indexes[i].check(tx, t.name, key, v); err != nil {
			return err
		}
	}
	for i := range t.indexes {
		if err := t.indexes[i].move(tx, t.name, key, old, v); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", t.name, err)
	}
	if err := records.Put(key, raw); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	t.changed(tx, key)
	return nil
}

// Delete removes the record under key and reports whether there was one.
func (t *Table[K, V]) Delete(tx *Tx, key K) (bool, error) {
	k := encodeKey(key)
	records := tx.b.Bucket([]byte(t.name))
	raw := records.Get(k)
	if raw == nil {
		return false, nil
	}
	old, err := t.decode(raw)
	if err != nil {
		return false, err
	}
	for i := range t.indexes {
		if err := t.indexes[i].move(tx, t.name, k, old, nil); err != nil {
			return false, err
		}
	}
	if err := records.Delete(k); err != nil {
		return false, fmt.Errorf("%s: %w", t.name, err)
	}
	t.changed(tx, k)
	return true, nil
}

// All yields every record in the order of keys. A record that cannot be read
// comes as an error, and the rest still follows. The table must not be written
// meanwhile.
func (t *Table[K, V]) All(tx *Tx) iter.Seq2[*V, error] {
	return func(yield func(*V, error) bool) {
		c := tx.b.Bucket([]byte(t.name)).Cursor()
		for k, raw := c.First(); k != nil; k, raw = c.Next() {
			if !yield(t.decode(raw)) {
				return
			}
		}
	}
}

// Backward yields every record, the highest key first.
func (t *Table[K, V]) Backward(tx *Tx) iter.Seq2[*V, error] {
	return func(yield func(*V, error) bool) {
		c := tx.b.Bucket([]byte(t.name)).Cursor()
		for k, raw := c.Last(); k != nil; k, raw = c.Prev() {
			if !yield(t.decode(raw)) {
				return
			}
		}
	}
}

// Len counts the records, those that tx itself has written included; bbolt's own
// statistics would not see these.
func (t *Table[K, V]) Len(tx *Tx) int {
	n := 0
	c := tx.b.Bucket([]byte(t.name)).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		n++
	}
	return n
}

// Find returns the record with the given key in a unique index, nil if there is
// none.
func (t *Table[K, V]) Find(tx *Tx, index, key string) (*V, error) {
	k := tx.b.Bucket(indexBucket(t.name, index)).Get([]byte(key))
	if k == nil {
		return nil, nil
	}
	return t.Get(tx, decodeKey[K](k))
}

// FindAll returns the records with the given key in an index that is not
// unique, in the order of their keys.
func (t *Table[K, V]) FindAll(tx *Tx, index, key string) ([]*V, error) {
	prefix := append([]byte(key), 0)
	var out []*V
	c := tx.b.Bucket(indexBucket(t.name, index)).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		v, err := t.Get(tx, decodeKey[K](k[len(prefix):]))
		if err != nil {
			return nil, err
		}
		if v != nil {
			out = append(out, v)
		}
	}
	return out, nil
}

func (t *Table[K, V]) decode(raw []byte) (*V, error) {
	v := new(V)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("%s: a record cannot be read: %w", t.name, err)
	}
	return v, nil
}

func (t *Table[K, V]) changed(tx *Tx, key []byte) {
	tx.wrote = true
	if t.class == Intent {
		tx.changes = append(tx.changes, Change{t.name, key})
	}
}

// buckets names the bucket of the records and those of the indexes.
func (t *Table[K, V]) buckets() [][]byte {
	names := [][]byte{[]byte(t.name)}
	for i := range t.indexes {
		names = append(names, indexBucket(t.name, t.indexes[i].Name))
	}
	return names
}

func (x *Index[V]) check(tx *Tx, table string, key []byte, v *V) error {
	if !x.Unique {
		return nil
	}
	b := tx.b.Bucket(indexBucket(table, x.Name))
	for _, k := range x.Keys(v) {
		if owner := b.Get([]byte(k)); owner != nil && !bytes.Equal(owner, key) {
			return &DuplicateError{table, x.Name, k}
		}
	}
	return nil
}

// move takes the entries of old out and puts those of v in; either may be nil.
func (x *Index[V]) move(tx *Tx, table string, key []byte, old, v *V) error {
	b := tx.b.Bucket(indexBucket(table, x.Name))
	entry := func(k string) ([]byte, []byte) {
		if x.Unique {
			return []byte(k), key
		}
		return append(append([]byte(k), 0), key...), nil
	}
	if old != nil {
		for _, k := range x.Keys(old) {
			ek, _ := entry(k)
			if err := b.Delete(ek); err != nil {
				return fmt.Errorf("%s.%s: %w", table, x.Name, err)
			}
		}
	}
	if v != nil {
		for _, k := range x.Keys(v) {
			ek, ev := entry(k)
			if err := b.Put(ek, ev); err != nil {
				return fmt.Errorf("%s.%s: %w", table, x.Name, err)
			}
		}
	}
	return nil
}

// encodeKey gives numbers eight bytes, most significant first, so that they
// sort as numbers.
func encodeKey[K Key](k K) []byte {
	v := reflect.ValueOf(k)
	if v.Kind() == reflect.String {
		return []byte(v.String())
	}
	return binary.BigEndian.AppendUint64(nil, uint64(v.Int()))
}

func decodeKey[K Key](raw []byte) (k K) {
	v := reflect.ValueOf(&k).Elem()
	if v.Kind() == reflect.String {
		v.SetString(string(raw))
	} else if len(raw) == 8 {
		v.SetInt(int64(binary.BigEndian.Uint64(raw)))
	}
	return k
}

func indexBucket(table, index string) []byte { return []byte(table + "." + index) }
