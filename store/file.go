package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"gatecontrol/model"
)

// maxChecked is the size up to which every page of a file is walked at start.
// Beyond it, which only long histories reach, the walk would delay the start;
// the meta pages and the size are checked always.
const maxChecked = 32 << 20

// openFile opens one bbolt file, creating it with mode 0600. bbolt maps the
// file into memory and trusts it, so what could fault is looked at first.
func openFile(path string) (_ *bbolt.DB, err error) {
	if err := checkMeta(path); err != nil {
		return nil, damaged(path, err)
	}
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bbolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, &model.Error{Kind: model.KindConflict, Err: err,
			Message: fmt.Sprintf("another gatecontrol process uses %s; stop it, or give this one a directory of its own with GC_DATA_DIR", path)}
	case errors.Is(err, os.ErrPermission):
		return nil, unavailable(err, "%s cannot be opened by user id %d; give that user the file and its directory", path, os.Getuid())
	case err != nil:
		return nil, damaged(path, err)
	}
	if err := checkPages(b); err != nil {
		_ = b.Close()
		return nil, damaged(path, err)
	}
	return b, nil
}

func damaged(path string, err error) error {
	hint := "restore a backup or move the file away to start empty"
	if _, serr := os.Stat(path + preMigration); serr == nil {
		hint = "the newest good copy is " + path + preMigration
	}
	return unavailable(err, "%s is damaged and was left as it is; %s", path, hint)
}

// Layout of bbolt's two meta pages (bbolt internal/common): a page header of 16
// bytes, then the record below, in the byte order of the machine.
const (
	pageHeader  = 16
	metaMagic   = 0xED0CDAED
	metaSummed  = 56 // bytes under the FNV-1a checksum
	metaSize    = metaSummed + 8
	minPageSize = 512
	maxPageSize = 1 << 20
)

// checkMeta refuses a file whose valid meta pages point behind its end, which
// bbolt would only notice as a memory fault, and one with no valid meta page.
// A missing or empty file is fine.
func checkMeta(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil // the latter gets its own message when bbolt opens the file
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	first := make([]byte, pageHeader+metaSize)
	if _, err := io.ReadFull(f, first); err != nil {
		return fmt.Errorf("too short for a store")
	}
	pageSize := int64(os.Getpagesize())
	if size := int64(binary.NativeEndian.Uint32(first[pageHeader+8:])); size >= minPageSize && size <= maxPageSize {
		pageSize = size
	}
	second := make([]byte, pageHeader+metaSize)
	_, _ = f.ReadAt(second, pageSize)
	valid := false
	for _, page := range [][]byte{first, second} {
		m := page[pageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaSummed])
		if binary.NativeEndian.Uint32(m) != metaMagic || binary.NativeEndian.Uint64(m[metaSummed:]) != sum.Sum64() {
			continue
		}
		valid = true
		if used := int64(binary.NativeEndian.Uint64(m[40:])); used*pageSize > fi.Size() {
			return fmt.Errorf("%d bytes, but its last page ends at %d", fi.Size(), used*pageSize)
		}
	}
	if !valid {
		return fmt.Errorf("not a store, or both of its headers are broken")
	}
	return nil
}

// checkPages walks the whole file. A page that lies makes bbolt panic or touch
// memory behind the map; both come back as an error.
func checkPages(b *bbolt.DB) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("broken structure: %v", r)
		}
	}()
	return b.View(func(tx *bbolt.Tx) error {
		if tx.Size() > maxChecked {
			return nil
		}
		var first error
		for err := range tx.Check() { // drain, or its goroutine never ends
			if first == nil {
				first = err
			}
		}
		return first
	})
}
