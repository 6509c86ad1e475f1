package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// Series is a bucket of records in the order of time, at most one per
// millisecond.
type Series[V any] struct{ name string }

// Append stores v under the time at, in place of what was there.
func (s *Series[V]) Append(tx *Tx, at time.Time, v *V) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", s.name, err)
	}
	if err := tx.b.Bucket([]byte(s.name)).Put(timeKey(at), raw); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// Between yields the records from the time from up to but not at to, oldest
// first.
func (s *Series[V]) Between(tx *Tx, from, to time.Time) iter.Seq2[*V, error] {
	return func(yield func(*V, error) bool) {
		end := string(timeKey(to))
		c := tx.b.Bucket([]byte(s.name)).Cursor()
		for k, raw := c.Seek(timeKey(from)); k != nil && string(k) < end; k, raw = c.Next() {
			v := new(V)
			err := json.Unmarshal(raw, v)
			if err != nil {
				err = fmt.Errorf("%s: a record cannot be read: %w", s.name, err)
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// Prune deletes at most limit of the records before the time before, oldest
// first, and returns how many.
func (s *Series[V]) Prune(tx *Tx, before time.Time, limit int) (int, error) {
	end := string(timeKey(before))
	c := tx.b.Bucket([]byte(s.name)).Cursor()
	n := 0
	for k, _ := c.First(); k != nil && string(k) < end && n < limit; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return n, fmt.Errorf("%s: %w", s.name, err)
		}
		n++
	}
	return n, nil
}

func (s *Series[V]) buckets() [][]byte { return [][]byte{[]byte(s.name)} }

func timeKey(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(t.UnixMilli(), 0)))
}
