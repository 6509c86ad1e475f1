// Package geoip tells the country of an address by a local database in MaxMind's
// format (https://maxmind.github.io/MaxMind-DB/), as MaxMind, DB-IP and IPinfo give
// them away. It asks nobody. A newer file at the same path is taken as it comes.
// Of ours it imports nothing.
package geoip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	// checkInterval is how often the file is looked at: one stat costs nothing, and
	// a database is a week old when it is new.
	checkInterval = 10 * time.Second
	// maxSize bounds what is read into memory. Databases of countries have less than
	// 10 MB; those of cities, which do as well, 60 MB.
	maxSize = 256 << 20
)

// ErrUnknown says that the database has no country for an address.
var ErrUnknown = errors.New("the country of the address is not known")

// DB is the database at one path. Its methods may be called from any goroutine.
type DB struct {
	path string
	log  *slog.Logger

	// The reader is of bytes in memory, not of a mapped file: one that is
	// overwritten in place cannot fault, and the last reader frees an old one.
	current atomic.Pointer[maxminddb.Reader]
	failure atomic.Pointer[error]
	seen    os.FileInfo // of the last try; Open's and Run's alone
}

// Open reads the database at path. A file that is missing or damaged is no error
// here: lookups fail until there is a good one, and Err tells why.
func Open(path string, log *slog.Logger) *DB {
	d := &DB{path: path, log: log}
	d.check()
	return d
}

// Run looks for a newer file until ctx ends.
func (d *DB) Run(ctx context.Context) error {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.check()
		}
	}
}

// check reads the file if it is another one than at the last look. While it cannot
// be read, the database of before goes on.
func (d *DB) check() {
	info, err := os.Stat(d.path)
	if err == nil && d.seen != nil && os.SameFile(info, d.seen) && info.ModTime().Equal(d.seen.ModTime()) && info.Size() == d.seen.Size() {
		return
	}
	var r *maxminddb.Reader
	if err == nil {
		r, err = load(d.path)
		d.seen = info // also of a bad one, which is not read again and again
	} else {
		d.seen = nil
	}
	if err != nil {
		if last := d.failure.Swap(&err); last == nil || (*last).Error() != err.Error() {
			d.log.Warn("the database of countries cannot be used", "path", d.path, "err", err, "older one in use", d.current.Load() != nil)
		}
		return
	}
	d.current.Store(r)
	d.failure.Store(nil)
	d.log.Info("the database of countries was read", "path", d.path, "type", r.Metadata.DatabaseType, "built", r.Metadata.BuildTime())
}

func load(path string) (*maxminddb.Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d MB", path, maxSize>>20)
	}
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, err
	}
	// Half a file would answer wrong for some addresses, and only for those. Verify
	// of the library also wants texts that other makers leave out.
	for network := range r.Networks() {
		if err := network.Err(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Err tells why the file at the path is not in use, nil if it is.
func (d *DB) Err() error {
	if err := d.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Ready reports whether there is a database, be it an older one.
func (d *DB) Ready() bool { return d.current.Load() != nil }

// Country returns the country of an address as two upper-case letters
// (ISO 3166-1). It never waits.
func (d *DB) Country(addr netip.Addr) (string, error) {
	r := d.current.Load()
	if r == nil {
		return "", errors.New("there is no database of countries")
	}
	result := r.Lookup(addr)
	// MaxMind and DB-IP have the first form, IPinfo the others.
	for _, path := range [...][]any{{"country", "iso_code"}, {"country_code"}, {"country"}} {
		var code string
		if err := result.DecodePath(&code, path...); err == nil && len(code) == 2 {
			return strings.ToUpper(code), nil
		}
	}
	if err := result.Err(); err != nil {
		return "", err
	}
	return "", ErrUnknown
}
