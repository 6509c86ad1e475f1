package store

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// Tx is a transaction on one of the files. It is valid only inside the function
// that it was handed to, and for one goroutine.
type Tx struct {
	b       *bbolt.Tx
	wrote   bool // anything at all; a commit without that would only cost a sync
	changes []Change
}

// Change names a record of an intent table that a transaction wrote or deleted.
type Change struct {
	Table string
	Key   []byte
}

// Changes lists what the transaction did to intent tables so far, in order; a
// record may appear more than once.
func (tx *Tx) Changes() []Change { return tx.changes }

var (
	metaBucket  = []byte("meta")
	revisionKey = []byte("revision")
	schemaKey   = []byte("schema")
)

// Revision returns the number of the state that tx sees. Inside Update it is
// the number that the change will have, once PrepareFunc is asked.
func (tx *Tx) Revision() model.Revision { return model.Revision(tx.metaNumber(revisionKey)) }

func (tx *Tx) bumpRevision() error {
	return tx.setMetaNumber(revisionKey, uint64(tx.Revision())+1)
}

func (tx *Tx) metaNumber(key []byte) uint64 {
	b := tx.b.Bucket(metaBucket)
	if b == nil {
		return 0
	}
	if v := b.Get(key); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (tx *Tx) setMetaNumber(key []byte, n uint64) error {
	b, err := tx.b.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}
