package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"gatecontrol/model"
)

// openFile opens one bbolt file, creating it with mode 0600. A file that is there
// is checked first, under a lock that keeps writers out.
func openFile(path string) (_ *bbolt.DB, err error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		createFile(path)
	case err == nil && fi.Size() > 0:
		if err := checkLocked(path); err != nil {
			return nil, err
		}
	}
	b, err := openBolt(path, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	return b, openError(path, err)
}

// createFile makes an empty store aside and gives it its name when it is whole:
// bbolt writes the first pages of a file in place, and one that was killed over
// that could not start again. The name is given by a link, which never replaces
// what another process has made meanwhile. Where none of that works, bbolt
// creates the file itself, or tells why not.
func createFile(path string) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return
	}
	_ = f.Close()
	defer func() { _ = os.Remove(f.Name()) }()
	b, err := openBolt(f.Name(), &bbolt.Options{})
	if err == nil && b.Close() == nil && os.Link(f.Name(), path) == nil {
		_ = syncDir(filepath.Dir(path))
	}
}

func checkLocked(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return openError(path, err)
	}
	_, err = readMeta(f) // before bbolt maps it
	_ = f.Close()
	if err != nil {
		return damaged(path, err)
	}
	b, err := openBolt(path, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true})
	if err != nil {
		return openError(path, err)
	}
	defer b.Close()
	if err := checkFile(path); err != nil {
		return damaged(path, err)
	}
	return nil
}

// openBolt opens path. What bbolt still stumbles over comes back as an error.
func openBolt(path string, o *bbolt.Options) (b *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			b, err = nil, fmt.Errorf("broken structure: %v", r)
		}
	}()
	return bbolt.Open(path, 0o600, o)
}

func openError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return &model.Error{Kind: model.KindConflict, Err: err,
			Message: fmt.Sprintf("another gatecontrol process uses %s; stop it, or give this one a directory of its own with GC_DATA_DIR", path)}
	case errors.Is(err, os.ErrPermission):
		return unavailable(err, "%s cannot be opened by user id %d; give that user the file and its directory", path, os.Getuid())
	}
	return damaged(path, err)
}

func damaged(path string, err error) error {
	hint := "restore a backup or move the file away to start empty"
	if _, serr := os.Stat(path + preMigration); serr == nil {
		hint = "the newest good copy is " + path + preMigration
	}
	return unavailable(err, "%s is damaged and was left as it is; %s", path, hint)
}
