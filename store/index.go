package store

import (
	"bytes"
	"iter"
)

// Entries yields the keys of an index in their order, each with the key of its
// record, beginning at the first one that is not less than from. No record is
// decoded. The table must not be written meanwhile.
func (t *Table[K, V]) Entries(tx *Tx, index, from string) iter.Seq2[string, K] {
	unique := t.unique(index)
	return func(yield func(string, K) bool) {
		c := tx.b.Bucket(indexBucket(t.name, index)).Cursor()
		for k, v := c.Seek([]byte(from)); k != nil; k, v = c.Next() {
			if !unique { // the key of the index, a zero byte, the key of the record
				i := bytes.IndexByte(k, 0)
				k, v = k[:i], k[i+1:]
			}
			if !yield(string(k), decodeKey[K](v)) {
				return
			}
		}
	}
}

// Page returns at most limit records in the order of keys, after passing over
// offset of them, and the number of records in all. Only what it returns is
// decoded; a record that cannot be read is left out of the page.
func (t *Table[K, V]) Page(tx *Tx, limit, offset int) (page []*V, total int) {
	c := tx.b.Bucket([]byte(t.name)).Cursor()
	for k, raw := c.First(); k != nil; k, raw = c.Next() {
		if total >= offset && total-offset < limit {
			if v, err := t.decode(raw); err == nil {
				page = append(page, v)
			}
		}
		total++
	}
	return page, total
}

func (t *Table[K, V]) unique(index string) bool {
	for i := range t.indexes {
		if t.indexes[i].Name == index {
			return t.indexes[i].Unique
		}
	}
	panic("store: " + t.name + " has no index " + index)
}
