package certs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// Storage keeps items by path, durably, and secretly: most of them are keys.
type Storage interface {
	// Load returns an item and when it was saved, fs.ErrNotExist if there is none.
	Load(ctx context.Context, key string) (value []byte, modified time.Time, err error)
	// Save puts items in the place of what was there: all, or none of them.
	Save(ctx context.Context, items map[string][]byte) error
	// Delete removes an item and all that are below its key.
	Delete(ctx context.Context, key string) error
	// List returns the keys that begin with prefix.
	List(ctx context.Context, prefix string) ([]string, error)
}

// items is a Storage as certmagic wants one.
//
// Its locks are in memory: one process uses a store, and where that dies its locks
// are gone with it, so none can be stale. The chain, the key and the notes of a
// certificate come one after the other, with the notes last; they are saved
// together, so that a crash leaves all of the old or all of the new.
type items struct {
	Storage

	mu    sync.Mutex
	locks map[string]chan struct{}
	held  map[string]map[string][]byte // by directory, what waits for its notes
	kept  map[string]bool              // keys whose new value could not be saved
}

var _ certmagic.Storage = (*items)(nil)

func newItems(s Storage) *items {
	return &items{Storage: s, locks: make(map[string]chan struct{}), held: make(map[string]map[string][]byte), kept: make(map[string]bool)}
}

// certsPrefix is where certmagic keeps certificates, each in a directory.
const certsPrefix = "certificates/"

func (i *items) Lock(ctx context.Context, name string) error {
	for {
		i.mu.Lock()
		released, taken := i.locks[name]
		if !taken {
			i.locks[name] = make(chan struct{})
			i.mu.Unlock()
			return nil
		}
		i.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (i *items) Unlock(_ context.Context, name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	released, taken := i.locks[name]
	if !taken {
		return errors.New("certs: the lock is not held")
	}
	delete(i.locks, name)
	close(released)
	return nil
}

func (i *items) Store(ctx context.Context, key string, value []byte) error {
	if !strings.HasPrefix(key, certsPrefix) {
		return i.Save(ctx, map[string][]byte{key: value})
	}
	dir := path.Dir(key)
	i.mu.Lock()
	group := i.held[dir]
	if group == nil {
		group = make(map[string][]byte)
		i.held[dir] = group
	}
	group[key] = value
	delete(i.kept, key)
	whole := strings.HasSuffix(key, ".json")
	if whole {
		delete(i.held, dir)
	}
	i.mu.Unlock()
	if !whole {
		return nil
	}
	err := i.Save(ctx, group)
	if err != nil {
		// certmagic will delete what it believes to have written. That is what was
		// there before.
		i.mu.Lock()
		for key := range group {
			i.kept[key] = true
		}
		i.mu.Unlock()
	}
	return err
}

func (i *items) Load(ctx context.Context, key string) ([]byte, error) {
	value, _, err := i.Storage.Load(ctx, key)
	return value, err
}

func (i *items) Delete(ctx context.Context, key string) error {
	i.mu.Lock()
	delete(i.held, path.Dir(key)) // what was to replace it was given up
	kept := i.kept[key]
	delete(i.kept, key)
	i.mu.Unlock()
	if kept {
		return nil
	}
	return i.Storage.Delete(ctx, key)
}

func (i *items) Exists(ctx context.Context, key string) bool {
	if _, _, err := i.Storage.Load(ctx, key); err == nil {
		return true
	}
	below, err := i.Storage.List(ctx, key+"/")
	return err == nil && len(below) > 0
}

// List gives the directories, too, as a file system would.
func (i *items) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	if dir == "" {
		prefix = ""
	}
	keys, err := i.Storage.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fs.ErrNotExist
	}
	seen := make(map[string]bool, len(keys))
	var list []string
	add := func(key string) {
		if !seen[key] {
			seen[key] = true
			list = append(list, key)
		}
	}
	for _, key := range keys {
		rest := strings.TrimPrefix(key, prefix)
		for n, c := range rest {
			if c != '/' {
				continue
			}
			if add(prefix + rest[:n]); !recursive {
				break
			}
		}
		if recursive || !strings.Contains(rest, "/") {
			add(key)
		}
	}
	return list, nil
}

func (i *items) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, modified, err := i.Storage.Load(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: modified, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if below, failed := i.Storage.List(ctx, key+"/"); failed == nil && len(below) > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, err
}
